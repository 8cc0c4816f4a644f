"""Overload, deadlines, engine trouble and slow or broken clients, in process and against a real server."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from oodguard.load_tests.process import wait_until
from oodguard.server.engines.fake import FakeEngine

PNG = {"content-type": "image/png"}


def post(client: Any, image: bytes, **headers: str) -> Any:
    return client.post("/predict", content=image, headers=PNG | headers)


def in_thread(call: Any) -> Any:
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(call)
    finally:
        pool.shutdown(wait=False)


def test_past_the_queue_it_is_429_with_retry_after_on_every_route(start: Any, fake: FakeEngine, picture: Any) -> None:
    client = start(engine=fake, max_queue=2, max_files=2)
    with client.held(fake):
        inside = [in_thread(lambda: post(client, picture())) for _ in range(2)]
        wait_until(lambda: client.parts.admission.images == 2)
        for answer in (post(client, picture()), client.post("/v2/models/discs/infer", json={})):
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
        assert client.sample("oodguard_queue_images") == 2.0
    assert [future.result().status_code for future in inside] == [200, 200]
    assert post(client, picture()).status_code == 200
    assert client.sample('oodguard_rejected_total{code="overloaded"}') == 2.0


def test_a_request_that_does_not_fit_as_a_whole_takes_nothing(start: Any, fake: FakeEngine, picture: Any) -> None:
    client = start(engine=fake, max_queue=3, max_files=3)
    files = [("image", ("x", picture()))] * 3
    with client.held(fake):
        inside = in_thread(lambda: post(client, picture()))
        wait_until(lambda: client.parts.admission.images == 1)
        assert client.post("/predict", files=files).status_code == 429
        assert client.parts.admission.images == 1
    assert inside.result().status_code == 200
    assert client.post("/predict", files=files).status_code == 200
    assert (client.parts.admission.images, client.parts.admission.bytes) == (0, 0)


def test_the_caller_may_shorten_the_deadline_and_is_bounded(start: Any, fake: FakeEngine, picture: Any) -> None:
    client = start(engine=fake, request_timeout=3000.0, max_request_timeout=3600.0, drain_timeout=7200.0)
    with client.held(fake):
        answer = post(client, picture(), **{"x-request-timeout-ms": "50"})
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_missed")
    assert post(client, picture(), **{"x-request-timeout-ms": "1e9"}).status_code == 200
    for bad in ("0", "-5", "9", "soon", "nan"):
        assert post(client, picture(), **{"x-request-timeout-ms": bad}).status_code == 422


def test_no_caller_gets_more_time_than_the_server_gives(start: Any, fake: FakeEngine, picture: Any) -> None:
    client = start(engine=fake, request_timeout=0.05, max_request_timeout=0.05)
    with client.held(fake):
        assert post(client, picture(), **{"x-request-timeout-ms": "1e9"}).status_code == 504


def test_a_wedged_engine_turns_readiness_then_liveness_red(start: Any, fake: FakeEngine, picture: Any) -> None:
    client = start(engine=fake, stall_after=0.01, dead_after=3600.0, request_timeout=0.05)
    with client.held(fake):
        # The slow inference may still end, so requests go on to be taken, within their deadline.
        assert post(client, picture()).status_code == 504
        assert "running for more than" in client.get("/health/ready").json()["detail"]
        assert client.get("/health/live").status_code == client.get("/v2/health/live").status_code == 200
        assert post(client, picture()).status_code == 504
        client.parts.health.dead_after = 0.01
        assert client.get("/health/live").status_code == client.get("/v2/health/live").status_code == 503
        refused = post(client, picture())
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    wait_until(lambda: client.get("/health/ready").status_code == 200)
    assert client.get("/health/live").status_code == 200
    assert post(client, picture()).status_code == 200


def test_a_poisoned_image_leaves_its_batch_mates_as_they_are_alone(client: Any, golden: list[bytes]) -> None:
    alone = [post(client, image).json()["predictions"][0] for image in golden]
    poison = [golden[0][:300], b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b""]
    images = [image for one in golden for image in (one, poison[len(one) % 3])]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda image: post(client, image), images))
    for expected, answer in zip(alone, answers[::2], strict=True):
        found = answer.json()["predictions"][0]
        assert (found["label"], found["is_ood"]) == (expected["label"], expected["is_ood"])
        assert found["ood_score"] == pytest.approx(expected["ood_score"], rel=1e-3, abs=1e-4)
    assert all(400 <= answer.status_code < 500 for answer in answers[1::2])


def raw(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def test_slow_and_oversized_clients_are_cut_off(server: Any, picture: Any) -> None:
    running = server("--header-timeout", "0.5", "--body-timeout", "0.7", "--max-header-bytes", "4096")

    def silent() -> bytes:
        with raw(running.url) as connection:
            return until_closed(connection)

    def slow_head() -> bytes:
        with raw(running.url) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            return until_closed(connection)

    def slow_body() -> bytes:
        with raw(running.url) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n")
            connection.sendall(b"Content-Length: 5000\r\n\r\nabc")
            return until_closed(connection)

    def endless_head() -> bytes:
        with raw(running.url) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 9000)
            return until_closed(connection)

    def not_http() -> bytes:
        with raw(running.url) as connection:
            connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
            return until_closed(connection)

    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(one) for one in (silent, slow_head, slow_body, endless_head, not_http)]
        answers = [future.result(20) for future in futures]
    for answer, status in zip(answers, (408, 408, 408, 431, 400), strict=True):
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
        assert b"application/problem+json" in head
        assert json.loads(body)["status"] == status
    assert httpx.post(f"{running.url}/predict", content=picture(), headers=PNG).status_code == 200


def test_a_slow_body_costs_none_of_the_time_to_answer_in(server: Any, picture: Any) -> None:
    running = server("--request-timeout", "0.5", "--body-timeout", "5")
    body = picture(size=(60, 60))

    def upload(content: bytes, pause: float, head: str = "") -> bytes:
        with raw(running.url) as connection:
            lines = f"Host: x\r\nContent-Type: image/png\r\nConnection: close\r\n{head}"
            connection.sendall(f"POST /predict HTTP/1.1\r\n{lines}Content-Length: {len(content)}\r\n\r\n".encode())
            step = len(content) // 8 + 1
            for place in range(0, len(content), step):
                connection.sendall(content[place : place + step])
                time.sleep(pause)
            return until_closed(connection)

    with ThreadPoolExecutor(2) as pool:
        slow, impatient = pool.map(lambda head: upload(body, 0.2, head), ["", "X-Request-Timeout-Ms: 300\r\n"])
    for answer in (slow, impatient):
        assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]
        timing = json.loads(answer.partition(b"\r\n\r\n")[2])["timing_ms"]
        assert timing["read"] > 1000
    # What alerts watch is the time of the server, not that of a network.
    assert running.sample('oodguard_request_seconds_sum{route="/predict"}') < 1.0
    assert ("/predict", "504") not in running.count("oodguard_requests", "route", "status")


def test_a_body_that_never_ends_is_408_and_says_how_far_it_came(server: Any) -> None:
    running = server("--body-timeout", "0.5")
    with raw(running.url) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n")
        connection.sendall(b"Content-Length: 5000\r\n\r\n" + b"a" * 1200)
        answer = until_closed(connection)
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (problem["status"], problem["code"]) == (408, "too_slow")
    assert "1,200 of 5,000 bytes of the body arrived within 0.5 s" in problem["detail"]


def test_a_refused_body_does_not_hold_its_connection(server: Any) -> None:
    running = server("--body-timeout", "0.6")
    with raw(running.url) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n")
        connection.sendall(b"Content-Length: 100000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 415 ")

        def cut_off() -> bool:
            try:
                connection.sendall(b"a")
            except OSError:
                return True
            return False

        assert 0.2 < wait_until(cut_off, 5.0) < 3.0


def test_small_bodies_that_become_large_hold_up_nobody_else(server: Any) -> None:
    running = server("--max-body-bytes", "60000000", "--max-image-bytes", "100000000")
    bomb = gzip.compress(bytes(59_000_000))
    assert len(bomb) < 60_000
    headers = {"content-type": "image/png", "content-encoding": "gzip"}
    stop = threading.Event()

    def send() -> set[int]:
        statuses = set()
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                statuses.add(client.post(f"{running.url}/predict", content=bomb, headers=headers).status_code)
        return statuses

    with ThreadPoolExecutor(3) as pool, httpx.Client(timeout=30) as probe:
        senders = [pool.submit(send) for _ in range(3)]
        waits = []
        for _ in range(40):
            began = time.monotonic()
            assert probe.get(f"{running.private}/health/live").status_code == 200
            waits.append(time.monotonic() - began)
            time.sleep(0.02)
        stop.set()
        assert set().union(*(one.result(60) for one in senders)) <= {415, 429}
    # One such body takes a tenth of a second or more to inflate: done on the event loop, every probe would wait for it.
    assert sorted(waits)[len(waits) // 2] < 0.1


def test_one_connection_too_many_is_refused_and_the_others_work(server: Any, picture: Any) -> None:
    running = server("--max-connections", "3")
    open_ones = [raw(running.url) for _ in range(3)]
    with raw(running.url) as late:
        assert until_closed(late).startswith(b"HTTP/1.1 429 ")
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    open_ones[0].sendall(request)
    assert until_closed(open_ones[0]).startswith(b"HTTP/1.1 200 ")
    for connection in open_ones:
        connection.close()
    wait_until(lambda: httpx.post(f"{running.url}/predict", content=picture(), headers=PNG).status_code == 200)


def test_a_client_that_leaves_frees_its_place(server: Any, picture: Any) -> None:
    running = server()
    body = picture()
    for _ in range(20):
        with raw(running.url) as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
                % len(body)
                + body
            )
    wait_until(lambda: running.sample("oodguard_queue_images") == 0.0, 5.0)
    assert httpx.post(f"{running.url}/predict", content=body, headers=PNG).status_code == 200


def test_request_ids_headers_and_logs(server: Any, golden: list[bytes]) -> None:
    running = server("--log-level", "info")
    url = f"{running.url}/predict?accept=0.9"
    answer = httpx.post(url, content=golden[0], headers=PNG | {"x-request-id": "order-17"})
    assert answer.headers["x-request-id"] == "order-17"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "server" not in answer.headers
    odd = httpx.post(url, content=b"junk", headers=PNG | {"x-request-id": "a b\tc"})
    assert odd.headers["x-request-id"] != "a b\tc"
    httpx.get(f"{running.url}/secret-path-with-data")
    assert running.stop() == 0
    lines = [json.loads(line) for line in running.output().splitlines() if line.startswith("{")]
    found = next(line for line in lines if line.get("request_id") == "order-17")
    assert (found["status"], found["message"]) == (200, "POST /predict 200")
    assert found["ms"] > 0
    assert "secret-path" not in running.output()
    assert "accept=0.9" not in running.output()


def test_overload_does_not_hang_and_passes(server: Any, golden: list[bytes]) -> None:
    running = server("--max-queue", "8", "--max-files", "8", "--sessions", "1")
    statuses: list[int] = []
    stop = threading.Event()

    def hammer() -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                answer = client.post(f"{running.url}/predict", content=golden[0], headers=PNG)
                statuses.append(answer.status_code)

    threads = [threading.Thread(target=hammer) for _ in range(24)]
    for thread in threads:
        thread.start()
    wait_until(lambda: statuses.count(200) > 100 and 429 in statuses, 60.0)
    stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert set(statuses) == {200, 429}
    answer = httpx.post(f"{running.url}/predict", content=golden[0], headers=PNG)
    assert answer.status_code == 200
    assert running.sample("oodguard_queue_images") == 0.0
