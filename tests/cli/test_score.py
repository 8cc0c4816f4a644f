"""`oodguard score`: the same rows from every kind of source, here and on Ray, also after an interruption."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from oodguard.cli.main import run as command
from oodguard.core.formats import DEFAULT_FORMATS
from oodguard.core.manifest import load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.export.graph import run_graph, session
from oodguard.server.offline.options import ScoreOptions
from oodguard.server.recalibration import RecalibrateOptions
from oodguard.training.backbone.features import TRAINING_LIMITS
from tests.nearby import Nearby

FLAGS = ["--part-size", "16", "--batch", "4"]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = command([str(a) for a in arguments])
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    return code, " ".join(out.out.split()), " ".join(out.err.split())


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def verdicts(path: Path) -> list[dict[str, Any]]:
    """Rows without the names they were found under."""
    return [{k: v for k, v in row.items() if k not in ("path", "member")} for row in rows(path)]


@pytest.fixture(scope="module")
def mixed(photos: Path, strangers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of known and unknown things, with bad files between them."""
    folder = tmp_path_factory.mktemp("mixed") / "photos"
    shutil.copytree(photos / "test", folder)
    shutil.copytree(strangers / "noise", folder / "noise")
    (folder / "amber" / "003-junk.jpg").write_bytes(b"junk")
    (folder / "jade" / "empty.png").write_bytes(b"")
    whole = (folder / "plum" / "000.jpg").read_bytes()
    (folder / "plum" / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def expected(bundle: Path, mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted result of `mixed`."""
    out = tmp_path_factory.mktemp("expected") / "r.parquet"
    assert command(["score", str(bundle), str(mixed), "--out", str(out), *FLAGS]) == 1
    return out


def test_rows_are_the_graphs_verdicts_and_bad_files_are_rows(
    capsys: pytest.CaptureFixture[str], bundle: Path, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "r.parquet"
    code, text, _ = call(capsys, "score", bundle, mixed, "--out", out, "--accept", "0.9")
    assert code == 1
    assert "60 images" in text
    assert "3 could not be used: cannot_decode 1, empty 1, unsupported_type 1" in text
    assert "other files, passed over: 1" in text
    assert "images/s (onnxruntime on cpu" in text
    assert [path.name for path in out.parent.iterdir()] == ["r.parquet"]
    found = rows(out)
    paths = sorted(p for p in mixed.rglob("*") if p.suffix in (".jpg", ".png"))
    assert [row["path"] for row in found] == [str(p) for p in paths]
    assert {Path(row["path"]).name: row["error_code"] for row in found if row["error_code"]} == {
        "003-junk.jpg": "unsupported_type",
        "empty.png": "empty",
        "torn.jpg": "cannot_decode",
    }
    manifest = load_manifest(bundle)
    good = [row for row in found if not row["error_code"]]
    pixels = np.stack([load_pixels(Path(row["path"]).read_bytes(), manifest.preprocessing) for row in good])
    outputs = run_graph(session((bundle / manifest.graph).read_bytes()), pixels)
    for row, verdict in zip(good, manifest.judge(outputs, targets=manifest.targets.but(accept=0.9)), strict=True):
        assert (row["label"], row["is_ood"]) == (verdict.label, verdict.is_ood)
        assert row["probability"] == pytest.approx(verdict.probability, rel=1e-6)
        # Another batch size changes last digits, which distances and the fused score multiply.
        assert row["ood_score"] == pytest.approx(verdict.ood_score, rel=1e-4, abs=1e-6)
        assert row["percentile"] == pytest.approx(verdict.percentile, abs=1e-3)
        for name, score in verdict.scores.items():
            assert row[f"{name}_value"] == pytest.approx(score.value, rel=1e-4, abs=1e-5)
            assert row[f"{name}_is_ood"] == score.is_ood
    assert sum(row["is_ood"] for row in good if "noise" in row["path"]) == 12
    about = {key.decode(): value.decode() for key, value in pq.read_schema(out).metadata.items()}
    assert about["oodguard.bundle.name"] == "discs"
    assert about["oodguard.bundle.version"] == "7"
    assert len(about["oodguard.bundle.sha256"]) == 64
    assert about["oodguard.accept"] == "0.9"
    assert (
        json.loads(about["oodguard.thresholds"])["ood_score"]
        == manifest.thresholds(manifest.targets.but(accept=0.9)).fused
    )


def test_every_kind_of_source_gives_the_same_rows(
    capsys: pytest.CaptureFixture[str], bundle: Path, mixed: Path, expected: Path, tmp_path: Path
) -> None:
    paths = [Path(row["path"]) for row in rows(expected)]
    (tmp_path / "all.txt").write_text("\n".join(map(str, paths)))
    names = [str(path.relative_to(mixed)) for path in paths]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        for path, name in zip(paths, names, strict=True):
            packed.write(path, name)
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as tar:
        for path, name in zip(paths, names, strict=True):
            tar.add(path, name)
    for number in range(3):
        with tarfile.open(tmp_path / f"s-{number}.tar", "w") as tar:
            for index, path in enumerate(paths[number * 20 : number * 20 + 20]):
                tar.add(path, f"{index:06}.{path.suffix[1:]}")
                label = tarfile.TarInfo(f"{index:06}.cls")
                label.size = 1
                tar.addfile(label, io.BytesIO(b"0"))
    for source in ("all.txt", "all.zip", "all.tar.gz", "s-{0..2}.tar", "s-*.tar"):
        out = tmp_path / "r.parquet"
        code, _, err = call(
            capsys, "score", bundle, tmp_path / source, "--out", out, "--overwrite", *FLAGS, "--workers", "5"
        )
        assert code == 1, err
        assert verdicts(out) == verdicts(expected), source
        if source != "all.txt":
            assert rows(out)[0]["member"] == ("000000.jpg" if "s-" in source else names[0])


def test_csv_and_json_lines_hold_the_same(
    capsys: pytest.CaptureFixture[str], bundle: Path, mixed: Path, expected: Path, tmp_path: Path
) -> None:
    for name in ("r.csv", "r.jsonl"):
        assert call(capsys, "score", bundle, mixed, "--out", tmp_path / name, *FLAGS)[0] == 1
        assert json.loads((tmp_path / f"{name}.meta.json").read_text())["oodguard.bundle.name"] == "discs"
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert lines == rows(expected)
    with (tmp_path / "r.csv").open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert [(row["path"], row["label"], row["error_code"]) for row in found] == [
        (row["path"], row["label"] or "", row["error_code"] or "") for row in rows(expected)
    ]


def test_limits_are_those_of_training_and_a_refusal_names_the_option_that_lets_the_image_in(
    capsys: pytest.CaptureFixture[str], bundle: Path, photos: Path, tmp_path: Path
) -> None:
    given = ScoreOptions(bundle=bundle, source="photos", out=tmp_path / "r.parquet")
    assert given.limits == TRAINING_LIMITS.model_copy(update={"formats": DEFAULT_FORMATS})
    assert RecalibrateOptions(bundle=bundle, images=("photos",)).limits == TRAINING_LIMITS
    image = photos / "test" / "amber" / "000.jpg"
    for flag, code in (
        ("--max-image-bytes", "too_many_bytes"),
        ("--max-pixels", "too_many_pixels"),
        ("--max-decode-work", "too_much_work"),
    ):
        out = tmp_path / f"{code}.jsonl"
        status, text, _ = call(capsys, "score", bundle, image, "--out", out, flag, "100")
        assert status == 1
        assert f"limits refused some of them; to use these, raise {flag} 1 scored" in text
        row = json.loads(out.read_text())
        assert row["error_code"] == code
        assert row["error_detail"].endswith(f"; to use it, raise {flag}")


def test_a_whole_set_of_few_grey_levels_is_a_warning_and_scored_all_the_same(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    """What a camera of 12 bits keeps in 16 is nearly black."""
    folder = tmp_path / "raw"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 12, (72, 72), dtype=np.uint8)).save(folder / f"{number}.png")
    code, text, _ = call(capsys, "score", bundle, folder, "--out", tmp_path / "r.jsonl")
    assert code == 0
    assert "warning: 4 images looked at have 12 grey levels together, from 0 to 11 of 0 to 255" in text
    Image.fromarray(rng.integers(0, 256, (72, 72), dtype=np.uint8)).save(folder / "4.png")
    code, text, _ = call(capsys, "score", bundle, folder, "--out", tmp_path / "s.jsonl")
    assert code == 0
    assert "warning" not in text


def begin(bundle: Path, source: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """A run in a process of its own, which steps back for the test that is to stop it in time."""
    arguments = ["score", str(bundle), str(source), "--out", str(out), *FLAGS, *more]
    # As from a terminal: shells have what they start in the background ignore SIGINT, and whatever that starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            ["nice", "-n", "10", sys.executable, "-m", "oodguard.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt(process: subprocess.Popen[str], out: Path, how: signal.Signals) -> tuple[int, str]:
    """Stop a run as soon as it has finished a part."""
    deadline = time.monotonic() + 60
    folder = out.with_name(out.name + ".parts")
    while not list(folder.glob("part-*.parquet")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(how)
    text, _ = process.communicate(timeout=60)
    return process.returncode, " ".join(text.split())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_goes_on_where_it_was(
    capsys: pytest.CaptureFixture[str], bundle: Path, mixed: Path, tmp_path: Path, how: signal.Signals
) -> None:
    paths = sorted(str(p) for p in mixed.rglob("*") if p.suffix in (".jpg", ".png"))
    source = tmp_path / "many.txt"
    source.write_text("\n".join(paths * 20))
    out, whole = tmp_path / "r.parquet", tmp_path / "whole.parquet"
    code, text = interrupt(begin(bundle, source, out), out, how)
    assert code == (-how if how == signal.SIGKILL else 130)
    if how == signal.SIGINT:
        assert "give the same command again to continue" in text
        assert "Traceback" not in text
    assert not out.exists()
    finished = {p: p.stat().st_mtime_ns for p in tmp_path.glob("r.parquet.parts/part-*.parquet")}
    for arguments, sentence in (
        (["--accept", "0.9"], "another accept (0.95; now 0.9)"),
        (["--max-pixels", "9999"], "another max pixels (400000000; now 9999)"),
    ):
        code, _, err = call(capsys, "score", bundle, source, "--out", out, *FLAGS, *arguments)
        assert code == 2
        assert sentence in err
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    code, text, err = call(capsys, "score", bundle, source, "--out", out, *FLAGS)
    assert code == 1
    done = 16 * len(finished)
    assert f"continuing: {done:,} of 1,200 images are done" in err
    assert f"{1200 - done:,} scored in" in text
    assert call(capsys, "score", bundle, source, "--out", whole, *FLAGS)[0] == 1
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["many.txt", "r.parquet", "whole.parquet"]


def test_two_ray_workers_give_the_very_same_file(bundle: Path, mixed: Path, expected: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.parquet"
    process = begin(bundle, mixed, out, "--ray", "local", "--ray-workers", "2")
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 1, text
    assert "on Ray, 2 workers of 1 x 1 threads" in " ".join(text.split())
    assert out.read_bytes() == expected.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["r.parquet"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nowhere"], 2, "nowhere does not exist"),
        (["http://example.com/a.tar"], 2, "nothing is fetched from a network"),
        (["."], 2, "no image to score"),
        (["bad.zip"], 2, "no image to score in"),
        ([".", "--accept", "0.99999"], 2, "at most"),
        ([".", "--out", "r.xlsx"], 2, "must end in .parquet, .csv, .jsonl"),
        ([".", "--out", "there.csv"], 2, "there.csv exists"),
        ([".", "--part-size", "0"], 2, "--part-size"),
        ([".", "--ray", "ray://head:10001"], 2, "Ray Data needs a node"),
        (["one.png", "--ray", "127.0.0.1:9"], 3, "no Ray answers at 127.0.0.1:9"),
    ],
)
def test_mistakes_are_one_sentence(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    strangers: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "bad.zip").write_bytes(b"PK\x05\x06junk")
    before = sorted(tmp_path.iterdir())
    if arguments[0] == "one.png":
        shutil.copy(strangers / "noise" / "0.png", "one.png")
    out = [] if "--out" in arguments else ["--out", "r.parquet"]
    found, _, err = call(capsys, "score", bundle, *arguments, *out)
    assert found == code, err
    assert sentence in err
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert code == 3 or sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("missing", "more"), [("pyarrow", []), ("ray", ["--ray", "local"])])
def test_a_missing_extra_is_named(bundle: Path, strangers: Path, tmp_path: Path, missing: str, more: list[str]) -> None:
    arguments = ["score", str(bundle), str(strangers), "--out", str(tmp_path / "r.parquet"), *more]
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from oodguard.cli.main import run; sys.exit(run({arguments!r}))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    extra = {"pyarrow": "score", "ray": "ray"}[missing]
    assert ran.returncode == 3, ran.stderr
    assert f"pip install 'oodguard[{extra}]'" in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr


def test_explained_rows_name_the_nearest_photos(
    capsys: pytest.CaptureFixture[str], bundle: Path, mixed: Path, expected: Path, nearby: Nearby, tmp_path: Path
) -> None:
    out = tmp_path / "r.parquet"
    assert call(capsys, "score", bundle, mixed, "--out", out, *FLAGS, "--explain")[0] == 1
    found = rows(out)
    added = ["decided_by"] + [
        f"neighbour{place}_{what}" for place in (1, 2, 3) for what in ("label", "distance", "sha256")
    ]
    assert [name for name in found[0] if name not in rows(expected)[0]] == added
    assert [{k: v for k, v in row.items() if k not in added} for row in found] == rows(expected)
    for row in found:
        if row["error_code"]:
            assert {row[name] for name in added} == {None}
    good = [row for row in found if not row["error_code"]][::6]
    by_hash = dict(zip(nearby.run.bank.sha256, nearby.own, strict=True))
    for row, distances in zip(good, nearby.distances([Path(row["path"]).read_bytes() for row in good]), strict=True):
        nearest = np.argsort(distances, kind="stable")[:3]
        assert [row[f"neighbour{place}_sha256"] for place in (1, 2, 3)] == [
            nearby.run.bank.sha256[place] for place in nearest
        ]
        assert [row[f"neighbour{place}_distance"] for place in (1, 2, 3)] == pytest.approx(distances[nearest], abs=1e-4)
        assert row["neighbour1_label"] == by_hash[row["neighbour1_sha256"]].label
        assert row["decided_by"] in ("confidence", "density")
    # Strangers are far from all photos: density decides.
    assert {row["decided_by"] for row in found if "noise" in row["path"]} == {"density"}


def test_a_parquet_file_of_images_gives_the_rows_of_the_photos(
    capsys: pytest.CaptureFixture[str], bundle: Path, mixed: Path, tmp_path: Path
) -> None:
    """The verdicts of a Hugging Face data set are those of its files; missing bytes are named by row."""
    paths = sorted(path for path in mixed.rglob("*") if path.suffix in (".jpg", ".png"))[:12]
    cells: list[object] = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    cells[5] = {"bytes": None, "path": "gone.jpg"}
    data = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"image": cells, "label": list(range(12))}), data, row_group_size=5)
    call(capsys, "score", bundle, data, "--out", tmp_path / "a.parquet", *FLAGS)
    listed = tmp_path / "all.txt"
    # So that batches hold the same images.
    absent = [*paths[:5], tmp_path / "absent.jpg", *paths[6:]]
    listed.write_text("".join(f"{path}\n" for path in absent))
    call(capsys, "score", bundle, listed, "--out", tmp_path / "b.parquet", *FLAGS)
    found, right = rows(tmp_path / "a.parquet"), rows(tmp_path / "b.parquet")
    assert [row["member"] for row in found] == [
        f"row {number}: {'gone.jpg' if number == 5 else path.name}" for number, path in enumerate(paths)
    ]
    assert found[5]["error_code"] == "empty"
    assert "row 5 has no bytes in its image" in found[5]["error_detail"]
    for number in set(range(12)) - {5}:
        assert {**found[number], "path": "", "member": ""} == {**right[number], "path": "", "member": ""}
