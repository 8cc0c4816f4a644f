"""The measured search, its record, and which plan is served with; the OpenVINO engine beside ONNX Runtime."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from oodguard.core.allowance import cores
from oodguard.core.errors import FormatError
from oodguard.core.files import file_sha256
from oodguard.core.manifest import FileRef, load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.server.engines.openvino import OpenVinoEngine
from oodguard.server.engines.registry import build_engine
from oodguard.server.errors import EngineUnavailable
from oodguard.server.search import candidates, search
from oodguard.server.settings import ServeSettings
from oodguard.server.tuning import DEFAULT_BATCH, TUNING_FILE, EnginePlan, plan_for, read_record


def test_candidates_share_the_cores_in_every_way() -> None:
    plans = candidates(("onnxruntime",), 4)
    assert {(plan.sessions, plan.threads) for plan in plans} == {(4, 1), (2, 2), (1, 4)}
    assert len({plan.max_batch for plan in plans}) * 3 == len(plans)


def test_the_record_is_used_where_it_fits_and_flags_win(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    manifest = load_manifest(folder)
    settings = ServeSettings(bundle=folder)
    usual = EnginePlan(sessions=cores(), threads=1, max_batch=DEFAULT_BATCH)
    assert plan_for(settings, manifest) == usual
    record = search(folder, engines=("onnxruntime",), seconds=0.5)
    assert len(record.trials) == len(candidates(("onnxruntime",), cores()))
    assert all(trial.images_per_second > 0 for trial in record.trials)
    fastest = max(trial.images_per_second for trial in record.trials)
    chosen = next(
        t for t in record.trials if t.model_dump(include=set(EnginePlan.model_fields)) == record.best.model_dump()
    )
    assert chosen.images_per_second > 0.9 * fastest
    other = record.model_copy(update={"best": EnginePlan(sessions=1, threads=2, max_batch=16)})
    (folder / TUNING_FILE).write_text(other.model_dump_json())
    assert plan_for(settings, manifest) == other.best
    assert plan_for(ServeSettings(bundle=folder, max_batch=3), manifest).max_batch == 3
    foreign = other.model_copy(update={"machine": "another"})
    (folder / TUNING_FILE).write_text(foreign.model_dump_json())
    assert plan_for(settings, manifest) == usual
    with pytest.raises(FormatError, match="another graph or machine"):
        plan_for(ServeSettings(bundle=folder, tuning=folder / TUNING_FILE), manifest)
    greedy = other.model_copy(update={"best": EnginePlan(sessions=64, threads=256, max_batch=1)})
    (folder / TUNING_FILE).write_text(greedy.model_dump_json())
    with pytest.raises(FormatError, match="more threads than this machine has cores"):
        plan_for(settings, manifest)
    huge = record.model_dump(mode="json") | {"best": {"sessions": 10**9, "threads": 1, "max_batch": 8}}
    for absurd in ("{}", json.dumps(huge), "[" * 100_000, " " * 2**21):
        (folder / TUNING_FILE).write_text(absurd)
        with pytest.raises(FormatError, match=r"not a tuning record|longer than"):
            read_record(folder / TUNING_FILE)
    (folder / TUNING_FILE).write_text("{}")
    with pytest.raises(FormatError, match="not a tuning record"):
        read_record(folder / TUNING_FILE)


@pytest.mark.parametrize("sessions", [1, 2])
def test_openvino_answers_as_onnx_runtime_does(bundle: Path, sessions: int) -> None:
    manifest = load_manifest(bundle)
    images = np.stack([load_pixels((bundle / g.path).read_bytes(), manifest.preprocessing) for g in manifest.golden])
    plan = EnginePlan(engine="openvino", sessions=sessions, threads=1, max_batch=8)

    async def answers() -> Any:
        engine = build_engine(bundle, manifest, plan)
        try:
            found = await asyncio.gather(*(engine.infer(images[: 1 + i]) for i in range(5)), engine.infer(images))
        finally:
            await engine.close()
        with pytest.raises(EngineUnavailable):
            await engine.infer(images)
        return found

    *parts, whole = asyncio.run(answers())
    assert [len(part.scores) for part in parts] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(parts[4].probabilities, whole.probabilities[:5], atol=1e-5)
    errors = manifest.calibration.score_errors([g.scores for g in manifest.golden], whole.scores)
    assert float(errors.max()) <= manifest.parity.tolerance
    for verdict, golden in zip(manifest.judge(whole), manifest.golden, strict=True):
        assert (verdict.label, verdict.is_ood) == (golden.label, golden.is_ood)


def test_openvino_refuses_what_is_no_graph(bundle: Path, tmp_path: Path) -> None:
    # An ONNX model of another kind, whose hash the manifest has.
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Nothing", ["x"], ["y"])], "g", rows[:1], rows[1:])
    other = helper.make_model(graph)
    (tmp_path / "model.onnx").write_bytes(other.SerializeToString())
    manifest = load_manifest(bundle)
    ref = FileRef(path="model.onnx", bytes=1, sha256=file_sha256(tmp_path / "model.onnx"))
    files = (ref, *(one for one in manifest.files if one.path != "model.onnx"))
    with pytest.raises(FormatError, match="cannot be loaded by OpenVINO"):
        OpenVinoEngine(tmp_path, manifest.model_copy(update={"files": files}))


def test_a_server_runs_on_openvino(start: Any, golden: list[bytes]) -> None:
    client = start(settings_engine="openvino")
    assert client.parts.serving.model.engine.name == "openvino"
    assert client.get("/health/ready").status_code == 200
    answer = client.post("/predict", content=golden[0], headers={"content-type": "image/jpeg"})
    assert answer.json()["predictions"][0]["label"] == client.parts.serving.model.manifest.golden[0].label
