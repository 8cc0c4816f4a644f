"""Five seconds of the ten-minute soak: what client and server count is the same, exactly."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.mix import Mix, MixOptions
from oodguard.load_tests.soak import REQUESTS, Mark, Soak, compare, requests, soak
from oodguard.load_tests.tally import Tally


def test_server_and_client_count_the_same(bundle: Path, photos: Path, strangers: Path) -> None:
    options = MixOptions(images=photos / "test", ood_images=strangers, ood_share=0.5, max_images=3)
    sent = requests(Mix(options, random.Random(0)))
    with Gateway(bundle) as server:
        found = asyncio.run(soak(server, sent, rate=REQUESTS / 5, seconds=5, every=1))
    assert found.faults == []
    counts = {str(row["what"]): row["client"] for row in found.counts}
    assert {"requests 200", "images stranger", "images unsure", "refused unsupported_type"} <= set(counts)
    if found.outcomes.keys() == {"200"}:  # nothing was shed: every image has its verdict or its reason
        assert sum(int(str(counts[name])) for name in counts if not name.startswith("requests")) == sum(
            request.images for request in sent
        )
    assert sum(found.outcomes.values()) == REQUESTS
    assert len(found.marks) >= 5
    assert all(mark.rss_mb > 50 and mark.descriptors > 5 for mark in found.marks)


def test_counts_that_differ_and_what_must_not_be_are_faults() -> None:
    client = Tally(Counter({"200": 5}), Counter({"stranger": 2, "answer": 3}))
    server = Tally(Counter({"200": 5}), Counter({"stranger": 2, "answer": 4}), Counter({"empty": 1}))
    rows = compare(client, server)
    assert [row["what"] for row in rows if not row["same"]] == ["images answer", "refused empty"]
    marks = tuple(Mark(m, 100 + m, 10, 0, 0) for m in range(11))
    found = Soak(marks, tuple(rows), {"200": 4, "500": 1, "429": 2, "422": 1}, {}, (10, 12))
    assert found.faults == [
        "images answer: client 3, server 4",
        "refused empty: client 0, server 1",
        "1 requests ended as 500",
        "2 more descriptors are open than before",
    ]
    assert found.growth_percent == pytest.approx(100 * (110 / 102 - 1))
