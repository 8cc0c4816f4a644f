"""The guard in the caller's own process: the server's answers, from any number of threads."""

from __future__ import annotations

import gc
import io
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import oodguard
from oodguard.core.answers import PredictResponse
from oodguard.core.problems import Problem
from oodguard.core.targets import Targets
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.errors import EngineUnavailable
from oodguard.server.guard import Guard
from tests import rasters
from tests.server.guards import WAIT, Blind, Gated, grey, guarded

ROOT = Path(__file__).parents[2]
# Of an image of each class, to the fake engine.
BRIGHTNESS = (20, 120, 220)


@pytest.fixture(scope="module")
def guard(bundle: Path) -> Iterator[Guard]:
    """The real thing, for tests that leave it open."""
    with oodguard.load(bundle) as opened:
        yield opened


@pytest.fixture
def images(photos: Path, strangers: Path) -> list[Path]:
    """Known and unknown images in turn."""
    known, unknown = sorted((photos / "test").rglob("*.jpg"))[::4], sorted(strangers.rglob("*.png"))
    return [path for pair in zip(known, unknown, strict=False) for path in pair]


def threads_of_guards() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "oodguard"}


# What it says


def test_one_image_gets_the_servers_answer_to_the_last_bit(guard: Guard, images: list[Path], client: Any) -> None:
    for path in images[:6]:
        data = path.read_bytes()
        asked = client.post("/predict?accept=0.9&top_k=2", files=[("image", (path.name, data))])
        expected = PredictResponse.model_validate_json(asked.content)
        for form in (path, str(path)):
            answer = guard.predict(form, accept=0.9, top_k=2)
            assert answer.model_dump(exclude={"timing_ms"}) == expected.model_dump(exclude={"timing_ms"})
        assert guard.predict(data).predictions[0].ood_score == expected.predictions[0].ood_score
        assert answer.timing_ms.total >= answer.timing_ms.inference > 0


def test_wide_numbers_get_one_answer_in_every_form(guard: Guard, images: list[Path], client: Any) -> None:
    """A photo of 16 bits is judged as the photo itself, which has each number 257 times smaller."""
    with Image.open(images[0]) as photo:
        colours = np.asarray(photo.convert("RGB"))
    plain = guard.predict(rasters.png(colours)).predictions[0]
    wide = colours.astype(np.uint16) * 257
    planes = rasters.tiff(wide, photometric=2, planar=True)
    for data in (planes, rasters.tiff(wide, photometric=2, order=">", compression="lzw"), rasters.png(wide)):
        asked = client.post("/predict", files=[("image", ("a", data))]).json()["predictions"][0]
        for form in (data, Image.open(io.BytesIO(data))):
            answer = guard.predict(form).predictions[0]
            assert answer.ood_score == plain.ood_score == asked["ood_score"]
    signed = rasters.tiff(wide[..., 0].view(np.int16))
    refused = client.post("/predict", files=[("image", ("a", signed))])
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_type")
    assert "does not say which is white" in refused.text
    (error,) = guard.predict([signed, planes]).errors
    assert (error.code, "does not say which is white" in error.detail) == ("unsupported_type", True)


def test_a_bad_image_among_others_is_an_error_as_the_server_reports_it(
    guard: Guard, images: list[Path], client: Any, tmp_path: Path
) -> None:
    torn, junk = tmp_path / "torn.png", tmp_path / "junk.jpg"
    torn.write_bytes(images[1].read_bytes()[:900])
    junk.write_bytes(b"junk")
    paths = [images[0], torn, images[1], junk, images[2]]
    asked = client.post("/predict", files=[("image", (path.name, path.read_bytes())) for path in paths])
    expected = PredictResponse.model_validate_json(asked.content)
    answer = guard.predict(paths)
    assert answer.errors == expected.errors
    assert [error.index for error in answer.errors] == [1, 3]
    assert [(p.index, p.file, p.label, p.is_ood) for p in answer.predictions] == [
        (p.index, p.file, p.label, p.is_ood) for p in expected.predictions
    ]
    # Other batches than the server's change last digits.
    assert [p.ood_score for p in answer.predictions] == pytest.approx(
        [p.ood_score for p in expected.predictions], rel=1e-4, abs=1e-6
    )


def test_a_call_without_a_usable_image_is_refused_as_by_the_server(guard: Guard, client: Any) -> None:
    for bad in ([b"junk"], [b"junk", b""], [b"junk", b"more junk"]):
        asked = client.post("/predict", files=[("image", ("x", data)) for data in bad])
        expected = Problem.model_validate_json(asked.content)
        with pytest.raises(oodguard.Refused) as caught:
            guard.predict(bad)
        found = caught.value.problem
        assert (found.code, found.status, found.title) == (expected.code, expected.status, expected.title)
        assert [(e.index, e.code, e.detail) for e in found.errors] == [
            (e.index, e.code, e.detail) for e in expected.errors
        ]
    with pytest.raises(oodguard.Refused, match=r"^absent.jpg: there is no such file$"):
        guard.predict("some/absent.jpg")
    with pytest.raises(oodguard.Refused, match="at least one image"):
        guard.predict([])


def test_every_form_of_an_image_gets_one_answer(guard: Guard, images: list[Path]) -> None:
    path = images[1]
    with Image.open(path) as opened:
        array = np.asarray(opened)
    forms = [path, str(path), path.read_bytes(), Image.open(path), array]
    scores = [guard.predict(form).predictions[0].ood_score for form in forms]
    assert scores == [scores[0]] * 5
    assert len(guard.predict(np.stack([array] * 3)).predictions) == 3
    assert [result.prediction is not None for result in guard.stream([*forms, array.astype(float)])] == [True] * 5 + [
        False
    ]


def test_the_target_acceptance_is_the_calls_own(guard: Guard, images: list[Path]) -> None:
    manifest = guard.manifest
    for accept in (0.5, 0.9):
        answer = guard.predict(images, accept=accept)
        thresholds = guard.thresholds(accept=accept)
        assert (answer.accept, thresholds) == (accept, manifest.thresholds(manifest.targets.but(accept=accept)))
        for prediction in answer.predictions:
            assert prediction.threshold == thresholds.fused
            assert prediction.is_ood == (prediction.ood_score > thresholds.fused)
    assert guard.predict(images[0]).accept == manifest.targets.accept
    assert guard.thresholds() == manifest.thresholds(manifest.targets)
    assert [len(guard.predict(images[0], top_k=k).predictions[0].top_k) for k in (1, 3)] == [1, 3]
    for wrong, sentence in (({"accept": 0.99999}, "at most"), ({"accept": 0.0}, "above 0"), ({"top_k": 0}, "top_k")):
        with pytest.raises(oodguard.Refused, match=sentence) as caught:
            guard.predict(images[0], **wrong)
        assert caught.value.problem.code == "bad_parameter"
        with pytest.raises(oodguard.Refused, match=sentence):
            next(guard.stream(images, **wrong))


def test_it_says_what_it_is(guard: Guard, bundle: Path) -> None:
    assert guard.model.model_dump() == {"name": "discs", "version": "7"}
    assert guard.classes == ("amber", "jade", "plum")
    with oodguard.load(str(bundle), sessions=3, threads=2, max_batch=5) as tuned:
        assert repr(tuned) == "<Guard discs version 7: onnxruntime on cpu, 3 x 2 threads, batch 5>"
    with (
        oodguard.load(bundle, limits=oodguard.ImageLimits(max_pixels=100)) as small,
        pytest.raises(oodguard.Refused, match="at most 100 are accepted"),
    ):
        small.predict(grey(9))


def test_another_engine_gives_the_same_verdicts(guard: Guard, bundle: Path, images: list[Path]) -> None:
    with oodguard.load(bundle, engine="openvino", device="cpu") as other:
        found, expected = other.predict(images).predictions, guard.predict(images).predictions
    assert [(p.label, p.is_ood) for p in found] == [(p.label, p.is_ood) for p in expected]


# Batches and streams


def test_images_of_a_call_share_the_slots(bundle: Path) -> None:
    with guarded(bundle, FakeEngine, slots=2, max_batch=4) as (guard, fake):
        for count, batches in ((1, [1]), (2, [1, 1]), (5, [2, 3]), (10, [2, 4, 4])):
            fake.seen.clear()
            assert len(guard.predict([grey(count)] * count).predictions) == count
            assert sorted(fake.seen) == batches


def test_one_decoder_keeps_every_slot_busy(bundle: Path) -> None:
    with guarded(bundle, Gated, slots=3, workers=1) as (guard, fake), ThreadPoolExecutor(1) as threads:
        answer = threads.submit(guard.predict, [grey(9)] * 3)
        deadline = time.monotonic() + WAIT
        while fake.begun < 3:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        fake.opened.set()
        assert len(answer.result(WAIT).predictions) == 3


def test_a_stream_is_in_order_and_read_only_a_little_ahead(bundle: Path) -> None:
    with guarded(bundle, FakeEngine, slots=2, max_batch=4) as (guard, fake):
        taken: list[int] = []

        def source() -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
            for number in range(10_000):
                taken.append(number)
                yield grey(BRIGHTNESS[number * number // 7 % 3])

        stream = guard.stream(source())
        for number, result in zip(range(300), stream, strict=False):
            # Class = brightness: the answer is this image's and no other's.
            expected = number * number // 7 % 3
            assert (result.image[0, 0, 0], result.prediction.class_index) == (BRIGHTNESS[expected], expected)
            # Three decoders take twice as many batches ahead, and one is being handed out.
            assert len(taken) <= number + 4 * 7 + 1
        assert set(fake.seen) == {4}
        stream.close()
        taken_then = len(taken)
        guard.predict(grey(0))
        assert len(taken) == taken_then


def test_a_stream_that_is_left_withdraws_what_it_took_ahead(bundle: Path) -> None:
    with guarded(bundle, Gated, slots=1, max_batch=1) as (guard, fake):
        taking = guard._judge.each([[grey(9)]] * 100, read=lambda image: image, targets=Targets(accept=0.9), top_k=1)
        _, first = next(taking)
        while not fake.begun:
            time.sleep(0.001)
        taking.close()
        fake.opened.set()
        assert len(first.result(WAIT).outcomes) == 1
        guard.predict(grey(1))
        assert fake.ended == 2


def test_an_interrupted_call_is_withdrawn(bundle: Path) -> None:
    program = """
import os, pathlib, signal, sys, threading, time
from tests.server.guards import Gated, grey, guarded

def interrupt():
    while not fake.begun:
        time.sleep(0.001)
    # The main thread has to have come to where it waits.
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
with guarded(pathlib.Path(sys.argv[1]), Gated, slots=1, max_batch=1) as (guard, fake):
    threading.Thread(target=interrupt).start()
    try:
        guard.predict([grey(9)] * 50)
    except KeyboardInterrupt:
        fake.opened.set()
        guard.predict(grey(1))
        print(fake.ended)
"""
    # In a process of its own: the signal stack of pytest's fault handler is too small once AMX is in use.
    ran = subprocess.run(
        [sys.executable, "-c", program, bundle], cwd=ROOT, capture_output=True, text=True, check=False, timeout=WAIT
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) <= 2


def test_a_failed_batch_is_tried_again_image_by_image(bundle: Path) -> None:
    with guarded(bundle, FakeEngine) as (guard, fake):
        fake.fail_next = True
        assert len(guard.predict([grey(9)] * 6).predictions) == 6
    with guarded(bundle, Blind, slots=1) as (guard, _):
        answer = guard.predict([grey(200), grey(0), grey(100)])
        assert [(p.index, p.class_index) for p in answer.predictions] == [(0, 2), (2, 1)]
        assert [(e.index, e.code, e.detail) for e in answer.errors] == [
            (1, "engine_failed", "the graph returned a number that is not finite")
        ]
        results = list(guard.stream([grey(200), grey(0)]))
        assert [result.problem and result.problem.code for result in results] == [None, "engine_failed"]


def test_an_engine_that_is_gone_ends_the_call(bundle: Path) -> None:
    with guarded(bundle, FakeEngine) as (guard, fake):
        fake._closed = True
        with pytest.raises(EngineUnavailable, match="the engine is closed"):
            guard.predict(grey(1))
        with pytest.raises(EngineUnavailable, match="the engine is closed"):
            list(guard.stream([grey(1)] * 100))


# Threads


def test_threads_may_share_a_guard(guard: Guard, images: list[Path]) -> None:
    expected = {path: guard.predict(path).predictions[0] for path in images}
    shared = [Image.open(path) for path in images]

    def ask(number: int) -> None:
        for offset in range(len(images)):
            at = (number + offset) % len(images)
            for form in (images[at], shared[at]):
                found = guard.predict(form).predictions[0]
                assert (found.label, found.is_ood) == (expected[images[at]].label, expected[images[at]].is_ood)

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(ask, number) for number in range(8)]:
            future.result(WAIT)


def test_closing_waits_for_the_calls_under_way_and_refuses_further_ones(bundle: Path) -> None:
    with guarded(bundle, Gated) as (guard, fake):
        with ThreadPoolExecutor(3) as threads:
            answers = [threads.submit(guard.predict, grey(9)) for _ in range(2)]
            while fake.begun < 2:
                time.sleep(0.001)
            closing = threads.submit(guard.close)
            while guard._judge._finish.alive:
                time.sleep(0.001)
            with pytest.raises(EngineUnavailable, match="the guard is closed"):
                guard.predict(grey(1))
            assert not closing.done()
            fake.opened.set()
            assert [len(answer.result(WAIT).predictions) for answer in answers] == [1, 1]
            closing.result(WAIT)
        assert fake._closed
        guard.close()
        with pytest.raises(EngineUnavailable, match="load the bundle again"):
            guard.predict(grey(1))


def test_a_guard_that_is_forgotten_ends_its_threads(bundle: Path) -> None:
    before = threads_of_guards()
    guard = oodguard.load(bundle)
    guard.predict(grey(1))
    assert len(threads_of_guards() - before) == 1
    del guard
    gc.collect()
    deadline = time.monotonic() + WAIT
    while threads_of_guards() - before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_forked_process_is_told_to_load_its_own(guard: Guard) -> None:
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()

    def ask() -> None:
        try:
            guard.predict(grey(1))
        except EngineUnavailable as error:
            said.put(str(error))
        guard.close()

    process = context.Process(target=ask)
    process.start()
    process.join(WAIT)
    assert process.exitcode == 0
    assert said.get() == "the bundle was loaded before this process was forked; load it again here"
    assert len(guard.predict(grey(1)).predictions) == 1
