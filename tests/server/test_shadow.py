"""A second bundle beside the server: what it counts, and that it can neither hold up nor break an answer."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from pydantic import ValidationError

import oodguard
from oodguard.core.calibration import Calibration
from oodguard.core.errors import EnvironmentProblem
from oodguard.core.manifest import MANIFEST_FILE, Manifest, load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.process import wait_until
from oodguard.load_tests.real_triton import Triton
from oodguard.server.engines import registry
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.engines.ort import OrtEngine
from oodguard.server.settings import ServeSettings
from oodguard.server.shadow import WAITING

PNG = {"content-type": "image/png"}
Compared = Counter[tuple[str, ...]]
# The process has the lowest priority there is: beside other busy tests it takes its time.
wait = partial(wait_until, seconds=240)


def retold(bundle: Path, folder: Path, **changes: Any) -> Path:
    """A bundle with another manifest around the same graph, and with the golden answers that follow from it."""
    shutil.copytree(bundle, folder)
    document = json.loads((bundle / MANIFEST_FILE).read_text()) | changes
    for golden in document["golden"]:
        golden["label"] = document["classes"][int(np.argmax(golden["probabilities"]))]
        golden["ood_score"] = golden["threshold"] = None
    manifest = Manifest.model_validate(document)
    engine = OrtEngine(folder, manifest)
    images = [load_pixels((folder / g.path).read_bytes(), manifest.preprocessing) for g in manifest.golden]
    outputs = asyncio.run(engine.infer(np.stack(images)))
    for index, (golden, verdict) in enumerate(zip(document["golden"], manifest.judge(outputs), strict=True)):
        golden |= {"label": verdict.label, "is_ood": verdict.is_ood}
        golden["probabilities"] = outputs.probabilities[index].tolist()
        golden["scores"] = outputs.scores[index].tolist()
    asyncio.run(engine.close())
    (folder / MANIFEST_FILE).write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="session")
def other(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that names a class otherwise, sees more of each image, and accepts fewer by default."""
    manifest = load_manifest(bundle)
    preprocessing = manifest.preprocessing.model_copy(update={"resize": manifest.preprocessing.crop})
    assert preprocessing != manifest.preprocessing
    return retold(
        bundle,
        tmp_path_factory.mktemp("other") / "discs",
        version="9",
        classes=["ochre", *manifest.classes[1:]],
        targets={"accept": 0.6},
        preprocessing=preprocessing.model_dump(mode="json"),
    )


@pytest.fixture(scope="session")
def images(photos: Path, strangers: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((photos / "test").rglob("*.jpg")) + sorted(strangers.rglob("*.png"))]


def state(server: Gateway) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{server.private}/admin/shadow").raise_for_status().json()
    return answer


def wait_judging(server: Gateway) -> None:
    wait(lambda: state(server)["state"] == "judging")


def drawn(server: Gateway) -> dict[str, int]:
    return {key: count for (key,), count in server.count("oodguard_shadow_images", "result").items()}


def compared(server: Gateway) -> Compared:
    return server.count("oodguard_shadow_verdicts", "primary_is_ood", "shadow_is_ood", "same_label")


def expected(primary: Path, shadow: Path, images: list[bytes], accept: float | None = None) -> Compared:
    """What two guards in this process say of the images."""
    found = []
    for folder in (primary, shadow):
        with oodguard.load(folder) as guard:
            found.append(guard.predict(images, accept=accept).predictions)
    return Counter(
        (str(a.is_ood).lower(), str(b.is_ood).lower(), str(a.label == b.label).lower())
        for a, b in zip(*found, strict=True)
    )


def post(server: Gateway, images: list[bytes], **query: Any) -> list[int]:
    with httpx.Client(timeout=30) as client:
        return [
            client.post(f"{server.url}/predict", content=one, headers=PNG, params=query).status_code for one in images
        ]


def process_of(server: Gateway) -> psutil.Process:
    (found,) = psutil.Process(server.process.pid).children()
    return found


def test_verdicts_and_labels_are_compared_as_the_second_bundle_alone_gives_them(
    server: Callable[..., Gateway], bundle: Path, other: Path, images: list[bytes]
) -> None:
    running = server("--shadow", str(other), "--shadow-share", "1")
    wait_judging(running)
    assert set(post(running, images)) == {200}
    wait(lambda: sum(drawn(running).values()) == len(images))
    by_default = expected(bundle, other, images)
    # All four verdicts of two bundles but "the first alone flags", and labels that differ.
    assert {key[2] for key in by_default} == {"true", "false"}
    assert {key[:2] for key in by_default} >= {("false", "false"), ("false", "true"), ("true", "true")}
    assert drawn(running) == {"judged": len(images)}
    assert compared(running) == by_default
    # A request's own target acceptance is the shadow's, too.
    assert set(post(running, images, accept=0.8)) == {200}
    wait(lambda: sum(drawn(running).values()) == 2 * len(images))
    assert compared(running) == by_default + expected(bundle, other, images, accept=0.8)
    assert running.sample("oodguard_shadow_ready") == 1
    assert running.sample('oodguard_shadow_model{name="discs",version="9"}') == 1
    assert running.sample("oodguard_shadow_inference_seconds_count") > 0
    card = httpx.get(f"{running.url}/model").json()
    assert card["shadow"] == {"state": "judging", "share": 1.0, "model": {"name": "discs", "version": "9"}}
    assert card["model"]["version"] == "7"
    assert process_of(running).nice() == 19
    assert {os.sched_getscheduler(thread.id) for thread in process_of(running).threads()} == {os.SCHED_IDLE}


def test_the_same_bundle_always_agrees(
    server: Callable[..., Gateway], bundle: Path, newer: Path, images: list[bytes]
) -> None:
    running = server("--shadow", str(newer), "--shadow-share", "1", "--accept", "0.9")
    wait_judging(running)
    post(running, images)
    wait(lambda: sum(drawn(running).values()) == len(images))
    assert set(compared(running)) <= {("false", "false", "true"), ("true", "true", "true")}


def test_a_shadow_that_hangs_costs_no_answer_and_a_bounded_number_of_images(
    server: Callable[..., Gateway], newer: Path, images: list[bytes]
) -> None:
    running = server("--shadow", str(newer), "--shadow-share", "1")
    wait_judging(running)
    process = process_of(running)
    process.send_signal(signal.SIGSTOP)
    sent = 2 * images
    assert len(sent) > WAITING + 20
    assert set(post(running, sent)) == {200}
    assert httpx.get(f"{running.url}/health/ready").status_code == 200
    # What waits in the backlog, or was taken from it, is yet to be counted.
    assert drawn(running) == {"dropped": len(sent) - WAITING}
    process.send_signal(signal.SIGCONT)
    wait(lambda: drawn(running) == {"dropped": len(sent) - WAITING, "judged": WAITING})


def test_images_of_several_acceptances_that_wait_are_each_judged_at_their_own(
    server: Callable[..., Gateway], bundle: Path, other: Path, images: list[bytes]
) -> None:
    running = server("--shadow", str(other), "--shadow-share", "1")
    wait_judging(running)
    process = process_of(running)
    process.send_signal(signal.SIGSTOP)
    accepts = [None, 0.8, 0.95, 0.6]
    given = [accepts[number * number % 4 + number % 3 % 2] for number in range(len(images))]
    assert len(set(given)) > 2
    for accept, image in zip(given, images, strict=True):
        assert post(running, [image], **({"accept": accept} if accept else {})) == [200]
    process.send_signal(signal.SIGCONT)
    wait(lambda: drawn(running) == {"judged": len(images)})
    sums: Compared = Counter()
    for accept in set(given):
        chosen = [image for one, image in zip(given, images, strict=True) if one == accept]
        sums += expected(bundle, other, chosen, accept)
    assert compared(running) == sums


def test_a_shadow_that_dies_is_started_again_and_the_server_answers_on(
    server: Callable[..., Gateway], newer: Path, images: list[bytes]
) -> None:
    running = server("--shadow", str(newer), "--shadow-share", "1", "--log-format", "text")
    wait_judging(running)
    first = process_of(running)
    first.send_signal(signal.SIGSTOP)
    post(running, images[:1])
    first.kill()
    wait(lambda: drawn(running).get("failed") == 1)
    assert "its process ended with code -9" in running.output()
    assert httpx.get(f"{running.url}/health/ready").status_code == 200
    wait_judging(running)
    assert process_of(running).pid != first.pid
    assert set(post(running, images[:5])) == {200}
    wait(lambda: drawn(running).get("judged") == 5)
    # One that dies while it has nothing to do is missed, too.
    idle = process_of(running)
    idle.kill()
    wait(lambda: running.output().count("its process ended with code -9") == 2)
    wait_judging(running)
    assert process_of(running).pid not in (first.pid, idle.pid)
    assert drawn(running) == {"failed": 1, "judged": 5}
    shadow = process_of(running)
    assert running.stop() == 0
    assert not shadow.is_running()


def replace(folder: Path, new: Path) -> None:
    staged = folder.with_name("staged")
    shutil.copytree(new, staged)
    if folder.exists():
        folder.rename(folder.with_name("old"))
        shutil.rmtree(folder.with_name("old"))
    staged.rename(folder)


def test_a_shadow_reloads_as_the_server_does(
    server: Callable[..., Gateway], newer: Path, other: Path, tmp_path: Path, images: list[bytes]
) -> None:
    folder = tmp_path / "beside" / "discs"
    folder.parent.mkdir()
    running = server("--shadow", str(folder), "--shadow-share", "1")
    wait(lambda: state(running)["state"] == "failed")
    assert state(running)["problem"] == f"{folder} is not a bundle: there is no such folder"
    assert httpx.get(f"{running.url}/health/ready").status_code == 200
    assert httpx.get(f"{running.url}/model").json()["shadow"]["state"] == "failed"
    assert running.sample("oodguard_shadow_ready") == 0
    assert set(post(running, images[:2])) == {200}
    assert drawn(running) == {"dropped": 2}

    replace(folder, newer)
    wait(lambda: state(running)["model"] == {"name": "discs", "version": "8"})
    (folder / "model.onnx").write_bytes(b"damaged")
    answer = httpx.post(f"{running.private}/admin/reload", timeout=60)
    assert (answer.status_code, answer.json()["model"]["version"]) == (200, "7")
    assert "does not match" in answer.json()["shadow"]["problem"]
    assert answer.json()["shadow"]["model"]["version"] == "8"
    assert running.sample('oodguard_shadow_reloads_total{result="refused"}') == 1
    assert set(post(running, images[:2])) == {200}
    wait(lambda: drawn(running).get("judged") == 2)

    replace(folder, other)
    wait(lambda: state(running) == {**state(running), "model": {"name": "discs", "version": "9"}})
    assert state(running) == {
        "state": "judging",
        "share": 1.0,
        "model": {"name": "discs", "version": "9"},
        "problem": None,
    }
    assert running.sample('oodguard_shadow_reloads_total{result="swapped"}') == 1
    assert 'oodguard_shadow_model{name="discs",version="8"}' not in running.metrics()
    # One process is left of the three.
    wait(lambda: len(psutil.Process(running.process.pid).children()) == 1)
    assert running.sample('oodguard_reloads_total{result="swapped"}') == 1


def test_an_acceptance_that_the_second_bundle_cannot_promise_is_its_own_failure(
    server: Callable[..., Gateway], bundle: Path, tmp_path: Path, images: list[bytes]
) -> None:
    calibration = load_manifest(bundle).calibration
    # As if twelve images had been held out.
    few = Calibration.fit(
        {name: np.array(curve.values)[np.linspace(0, len(curve.values) - 1, 12).astype(int)] for name, curve in
         calibration.curves.items()},
        lipschitz=calibration.lipschitz,
    )  # fmt: skip
    small = retold(bundle, tmp_path / "small", calibration=few.model_dump(mode="json"), targets={"accept": 0.6})
    assert load_manifest(small).max_accept < 0.95 < load_manifest(bundle).max_accept
    running = server("--shadow", str(small), "--shadow-share", "1")
    wait_judging(running)
    assert set(post(running, images[:3], accept=0.95)) == {200}
    wait(lambda: drawn(running) == {"failed": 3})
    assert set(post(running, images[:3], accept=0.9)) == {200}
    wait(lambda: drawn(running) == {"failed": 3, "judged": 3})
    assert (state(running)["state"], compared(running).total()) == ("judging", 3)


def test_a_server_whose_graph_triton_runs_has_a_shadow_too(
    server: Callable[..., Gateway], bundle: Path, other: Path, triton: Triton, images: list[bytes]
) -> None:
    flags = ("--engine", "triton", "--triton-url", triton.address, "--shadow", str(other), "--shadow-share", "1")
    running = server(*flags)
    wait_judging(running)
    assert set(post(running, images[:10])) == {200}
    wait(lambda: drawn(running) == {"judged": 10})
    assert compared(running) == expected(bundle, other, images[:10])


def test_the_share_is_drawn_at_random(start: Any, fake: FakeEngine, newer: Path, picture: Any) -> None:
    client = start(engine=fake, shadow=newer, shadow_share=0.3)
    wait(lambda: client.parts.shadow.report.state == "judging")
    for _ in range(20):
        assert client.post("/predict", files=[("image", picture())] * 20).status_code == 200

    def total() -> float:
        return sum(client.sample(f'oodguard_shadow_images_total{{result="{r}"}}') for r in ("judged", "dropped"))

    wait(lambda: not client.parts.shadow._waiting)
    # 400 images, five standard deviations around 120.
    assert 74 <= total() <= 166


def test_a_process_that_does_not_answer_in_time_is_replaced(
    start: Any, fake: FakeEngine, newer: Path, picture: Any
) -> None:
    client = start(engine=fake, shadow=newer, shadow_share=1.0)
    shadow = client.parts.shadow
    wait(lambda: shadow.report.state == "judging")
    (running,) = shadow._processes
    running._channel.settimeout(0.3)
    stopped = psutil.Process(running.pid)
    stopped.send_signal(signal.SIGSTOP)
    assert client.post("/predict", content=picture(), headers=PNG).status_code == 200
    wait(lambda: shadow.report.state == "failed")
    assert shadow.report.problem == "its process has not answered for 600 s"
    assert not stopped.is_running()
    assert client.sample('oodguard_shadow_images_total{result="failed"}') == 1
    wait(lambda: shadow.report.state == "judging")
    assert client.post("/predict", content=picture(), headers=PNG).status_code == 200
    wait(lambda: client.sample('oodguard_shadow_images_total{result="judged"}') == 1)


def test_contradicting_settings_and_a_missing_engine_are_refused(
    start: Any, fake: FakeEngine, newer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValidationError, match="--shadow-share is for a shadow bundle; name one with --shadow"):
        ServeSettings(bundle=newer, shadow_share=0.5)
    assert start(engine=fake).parts.shadow is None
    assert start(engine=fake).private.get("/admin/shadow").status_code == 404
    missing = registry.EngineEntry(registry.LOCAL["onnxruntime"].load, ("no_such_module",), extra="guard")
    monkeypatch.setitem(registry.LOCAL, "onnxruntime", missing)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'oodguard\[guard\]'"):
        start(engine=fake, shadow=newer)
