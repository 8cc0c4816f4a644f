"""Flagged images to a real HTTP receiver, which verifies each signature as Standard Webhooks says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from oodguard.clients.samples import read_samples
from oodguard.core.answers import FlaggedEvent
from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.process import free_ports, wait_until
from oodguard.server import webhook
from oodguard.server.sampling import WAITING
from oodguard.server.settings import ServeSettings
from oodguard.server.signing import read_secrets, signed
from oodguard.server.webhook import ATTEMPTS

PNG = {"content-type": "image/png"}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Receiver(ThreadingHTTPServer):
    """Verifies what it gets with `secret` and answers with the next of `statuses`, or 204."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.secret = SECRET
        self.statuses: list[tuple[int, dict[str, str]]] = []
        self.events: list[FlaggedEvent] = []
        self.ids: list[str] = []
        self.times: list[float] = []
        self.paths: list[str] = []
        self.open = threading.Event()
        self.open.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/flagged?token=t0k3n"

    def verify(self, headers: Any, body: bytes) -> None:
        identity, at = headers["webhook-id"], headers["webhook-timestamp"]
        assert abs(int(at) - time.time()) < 60
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        right = base64.b64encode(hmac.new(key, f"{identity}.{at}.".encode() + body, hashlib.sha256).digest()).decode()
        assert f"v1,{right}" in headers["webhook-signature"].split(" ")


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        receiver = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        assert receiver.open.wait(60)
        try:
            receiver.verify(self.headers, body)
            status, more = receiver.statuses.pop(0) if receiver.statuses else (204, {})
        except AssertionError:
            status, more = 401, {}
        receiver.ids.append(self.headers["webhook-id"])
        receiver.times.append(time.monotonic())
        receiver.paths.append(self.path)
        if status == 204:
            receiver.events.append(FlaggedEvent.model_validate_json(body))
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.open.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    return path


@pytest.fixture
def flagged(strangers: Path) -> bytes:
    return next(strangers.rglob("*.png")).read_bytes()


@pytest.fixture
def serve(server: Callable[..., Gateway], receiver: Receiver, secret: Path) -> Callable[..., Gateway]:
    """Start a server that sends every flagged image to the receiver."""

    def begin(*flags: str, url: str = receiver.url) -> Gateway:
        return server("--sample-webhook", url, "--sample-webhook-secret", str(secret), "--sample-rate", "1", *flags)

    return begin


def post(server: Gateway, image: bytes) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}/predict", content=image, headers=PNG, timeout=30)
    prediction: dict[str, Any] = answer.raise_for_status().json()["predictions"][0]
    return prediction


def results(server: Gateway) -> dict[str, int]:
    return {key: count for (key,), count in server.count("oodguard_webhook_samples", "result").items()}


def test_the_signature_is_that_of_the_specification(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    headers = signed(
        b'{"test": 2432232314}', read_secrets(path), identity="msg_p5jXN8AQM9LWM0D4loKWxJek", at=1614265330
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_flagged_images_arrive_signed_with_their_verdicts(
    serve: Callable[..., Gateway], receiver: Receiver, flagged: bytes, golden: list[bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "flagged"
    running = serve("--sample-dir", str(folder))
    prediction = post(running, flagged)
    assert prediction["is_ood"]
    inside = [post(running, one)["is_ood"] for one in golden]
    assert not all(inside)
    count = 1 + sum(inside)
    wait_until(lambda: results(running) == {"delivered": count})
    event = receiver.events[0]
    assert base64.b64decode(event.data.image.base64) == flagged
    assert (event.type, event.data.image.content_type) == ("image.flagged", "image/png")
    assert event.data.sample.ood_score == prediction["ood_score"]
    assert event.timestamp == event.data.sample.time
    assert len(set(receiver.ids)) == len(receiver.events) == count
    assert set(receiver.paths) == {"/flagged?token=t0k3n"}
    # The folder got the same images.
    wait_until(lambda: running.sample('oodguard_samples_total{result="kept"}') == count)
    kept = read_samples(folder).good
    assert sorted(one.sample.time for one in kept) == sorted(one.timestamp for one in receiver.events)
    assert flagged in [one.image.read_bytes() for one in kept]


def test_a_busy_receiver_is_asked_again_under_the_same_id(
    serve: Callable[..., Gateway], receiver: Receiver, flagged: bytes
) -> None:
    running = serve()
    receiver.statuses = [(503, {}), (429, {"retry-after": "2"})]
    post(running, flagged)
    wait_until(lambda: results(running) == {"delivered": 1})
    assert len(receiver.ids) == 3
    assert len(set(receiver.ids)) == 1
    first, second = receiver.times[1] - receiver.times[0], receiver.times[2] - receiver.times[1]
    assert first >= 0.5
    # What the receiver asks for, where that is longer.
    assert 2.0 <= second < 4.0
    assert running.sample("oodguard_webhook_retries_total") == 2


@pytest.mark.parametrize(
    ("status", "more"), [(400, {}), (413, {}), (410, {}), (302, {"location": "/elsewhere"}), (307, {"location": "/x"})]
)
def test_a_receiver_that_refuses_is_not_asked_again(
    serve: Callable[..., Gateway], receiver: Receiver, flagged: bytes, status: int, more: dict[str, str]
) -> None:
    running = serve("--log-format", "text")
    receiver.statuses = [(status, more)]
    post(running, flagged)
    wait_until(lambda: results(running) == {"failed": 1})
    assert receiver.paths == ["/flagged?token=t0k3n"]
    line = running.output().splitlines()[-1]
    assert line.endswith(f"a flagged image was not delivered to 127.0.0.1:{receiver.server_port}: it answered {status}")
    assert "t0k3n" not in running.output()
    post(running, flagged)
    wait_until(lambda: results(running) == {"failed": 1, "delivered": 1})


def test_attempts_and_pauses_are_bounded(
    start: Any, receiver: Receiver, secret: Path, flagged: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "LONGEST_PAUSE", 0.05)
    client = start(sample_webhook=receiver.url, sample_webhook_secret=secret, sample_rate=1.0)
    receiver.statuses = [(503, {"retry-after": "99999999999"})] * ATTEMPTS
    assert client.post("/predict", content=flagged, headers=PNG).json()["predictions"][0]["is_ood"]
    wait_until(lambda: client.sample('oodguard_webhook_samples_total{result="failed"}') == 1)
    assert len(receiver.ids) == ATTEMPTS
    assert client.sample("oodguard_webhook_retries_total") == ATTEMPTS - 1


def test_a_receiver_that_hangs_costs_no_answer_and_a_bounded_number_of_images(
    serve: Callable[..., Gateway], receiver: Receiver, flagged: bytes
) -> None:
    running = serve()
    receiver.open.clear()
    for _ in range(WAITING + 5):
        assert post(running, flagged)["is_ood"]
    assert results(running) == {"dropped": 5}
    receiver.open.set()
    wait_until(lambda: results(running) == {"dropped": 5, "delivered": WAITING})


def test_what_waits_is_sent_at_the_end_and_nobody_there_does_not_hold_it_up(
    serve: Callable[..., Gateway], receiver: Receiver, flagged: bytes
) -> None:
    running = serve()
    receiver.open.clear()
    for _ in range(3):
        post(running, flagged)
    threading.Timer(0.5, receiver.open.set).start()
    assert running.stop() == 0
    assert len(receiver.events) == 3
    (port,) = free_ports(1)
    alone = serve("--log-format", "text", url=f"http://127.0.0.1:{port}/")
    for _ in range(3):
        post(alone, flagged)
    began = time.monotonic()
    assert alone.stop() == 0
    assert time.monotonic() - began < 5
    assert f"not delivered to 127.0.0.1:{port}: it cannot be asked" in alone.output()


def test_the_secret_is_replaced_without_a_restart(
    serve: Callable[..., Gateway], receiver: Receiver, secret: Path, flagged: bytes
) -> None:
    running = serve("--log-format", "text")
    receiver.secret = OTHER
    post(running, flagged)
    wait_until(lambda: results(running) == {"failed": 1})
    # Both sign for a while.
    secret.write_text(f"{SECRET}\n{OTHER}\n")
    post(running, flagged)
    wait_until(lambda: results(running) == {"failed": 1, "delivered": 1})
    secret.write_text("damaged")
    post(running, flagged)
    wait_until(lambda: results(running) == {"failed": 1, "delivered": 2})
    assert "is not read again" in running.output()
    assert "damaged" not in running.output()


@pytest.mark.parametrize("text", ["", "secret", "whsec_", "whsec_c2hvcnQ=", f"{SECRET}!", SECRET[6:]])
def test_what_is_no_secret_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(InputError, match="whsec_ and the base64 of 24") as refused:
        read_secrets(path)
    assert not text[6:] or text[6:] not in str(refused.value)
    with pytest.raises(EnvironmentProblem, match="cannot be read"):
        read_secrets(tmp_path / "absent")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sample_webhook": "https://example.com/x"}, "go together; give both or neither"),
        ({"sample_webhook": "ftp://example.com/x"}, "is not an address as in https://example.com/flagged"),
        ({"sample_webhook": "https://a:b@example.com/x"}, "is not an address"),
        ({"sample_webhook": "file:///etc/passwd"}, "is not an address"),
        ({"sample_webhook": "https://example.com/x", "sample_webhook_secret": Path("/absent")}, "is not a file"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        ServeSettings(bundle=Path("x"), **settings)
