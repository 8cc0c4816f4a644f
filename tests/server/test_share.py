"""What each of several workers takes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from oodguard.core.allowance import cores
from oodguard.core.manifest import load_manifest
from oodguard.server.settings import ServeSettings
from oodguard.server.workers.share import CORES_OF_ONE, plan_of, share_of, workers_of, written

BUNDLE = Path("bundle")


@pytest.mark.parametrize(
    ("given", "workers", "expected"),
    [
        ({}, 2, {"decode_workers": 1, "max_queue": 64, "max_connections": 512, "max_queue_bytes": 128 * 2**20}),
        ({"decode_workers": 5}, 2, {"decode_workers": 3}),
        # What the largest request needs.
        ({}, 8, {"decode_workers": 1, "max_queue": 64, "max_connections": 128, "max_queue_bytes": 64 * 2**20}),
        ({"max_queue": 1000, "max_caller_queue": 500}, 4, {"max_queue": 250, "max_caller_queue": 125}),
        ({"max_caller_queue": 80}, 4, {"max_caller_queue": 64}),
        # Counted together, so it is whole.
        ({"max_decode_bytes": 2**31, "sample_max_bytes": 2**20}, 4,
         {"max_decode_bytes": 2**31, "sample_max_bytes": 2**20, "watch": False}),
    ],
)  # fmt: skip
def test_a_worker_takes_its_part(given: dict[str, Any], workers: int, expected: dict[str, Any]) -> None:
    settings = ServeSettings(bundle=BUNDLE, **given)
    share = share_of(settings, workers)
    assert {name: getattr(share, name) for name in expected} == expected
    # It is made again, and checked, in another process.
    assert ServeSettings(**written(share)) == share


def test_inferences_at_once_are_divided(bundle: Path) -> None:
    manifest = load_manifest(bundle)

    def sessions(workers: int, **given: Any) -> int:
        return plan_of(ServeSettings(bundle=bundle, workers=workers, **given), manifest).sessions

    assert sessions(1) == cores()
    assert sessions(1, sessions=6) == 6
    assert sessions(2, sessions=6) == 3
    assert sessions(4, sessions=6) == 2
    assert sessions(8, sessions=1) == 1


def test_auto_is_a_worker_for_every_four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((1, 1), (4, 1), (7, 1), (8, 2), (64, 16)):
        monkeypatch.setattr("oodguard.server.workers.share.cores", lambda available=available: available)
        assert workers_of(ServeSettings(bundle=BUNDLE, workers="auto")) == expected == max(1, available // CORES_OF_ONE)
    assert workers_of(ServeSettings(bundle=BUNDLE, workers=3)) == 3
    assert workers_of(ServeSettings(bundle=BUNDLE)) == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"workers": 2, "shadow": BUNDLE}, "--shadow and --workers cannot be used together; leave out --workers"),
        ({"workers": 2, "engine": "triton", "triton_url": "a:1"}, "--workers is for an engine that runs here"),
        ({"workers": 0}, "workers"),
        ({"workers": 65}, "workers"),
        ({"workers": "many"}, "workers"),
    ],
)
def test_what_workers_cannot_do_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        ServeSettings(bundle=BUNDLE, **given)
