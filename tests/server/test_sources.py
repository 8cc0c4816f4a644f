"""Calibrations of several sources in one bundle: who picks one, how, and what is counted."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet
import pytest
from tritonclient import grpc as tc
from tritonclient.utils import InferenceServerException

import oodguard
from oodguard.clients import AsyncClient, Client, ServerProblem
from oodguard.core.manifest import MANIFEST_FILE, Manifest, load_manifest
from oodguard.core.problems import Refused
from oodguard.load_tests.gateway import Gateway
from oodguard.server.recalibration import RecalibrateOptions, recalibrate
from tests.cli.terminal import call
from tests.server.test_recalibration import darkened

UNKNOWN = "unknown source 'cam9'; there are cam3"


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of a camera in the dark."""
    return darkened(tmp_path_factory.mktemp("cam3") / "trusted", seed=50_000)


@pytest.fixture(scope="module")
def both(bundle: Path, dark: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with the calibration of a source beside its own."""
    out = tmp_path_factory.mktemp("sources") / "discs"
    options = RecalibrateOptions(bundle=bundle, images=(str(dark),), source="cam3", out=out, sessions=1, threads=1)
    recalibrate(options, progress=lambda done, total: None)
    return out


@pytest.fixture(scope="module")
def running(both: Path) -> Iterator[Gateway]:
    """A server of that bundle, with a gRPC port."""
    with Gateway(both, "--sessions", "1", "--grpc-port", "0") as one:
        yield one


@pytest.fixture(scope="module")
def photo(dark: Path) -> Path:
    """A photo of the camera that its own thresholds accept and the bundle's own flag."""
    return sorted(dark.rglob("*.jpg"))[7]


def test_a_source_leaves_everything_else_as_it_was(bundle: Path, both: Path) -> None:
    before, after = load_manifest(bundle), load_manifest(both)
    assert (after.calibration, after.golden, after.files) == (before.calibration, before.golden, before.files)
    assert list(after.sources) == ["cam3"]
    assert [(done.source, done.from_version) for done in after.recalibrations] == [("cam3", "7")]
    assert after.thresholds(after.targets, source="cam3").fused > after.thresholds(after.targets).fused


def test_the_guard_judges_by_the_source_it_is_told(both: Path, photo: Path) -> None:
    with oodguard.load(both, sessions=1) as guard:
        own = guard.predict(photo)
        cam3 = guard.predict(photo, source="cam3")
        assert (own.source, own.predictions[0].is_ood) == (None, True)
        assert (cam3.source, cam3.predictions[0].is_ood) == ("cam3", False)
        assert own.predictions[0].ood_score == cam3.predictions[0].ood_score
        assert cam3.predictions[0].threshold == guard.thresholds(source="cam3").fused
        (streamed,) = guard.stream([photo], source="cam3")
        assert streamed.prediction == cam3.predictions[0].model_copy(update={"file": streamed.prediction.file})
        with pytest.raises(Refused, match=UNKNOWN):
            guard.predict(photo, source="cam9")


def test_a_bundle_without_sources_says_so(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    with pytest.raises(ValueError, match="unknown source 'cam3'; this bundle has no sources"):
        manifest.thresholds(manifest.targets, source="cam3")


def test_a_request_names_its_source_by_parameter_or_header(running: Gateway, photo: Path) -> None:
    def ask(query: str = "", **headers: str) -> httpx.Response:
        headers |= {"content-type": "image/jpeg"}
        return httpx.post(f"{running.url}/predict{query}", content=photo.read_bytes(), headers=headers)

    def flags(reply: httpx.Response) -> tuple[str | None, bool]:
        return reply.json().get("source"), reply.json()["predictions"][0]["is_ood"]

    before = running.metrics()
    assert flags(ask()) == (None, True)
    assert flags(ask("?source=cam3")) == ("cam3", False)
    assert flags(ask(**{"x-oodguard-source": "cam3"})) == ("cam3", False)
    assert flags(ask(**{"x-oodguard-source": ""})) == (None, True)
    # The parameter wins, so the header's name is never looked up.
    assert flags(ask("?source=cam3", **{"x-oodguard-source": "cam9"})) == ("cam3", False)
    for refused in (ask("?source=cam9"), ask(**{"x-oodguard-source": "cam9"})):
        assert (refused.status_code, refused.json()["code"], refused.json()["detail"]) == (
            422, "bad_parameter", UNKNOWN,
        )  # fmt: skip
    assert "must be one name" in ask("?source=cam3&source=cam3").json()["detail"]
    found = running.metrics()
    assert "cam9" not in found

    def grown(series: str) -> float:
        return value(found, series) - value(before, series)

    assert grown('oodguard_source_percentile_count{source="default"}') == 2
    assert grown('oodguard_source_percentile_count{source="cam3"}') == 3
    assert grown('oodguard_source_flags_total{source="default"}') == 2
    assert grown('oodguard_source_flags_total{source="cam3"}') == 0


def value(metrics: str, series: str) -> float:
    return next(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(series + " "))


def test_clients_pass_the_source_on(running: Gateway, photo: Path) -> None:
    with Client(running.url) as client:
        assert client.predict(photo, source="cam3").source == "cam3"
        assert [r.prediction and r.prediction.is_ood for r in client.stream([photo], source="cam3")] == [False]
        with pytest.raises(ServerProblem, match=UNKNOWN):
            client.predict(photo, source="cam9")

    async def ask() -> None:
        async with AsyncClient(running.url) as client:
            assert (await client.predict(photo, source="cam3")).source == "cam3"
            found = [r async for r in client.stream([photo], source="cam3")]
            assert [r.prediction and r.prediction.is_ood for r in found] == [False]

    asyncio.run(ask())


def test_the_open_inference_protocol_takes_a_source(running: Gateway, photo: Path) -> None:
    data = base64.b64encode(photo.read_bytes()).decode()

    def ask(header: str | None = None, **parameters: object) -> httpx.Response:
        message = {
            "parameters": parameters,
            "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [data]}],
        }
        headers = {} if header is None else {"x-oodguard-source": header}
        return httpx.post(f"{running.url}/v2/models/discs/infer", json=message, headers=headers)

    def is_ood(reply: httpx.Response) -> bool:
        return {o["name"]: o["data"] for o in reply.json()["outputs"]}["is_ood"][0]

    assert [is_ood(ask()), is_ood(ask(source="cam3")), is_ood(ask("cam3"))] == [True, False, False]
    assert not is_ood(ask("cam9", source="cam3"))
    assert UNKNOWN in ask(source="cam9").json()["error"]
    assert "the parameter source is a text" in ask(source=3).json()["error"]


def test_grpc_takes_a_source(running: Gateway, photo: Path) -> None:
    client = tc.InferenceServerClient(running.rpc)
    given = tc.InferInput("image", [1], "BYTES")
    given.set_data_from_numpy(np.array([photo.read_bytes()], dtype=object))

    def is_ood(**how: object) -> bool:
        return bool(client.infer("discs", [given], **how).as_numpy("is_ood")[0])

    assert [is_ood(), is_ood(parameters={"source": "cam3"})] == [True, False]
    assert not is_ood(headers={"x-oodguard-source": "cam3"})
    with pytest.raises(InferenceServerException, match=UNKNOWN):
        is_ood(parameters={"source": "cam9"})
    client.close()


def test_images_are_scored_by_the_calibration_of_a_source(
    both: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def scored(name: str, *flags: str) -> tuple[bool, dict[bytes, bytes]]:
        assert call(capsys, "score", both, photo, "--out", tmp_path / name, "--sessions", "1", *flags)[0] == 0
        table = pyarrow.parquet.read_table(tmp_path / name)
        return table["is_ood"][0].as_py(), table.schema.metadata

    assert scored("own.parquet")[0]
    is_ood, about = scored("cam3.parquet", "--calibration", "cam3")
    assert not is_ood
    assert about[b"oodguard.calibration"] == b"cam3"
    code, _, error = call(capsys, "score", both, photo, "--out", tmp_path / "x.parquet", "--calibration", "cam9")
    assert (code, UNKNOWN in error) == (2, True)


def test_what_a_manifest_may_not_hold(both: Path, tmp_path: Path) -> None:
    raw = json.loads((both / MANIFEST_FILE).read_text())
    calibration = raw["sources"]["cam3"]

    def refused(sentence: str, **changed: object) -> None:
        with pytest.raises(ValueError, match=sentence):
            Manifest.model_validate({**raw, **changed})

    refused("a source may not be called default", sources={"default": calibration})
    refused("string_pattern_mismatch|should match pattern", sources={"cam 3": calibration})
    refused("at most 64", sources={f"cam{n}": calibration for n in range(65)})
    refused(r"accept must be above 0 and at most 0.98", targets={**raw["targets"], "accept": 0.985})


def test_a_source_is_renewed_against_its_own_thresholds(both: Path, dark: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(both, tmp_path / "discs"))
    options = RecalibrateOptions(bundle=copy, images=(str(dark),), source="cam3", sessions=1, threads=1)
    found = recalibrate(options, progress=lambda done, total: None)
    assert found.accepted >= 0.95
    assert found.manifest.sources["cam3"] == load_manifest(both).sources["cam3"]
    assert [(done.source, done.from_version) for done in found.manifest.recalibrations] == [("cam3", "8")]
