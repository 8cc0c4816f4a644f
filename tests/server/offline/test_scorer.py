"""From items to rows, on the fake engine: order, failures of the engine, and the ledger's promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from oodguard.core.errors import EnvironmentProblem, FormatError, InputError
from oodguard.core.files import file_sha256
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.core.preprocessing import ImageLimits
from oodguard.core.targets import Targets
from oodguard.core.verdict import Outputs
from oodguard.server.engines.base import Batch
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.errors import EngineError, EngineUnavailable
from oodguard.server.offline.items import Item
from oodguard.server.offline.ledger import Ledger, Purpose
from oodguard.server.offline.scorer import Scorer, ScoreTally, Spec
from oodguard.server.offline.sources import Source
from oodguard.server.tuning import EnginePlan


class Brittle(FakeEngine):
    """Returns NaN for a whole batch as soon as one of its images is black; black alone, too."""

    async def infer(self, images: Batch) -> Outputs:
        outputs = await super().infer(images)
        if (images.reshape(len(images), -1).max(axis=1) == 0).any():
            outputs = Outputs(probabilities=outputs.probabilities * np.float32(np.nan), scores=outputs.scores)
        return outputs


@pytest.fixture
def spec(bundle: Path, tmp_path: Path) -> Spec:
    return Spec(
        bundle=bundle,
        bundle_sha256=file_sha256(bundle / MANIFEST_FILE),
        plan=EnginePlan(sessions=2, threads=1, max_batch=3),
        base=tmp_path,
        limits=ImageLimits(),
        targets=Targets(accept=0.9),
    )


@pytest.fixture
def score(spec: Spec) -> Callable[..., list[dict[str, object]]]:
    """Rows of some items on a fake engine, in parts of seven."""

    def run(items: list[Item], engine: FakeEngine) -> list[dict[str, object]]:
        kept: dict[int, pa.Table] = {}
        tallies: list[ScoreTally] = []
        parts = [(n, items[n * 7 : n * 7 + 7]) for n in range(-(-len(items) // 7))]
        with Scorer(spec, engine=engine) as scorer:
            scorer.run(parts, keep=kept.__setitem__, scored=tallies.append)
        rows = [row for number in sorted(kept) for row in kept[number].to_pylist()]
        assert sum(tally.images for tally in tallies) == len(rows)
        assert sum(tally.flagged for tally in tallies) == sum(bool(row["is_ood"]) for row in rows)
        return rows

    return run


def write(folder: Path, image: Callable[[int], bytes], count: int) -> list[Item]:
    for number in range(count):
        (folder / f"{number}.png").write_bytes(image(number))
    return [Item(f"{number}.png") for number in range(count)]


def test_rows_are_in_order_and_bad_images_keep_their_places(
    tmp_path: Path, image: Callable[[int], bytes], fake: FakeEngine, score: Callable[..., list[dict[str, object]]]
) -> None:
    items = write(tmp_path, image, 23)
    (tmp_path / "4.png").write_bytes(b"junk")
    items[9] = Item("nowhere.png")
    items[16] = Item("a.tar", "tar", "x.jpg", code="unsafe_path", message="why")
    rows = score(items, fake)
    assert [row["path"] for row in rows] == [item.path for item in items]
    codes = {index: row["error_code"] for index, row in enumerate(rows) if row["error_code"]}
    assert codes == {4: "unsupported_type", 9: "not_found", 16: "unsafe_path"}
    assert rows[16]["error_detail"] == "why"
    assert all((row["label"] is None) == (index in codes) for index, row in enumerate(rows))
    # Batches never reach over a part's end, and are what is left of three images.
    assert sorted(fake.seen) == sorted([3, 2, 1, 2, 3, 1, 2, 3, 1, 2])


def test_one_image_on_which_the_graph_fails_costs_nobody_else(
    bundle: Path, tmp_path: Path, image: Callable[[int], bytes], score: Callable[..., list[dict[str, object]]]
) -> None:
    items = write(tmp_path, image, 10)
    rows = score(items, Brittle(bundle, load_manifest(bundle)))
    assert [row["error_code"] for row in rows] == ["engine_failed"] + [None] * 9  # image 0 is black
    assert rows[0]["error_detail"] == "the graph returned a number that is not finite"


def test_a_batch_that_fails_once_is_tried_again(
    tmp_path: Path, image: Callable[[int], bytes], fake: FakeEngine, score: Callable[..., list[dict[str, object]]]
) -> None:
    fake.fail_next = True
    rows = score(write(tmp_path, image, 5), fake)
    assert [row["error_code"] for row in rows] == [None] * 5


def test_an_engine_that_is_gone_ends_the_run(
    bundle: Path,
    tmp_path: Path,
    image: Callable[[int], bytes],
    fake: FakeEngine,
    score: Callable[..., list[dict[str, object]]],
) -> None:
    items = write(tmp_path, image, 5)
    with pytest.raises(EngineError, match="failed on every image"):
        score([items[0]] * 5, Brittle(bundle, load_manifest(bundle)))
    asyncio.run(fake.close())
    with pytest.raises(EngineUnavailable):
        score(items, fake)


def test_a_bundle_that_was_replaced_is_refused(spec: Spec) -> None:
    with pytest.raises(FormatError, match="not the bundle the run began with"):
        Scorer(spec.model_copy(update={"bundle_sha256": "0" * 64}))


# The ledger


@pytest.fixture
def purpose() -> Purpose:
    return Purpose(
        bundle="discs version 7", bundle_sha256="0" * 64, source="photos", targets=Targets(), engine="onnxruntime",
        device="auto", threads=1, batch=8, part_size=4, max_image_bytes=100, max_pixels=100,
    )  # fmt: skip


def rows_of(items: list[Item]) -> pa.Table:
    return pa.table({"path": [item.path for item in items]})


def test_parts_that_are_whole_are_finished_and_others_are_not(tmp_path: Path, purpose: Purpose) -> None:
    (tmp_path / "l.txt").write_text("\n".join(f"{n}.jpg" for n in range(10)))
    out = tmp_path / "r.parquet"

    def source() -> Source:
        return Source("l.txt", base=tmp_path, max_bytes=100)

    with Ledger(out, purpose, restart=False) as ledger:
        ledger.prepare(source, tmp_path, listed=lambda _: None)
        assert (ledger.parts, [ledger.size(part) for part in range(3)], ledger.finished()) == (3, [4, 4, 2], set())
        for part, items in ledger.items({0, 1, 2}):
            ledger.keep(part, rows_of(items))
        with pytest.raises(EnvironmentProblem, match="another oodguard score"), Ledger(out, purpose, restart=False):
            pass
    folder = tmp_path / "r.parquet.parts"
    (folder / "part-00000001.parquet").write_bytes(b"PAR1 torn")
    (folder / "part-00000002.parquet").rename(folder / "part-00000002.partial")
    (folder / "somebody's").write_text("kept")
    with Ledger(out, purpose, restart=False) as ledger:
        ledger.prepare(source, tmp_path, listed=lambda _: None)
        assert ledger.finished() == {0}
        pending = dict(ledger.items({1, 2}))
        assert [item.path for item in pending[1]] == ["4.jpg", "5.jpg", "6.jpg", "7.jpg"]
        for part, items in pending.items():
            ledger.keep(part, rows_of(items))
        assert pa.concat_tables(ledger.tables())["path"].to_pylist() == [f"{n}.jpg" for n in range(10)]
        ledger.remove()
    assert [path.name for path in folder.iterdir()] == ["somebody's"]


def test_a_run_goes_on_only_as_it_began(tmp_path: Path, purpose: Purpose) -> None:
    (tmp_path / "l.txt").write_text("0.jpg\n")
    out = tmp_path / "r.parquet"

    def begin(purpose: Purpose, *, restart: bool = False) -> None:
        with Ledger(out, purpose, restart=restart) as ledger:
            ledger.prepare(lambda: Source("l.txt", base=tmp_path, max_bytes=9), tmp_path, listed=lambda _: None)

    begin(purpose)
    begin(purpose)
    for said, change in (
        ("bundle sha256", {"bundle_sha256": "1" * 64}),
        ("accept", {"targets": Targets(accept=0.9)}),
        ("confidence", {"targets": Targets(confidence=0.9)}),
        ("coverage", {"targets": Targets(coverage=0.8)}),
        ("max error", {"targets": Targets(max_error=0.1)}),
        ("batch", {"batch": 4}),
        ("source", {"source": "elsewhere"}),
    ):
        with pytest.raises(InputError, match=f"another {said} .*--restart"):
            begin(purpose.model_copy(update=change))
    (tmp_path / "l.txt").write_text("0.jpg\n1.jpg\n")
    with pytest.raises(InputError, match=r"l.txt has changed .*--restart"):
        begin(purpose)
    begin(purpose.model_copy(update={"targets": Targets(accept=0.9)}), restart=True)
    state = tmp_path / "r.parquet.parts" / "state.json"
    state.write_text(state.read_text().replace('"schema_version": 4', '"schema_version": 3'))
    with pytest.raises(InputError, match="not written by this version"):
        begin(purpose)


def test_a_source_without_images_leaves_nothing_behind(tmp_path: Path, purpose: Purpose) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.tar").write_bytes(b"x" * 600)
    for name, why in (("empty", "no image"), ("bad.tar", "no image to score in .*: the archive is damaged")):
        with pytest.raises(InputError, match=why), Ledger(tmp_path / "r.csv", purpose, restart=False) as ledger:
            ledger.prepare(lambda name=name: Source(name, base=tmp_path, max_bytes=9), tmp_path, listed=lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tar", "empty"]
