"""Decisions, label sets and confident thresholds on every route, by a calibration made by hand."""

from __future__ import annotations

import base64
import csv
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

import oodguard
from oodguard.cli.main import run as command
from oodguard.clients import Client
from oodguard.core.curve import confident_level
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.load_tests.gateway import Gateway

CLASSES = ("amber", "jade", "plum")
# By hand, of 39 photos: 19 are right with a chance of 1, 20 wrong with one of 0.1. So 1 in 20 is wrong at a chance of
# 1, one more counted, and 21 in 40 of all. The true class of 20 has a nonconformity of 0, so cuts are 0 up to a
# coverage of 20 / 40, and every class is in the set beyond 39 / 40.
PHOTOS = {
    "fused": [-100.0] * 39,
    "chance": [1.0] * 19 + [0.1] * 20,
    "right": [True] * 19 + [False] * 20,
    "nonconformity": [0.0] * 20 + [1.0] * 19,
    "weight": [1.0] * 39,
}
STRICT = {"coverage": 0.98, "max_error": 0.05}
LOOSE = {"coverage": 0.5, "max_error": 0.525}
# What is said of an image that is in distribution: the decision, and how many labels.
SAID = {"strict": ("unsure", 3), "loose": ("answer", 1)}
ASKED = pytest.mark.parametrize(("targets", "said"), [(STRICT, SAID["strict"]), (LOOSE, SAID["loose"])])


@pytest.fixture(scope="module")
def told(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with a table of photos made by hand; its curves, and so its golden answers, are what they were."""
    folder = tmp_path_factory.mktemp("told") / "discs"
    shutil.copytree(bundle, folder)
    document = json.loads((bundle / MANIFEST_FILE).read_text())
    document["calibration"]["answering"] |= {"photos": PHOTOS, "nonconformity": "lac"}
    (folder / MANIFEST_FILE).write_text(json.dumps(document))
    return folder


@pytest.fixture
def images(photos: Path, strangers: Path) -> list[Path]:
    return [*sorted((photos / "test").rglob("*.jpg"))[::5], *sorted(strangers.rglob("*.png"))[:2]]


def check(predictions: Any, said: tuple[str, int]) -> None:
    """Every prediction is said so, and a stranger is one; some are of each."""
    seen = set()
    for one in predictions:
        seen.add(one["is_ood"])
        found = (one["decision"], len(one["labels"]))
        assert found == (("stranger", 0) if one["is_ood"] else said)
        assert tuple(one["labels"]) == tuple(each["label"] for each in one["top_k"])[: found[1]]
    assert seen == {True, False}


def files(images: list[Path]) -> list[tuple[str, bytes]]:
    return [("image", path.read_bytes()) for path in images]


@ASKED
def test_a_request_moves_decisions_and_label_sets(
    start: Any, told: Path, images: list[Path], targets: dict[str, float], said: tuple[str, int]
) -> None:
    client = start(folder=told)
    answer = client.post("/predict", params=targets, files=files(images)).json()
    check(answer["predictions"], said)
    assert {name: answer[name] for name in targets} == targets
    assert answer["accept"] == 0.95
    assert "confidence" not in answer
    counted = sum(one["decision"] == said[0] for one in answer["predictions"])
    assert client.sample(f'oodguard_decisions_total{{decision="{said[0]}"}}') == counted
    assert client.sample('oodguard_decisions_total{decision="stranger"}') == len(images) - counted


def test_a_request_goes_before_the_servers_settings_and_these_before_the_bundle(
    start: Any, told: Path, images: list[Path]
) -> None:
    client = start(folder=told, **STRICT)
    check(client.post("/predict", files=files(images)).json()["predictions"], SAID["strict"])
    check(client.post("/predict", params=LOOSE, files=files(images)).json()["predictions"], SAID["loose"])
    assert client.get("/model").json()["targets"] == {"accept": 0.95, "confidence": None, **STRICT}


def test_with_confidence_the_threshold_is_that_of_a_higher_rank(start: Any, told: Path, images: list[Path]) -> None:
    curve = load_manifest(told).calibration.curve
    images_of = curve.independent or curve.samples
    client = start(folder=told)

    def threshold(**query: float) -> float:
        answer = client.post("/predict", params={"accept": 0.8, **query}, files=files(images[:1])).json()
        assert answer.get("confidence") == query.get("confidence")
        return float(answer["predictions"][0]["threshold"])

    assert threshold() == curve.threshold(0.8) < threshold(confidence=0.9)
    assert threshold(confidence=0.9) == curve.threshold(confident_level(0.8, 0.9, images_of))


def test_flags_that_a_confident_server_expects_are_fewer(start: Any, told: Path) -> None:
    curve = load_manifest(told).calibration.curve
    client = start(folder=told, accept=0.8, confidence=0.9)
    level = confident_level(0.8, 0.9, curve.independent or curve.samples)
    assert client.sample("oodguard_expected_ood_share") == pytest.approx(1 - level)
    card = client.get("/model").json()
    assert card["accepts"][-1] <= card["max_accept"] == pytest.approx(0.1 ** (1 / (curve.independent or curve.samples)))


@ASKED
def test_the_open_inference_protocol_moves_them_too(
    start: Any, told: Path, images: list[Path], targets: dict[str, float], said: tuple[str, int]
) -> None:
    data = [base64.b64encode(path.read_bytes()).decode() for path in images]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": data}
    body = {"inputs": [tensor], "parameters": targets}
    answer = start(folder=told).post("/v2/models/discs/infer", json=body).json()
    found = {output["name"]: output["data"] for output in answer["outputs"]}
    sets = np.reshape(found["label_set"], (len(images), 3))
    for decision, members, is_ood in zip(found["decision"], sets, found["is_ood"], strict=True):
        assert (decision, members.sum()) == (("stranger", 0) if is_ood else said)
    one = [label for label, members in zip(found["label"], sets, strict=True) if members.sum() == 1]
    assert one == [CLASSES[members.argmax()] for members in sets if members.sum() == 1]


@ASKED
def test_grpc_clients_and_the_guard_in_process_move_them_too(
    server: Callable[..., Gateway],
    told: Path,
    images: list[Path],
    targets: Any,
    said: tuple[str, int],
) -> None:
    running = server("--grpc-port", "0", folder=told)
    tensor = InferInput("image", [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array([path.read_bytes() for path in images], dtype=object))
    with InferenceServerClient(running.rpc) as client:
        # As text, for clients whose parameters have no fraction.
        asked = {name: str(value) for name, value in targets.items()}
        answer = client.infer("discs", [tensor], parameters=asked)
    decisions, sets = answer.as_numpy("decision"), answer.as_numpy("label_set")
    assert sets.dtype == bool
    with Client(running.url) as asking, oodguard.load(told) as guard:
        found = asking.predict(images, **targets)
        assert (found.coverage, found.max_error) == (targets["coverage"], targets["max_error"])
        check(json.loads(found.model_dump_json())["predictions"], said)
        mine = guard.predict(images, **targets)
        assert [one.labels for one in mine.predictions] == [one.labels for one in found.predictions]
        assert [one.decision for one in mine.predictions] == [one.decision for one in found.predictions]
        (streamed, *_) = asking.stream(images[:1], **targets)
        assert streamed.prediction is not None
        assert streamed.prediction.decision == found.predictions[0].decision
    assert [one.decode() for one in decisions] == [one.decision for one in found.predictions]
    assert sets.sum(1).tolist() == [len(one.labels or ()) for one in found.predictions]


def test_a_target_that_does_not_exist_is_an_argument_too_many(told: Path) -> None:
    with oodguard.load(told) as guard, pytest.raises(TypeError, match="there is no argument 'covrage'"):
        guard.predict(b"x", covrage=0.9)  # type: ignore[call-arg]
    with Client("http://localhost:9") as client, pytest.raises(TypeError, match="there is no argument 'acept'"):
        client.predict(b"x", acept=0.9)  # type: ignore[call-arg]


@ASKED
def test_offline_rows_hold_both(
    capsys: pytest.CaptureFixture[str],
    told: Path,
    images: list[Path],
    tmp_path: Path,
    targets: dict[str, float],
    said: tuple[str, int],
) -> None:
    source = tmp_path / "images.txt"
    source.write_text("".join(f"{path}\n" for path in images))
    flags = [text for name, value in targets.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    for name in ("r.parquet", "r.csv"):
        assert command(["score", str(told), str(source), "--out", str(tmp_path / name), *flags]) == 0
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    for row in rows:
        assert (row["decision"], len(row["labels"])) == (("stranger", 0) if row["is_ood"] else said)
        assert row["labels"][:1] == ([] if row["is_ood"] else [row["label"]])
    with (tmp_path / "r.csv").open() as stream:
        assert [row["labels"] for row in csv.DictReader(stream)] == ["|".join(row["labels"]) for row in rows]
    about = {key.decode(): value.decode() for key, value in pq.read_schema(tmp_path / "r.parquet").metadata.items()}
    assert {name: float(about[f"oodguard.{name}"]) for name in targets} == targets
    assert about["oodguard.confidence"] == "null"
    share = sum(row["decision"] == said[0] for row in rows) / len(rows)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{share:.1%} {({'answer': 'answers'}).get(said[0], said[0])}" in shown
    assert f"at accept 0.95, coverage {targets['coverage']}, max_error {targets['max_error']}" in shown


def test_the_shadow_decides_by_the_same_targets(
    server: Callable[..., Gateway], told: Path, bundle: Path, images: list[Path]
) -> None:
    running = server("--shadow", str(told), "--shadow-share", "1", "--max-error", "0.525", folder=told)
    until = time.monotonic() + 60
    while httpx.get(f"{running.private}/admin/shadow").json()["state"] != "judging":
        assert time.monotonic() < until
        time.sleep(0.1)
    for query in ({}, {"max_error": 0.05}):
        httpx.post(f"{running.url}/predict", params=query, files=files(images)).raise_for_status()
    pairs = running.count("oodguard_shadow_decisions", "primary_decision", "shadow_decision")
    while pairs.total() < 2 * len(images):
        assert time.monotonic() < until
        time.sleep(0.1)
        pairs = running.count("oodguard_shadow_decisions", "primary_decision", "shadow_decision")
    assert set(pairs) == {("answer", "answer"), ("unsure", "unsure"), ("stranger", "stranger")}
    assert pairs["answer", "answer"] == pairs["unsure", "unsure"]
