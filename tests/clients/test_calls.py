"""The steps of a call, driven by hand: no server, no clock."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from oodguard.clients.calls import Retries, Send, Steps, Wait, predict
from oodguard.clients.errors import ServerProblem, ServerUnreachable
from oodguard.clients.images import part_of
from oodguard.core.answers import PredictResponse
from oodguard.core.errors import InputError

ANSWER = (
    '{"model": {"name": "m", "version": "1"}, "accept": 0.95, "coverage": 0.9, "max_error": 0.05,'
    ' "predictions": [], "errors": [],'
    '"timing_ms": {"read": 0, "decode": 0, "queue": 0, "inference": 0, "judge": 0, "total": 0}}'
)


def reply(status: int, retry_after: str | None = None) -> httpx.Response:
    body = ANSWER if status == 200 else f'{{"title": "T", "status": {status}, "code": "c", "detail": "why"}}'
    return httpx.Response(status, headers={"retry-after": retry_after} if retry_after else None, text=body)


class Clock:
    """Time that passes when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def begin(clock: Clock, *, chance: float = 0.5, timeout: float = 10.0, **retries: Any) -> Steps:
    return predict(
        "http://s",
        [b"x"],
        asked={"accept": 0.9},
        top_k=None,
        timeout=timeout,
        retries=Retries(**retries),
        clock=clock,
        chance=lambda: chance,
    )


def test_a_busy_server_is_asked_again_after_what_it_says_and_jitter() -> None:
    clock = Clock()
    steps = begin(clock, first=0.4)
    first = steps.send(None)
    assert isinstance(first, Send)
    assert (first.params, first.headers, first.timeout) == ({"accept": 0.9}, {"x-request-timeout-ms": "10000"}, 10.0)
    assert steps.send(reply(429, "2")) == Wait(2.0 + 0.5 * 0.4)
    clock.now += 2.5
    second = steps.send(None)
    assert isinstance(second, Send)
    assert second.headers == {"x-request-timeout-ms": "7500"}
    assert steps.send(reply(503)) == Wait(0.5 * 0.8)
    steps.send(None)
    with pytest.raises(StopIteration) as ended:
        steps.send(reply(200))
    assert ended.value.value.accept == 0.95


def test_what_a_newer_server_adds_is_left_out() -> None:
    body = json.loads(ANSWER)
    body["region"] = "eu"
    body["model"]["parent"] = "0"
    steps = begin(Clock())
    steps.send(None)
    with pytest.raises(StopIteration) as ended:
        steps.send(httpx.Response(200, text=json.dumps(body)))
    assert ended.value.value == PredictResponse.model_validate_json(ANSWER)
    steps = begin(Clock())
    steps.send(None)
    problem = {"title": "T", "status": 422, "code": "c", "detail": "why", "trace": "1"}
    with pytest.raises(ServerProblem, match=r"^T \(422\): why$"):
        steps.send(httpx.Response(422, text=json.dumps(problem)))


def test_waits_double_up_to_a_bound() -> None:
    retries = Retries(first=0.1, longest=0.3)
    assert [round(retries.wait(n, 0.0, 1.0), 3) for n in (1, 2, 3, 4)] == [0.1, 0.2, 0.3, 0.3]
    assert retries.wait(3, 1.0, 0.0) == 1.0


@pytest.mark.parametrize("status", [400, 413, 422, 500, 504])
def test_other_answers_are_final(status: int) -> None:
    steps = begin(Clock())
    steps.send(None)
    with pytest.raises(ServerProblem) as caught:
        steps.send(reply(status))
    assert caught.value.problem.status == status


def test_the_last_refusal_is_raised_when_attempts_or_time_run_out() -> None:
    steps = begin(Clock(), attempts=2)
    steps.send(None)
    assert isinstance(steps.send(reply(429)), Wait)
    steps.send(None)
    with pytest.raises(ServerProblem, match="429"):
        steps.send(reply(429))
    steps = begin(Clock(), timeout=3.0)
    steps.send(None)
    with pytest.raises(ServerProblem, match="429"):
        steps.send(reply(429, "5"))


def test_lost_connections_are_tried_again_and_timeouts_are_not() -> None:
    steps = begin(Clock(), attempts=2)
    steps.send(None)
    assert isinstance(steps.send(httpx.ConnectError("refused")), Wait)
    steps.send(None)
    with pytest.raises(ServerUnreachable, match="cannot be reached \\(reset\\)"):
        steps.send(httpx.ReadError("reset"))
    steps = begin(Clock())
    steps.send(None)
    with pytest.raises(ServerUnreachable, match="did not answer in time"):
        steps.send(httpx.ReadTimeout("late"))


def test_no_time_left_is_said_before_anything_is_sent() -> None:
    clock = Clock()
    steps = begin(clock, timeout=1.0)
    steps.send(None)
    steps.send(httpx.ConnectError("refused"))
    clock.now += 5
    with pytest.raises(ServerUnreachable, match="did not answer in time"):
        steps.send(None)


def test_images_are_sent_as_they_are_or_as_png(tmp_path: Path) -> None:
    pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"data")
    assert part_of(file, 3) == ("photo.jpg", b"data", "application/octet-stream")
    assert part_of(b"raw", 3) == ("3", b"raw", "application/octet-stream")
    for image in (pixels, Image.fromarray(pixels)):
        name, data, kind = part_of(image, 2)
        assert (name, kind) == ("2.png", "image/png")
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    for wrong in (pixels.astype(float), pixels[:, :, :2], pixels[:0], "photo.jpg", None):
        with pytest.raises(InputError):
            part_of(wrong, 0)  # type: ignore[arg-type]
