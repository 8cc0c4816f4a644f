"""The last minute, from the metrics."""

from __future__ import annotations

from typing import Any

import pytest

from oodguard.server.metrics import REQUEST_SECONDS
from oodguard.server.traffic import INTERVAL, Traffic, TrafficReport, quantile


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def traffic_of(client: Any, clock: Clock) -> Traffic:
    parts = client.parts
    return Traffic(parts.metrics, parts.admission, parts.serving, parts.health, clock=clock)


def send(client: Any, *images: bytes) -> list[bool]:
    answer = client.post("/predict", files=[("image", image) for image in images]).json()
    return [found["is_ood"] for found in answer.get("predictions", [])]


def test_a_quiet_server_says_so(client: Any) -> None:
    report = TrafficReport.model_validate_json(client.get("/traffic").content)
    assert (report.images, report.flagged_share, report.latency_ms, report.not_ready) == (0, None, None, None)
    assert (report.model.name, report.queue.images, report.queue.limit) == ("discs", 0, 128)


def test_images_flags_and_refusals_are_differences_of_the_counters(
    client: Any, golden: list[bytes], picture: Any
) -> None:
    send(client, golden[0])
    clock = Clock()
    traffic = traffic_of(client, clock)
    flags = send(client, *golden, picture("blue"))
    send(client, b"junk")
    clock.now += 4.0
    report = traffic.report()
    assert (report.images, report.window_s) == (len(flags), 4.0)
    assert report.images_per_s == pytest.approx(len(flags) / 4)
    assert report.flagged_share == sum(flags) / len(flags)
    assert report.refused == 1
    assert report.latency_ms is not None
    assert 0 < report.latency_ms.p50 <= report.latency_ms.p95 < 10_000
    assert [(i.seconds, i.images, i.flagged, i.refused) for i in report.intervals] == [(4.0, len(flags), sum(flags), 1)]


def test_what_is_older_than_a_minute_is_forgotten(client: Any, golden: list[bytes]) -> None:
    clock = Clock()
    traffic = traffic_of(client, clock)
    send(client, *golden)
    for _ in range(12):
        clock.now += INTERVAL
        traffic.tick()
    assert traffic.report().images == len(golden)
    clock.now += INTERVAL
    traffic.tick()
    report = traffic.report()
    assert (report.images, report.window_s, len(report.intervals)) == (0, 60.0, 13)


def test_a_replaced_models_series_are_no_images_taken_back(client: Any, golden: list[bytes]) -> None:
    traffic = traffic_of(client, Clock())
    send(client, *golden)
    before = traffic.report().images
    manifest = client.parts.serving.model.manifest
    client.parts.metrics.model(manifest.model_copy(update={"classes": ("other", "classes")}), manifest.targets)
    assert traffic.report().images == before
    client.parts.metrics.model(manifest, manifest.targets)
    send(client, golden[0])
    assert traffic.report().images == before + 1


def test_only_answered_inference_is_timed(client: Any, golden: list[bytes]) -> None:
    send(client, b"junk")
    client.get("/model")
    assert client.sample('oodguard_request_seconds_count{route="/predict"}') == 0.0
    send(client, golden[0])
    assert client.sample('oodguard_request_seconds_count{route="/predict"}') == 1.0
    assert client.sample('oodguard_request_seconds_count{route="/v2/models/*"}') == 0.0


def test_quantiles_of_a_histogram() -> None:
    counts = [0.0] * (len(REQUEST_SECONDS) + 1)
    counts[1], counts[2] = 50, 50  # 1 to 2 ms, and 2 to 3 ms
    assert quantile(counts, 0.5) == 2.0
    assert quantile(counts, 0.25) == 1.5
    assert quantile(counts, 0.95) == 2.9
    counts = [0.0] * len(REQUEST_SECONDS) + [1.0]
    assert quantile(counts, 0.5) == 10_000.0
