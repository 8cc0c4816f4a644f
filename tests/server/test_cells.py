"""Counts that outlive the process that made them, and what workers share through them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values

from oodguard.core.curve import QuantileCurve
from oodguard.core.errors import ImageError
from oodguard.server.cells import (
    DECODING,
    IMAGES,
    MOST_CELLS,
    ROW,
    MappedCells,
    PrivateCells,
    keep_values_in,
    new_store,
)
from oodguard.server.metrics import Metrics
from oodguard.server.promise import Promise
from oodguard.server.shared_room import SharedRoom
from oodguard.server.workers.merged import Merged
from oodguard.server.workers.messages import ModelNews, WorkerState

NEWS = ModelNews(
    name="discs", version="1", fingerprint=None, runs_on="", sample=None, labels=("jade",), scores=("pds",), sources=()
)  # fmt: skip


@pytest.fixture
def library() -> Iterator[None]:
    """Puts the library's own values back."""
    kept = values.ValueClass
    yield
    values.ValueClass = kept


def counting(store: int, folder: Path) -> subprocess.Popen[str]:
    """A process that counts in a store as fast as it can and prints what it has counted."""
    program = folder / "count.py"
    program.write_text(
        "import sys\n"
        "from prometheus_client import Counter\n"
        "from oodguard.server.cells import MappedCells, keep_values_in\n"
        "keep_values_in(MappedCells(int(sys.argv[1])))\n"
        "counter = Counter('oodguard_counted', 'Counted.')\n"
        "while True:\n    counter.inc()\n    print(counter._value.get(), flush=True)\n"
    )
    command = [sys.executable, str(program), str(store)]
    return subprocess.Popen(command, pass_fds=(store,), stdout=subprocess.PIPE, text=True)


def test_cells_are_found_again_by_their_name_and_labels() -> None:
    store = new_store()
    before = MappedCells(store)
    before.take("a_total", {"label": "é\n"}, 1)[0] = 3.0
    before.take("b", {}, 3, bounds=("0.5", "+Inf"))[2] = 0.25
    after = MappedCells(store)
    assert list(after.take("b", {}, 3, bounds=("0.5", "+Inf"))) == [0.0, 0.0, 0.25]
    assert after.take("a_total", {"label": "é\n"}, 1)[0] == 3.0
    assert after.take("a_total", {"label": "other"}, 1)[0] == 0.0
    assert [(one.name, dict(one.labels), one.bounds) for one in before.taken()] == [
        ("a_total", {"label": "é\n"}, ()),
        ("b", {}, ("0.5", "+Inf")),
        ("a_total", {"label": "other"}, ()),
    ]


def test_a_store_without_room_gives_cells_that_nobody_else_sees() -> None:
    cells = MappedCells(new_store())
    cells.take("most", {}, MOST_CELLS - ROW - 1)
    cells.take("one more", {}, 2)[0] = 1.0
    assert cells.take("one more", {}, 2)[0] == 0.0
    assert [one.name for one in cells.taken()] == ["most"]
    cells.take("last", {}, 1)[0] = 5.0
    assert cells.take("last", {}, 1)[0] == 5.0


def test_private_cells_begin_at_nothing() -> None:
    cells = PrivateCells()
    cells.take("a", {}, 2)[0] = 1.0
    assert list(cells.take("a", {}, 2)) == [0.0, 0.0]
    assert (len(cells.row), list(cells.others)) == (ROW, [])


def test_a_killed_process_leaves_every_count(tmp_path: Path) -> None:
    store = new_store()
    told = 0.0
    for _ in range(2):
        process = counting(store, tmp_path)
        assert process.stdout is not None
        first = float(process.stdout.readline())
        # Whoever comes next goes on where the one before it was killed.
        assert first > told
        for _ in range(200):
            told = float(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        told = max([told, *map(float, process.stdout.read().split()[:-1])])
        process.wait()
        process.stdout.close()
    (counted,) = MappedCells(store).taken()
    assert told <= counted.values[0] <= told + 2


def test_two_workers_are_exported_as_one(library: None) -> None:
    stores = [new_store() for _ in range(3)]
    expected = CollectorRegistry()
    # Made before the library's values are replaced.
    alone = Counter("oodguard_key_requests", "", ["key", "status"], registry=expected).labels("alice", "200")
    waits = Histogram("oodguard_batch_images", "", buckets=(1, 2, 4), registry=expected)
    own = MappedCells(stores[0])
    keep_values_in(own)
    fleet = Metrics(own)
    for number, images in ((1, (1, 3)), (2, (3, 9))):
        keep_values_in(MappedCells(stores[number]))
        metrics = Metrics(MappedCells(stores[number]))
        metrics.by_key("alice", 200)
        alone.inc()
        for count in images:
            metrics.batch_images.observe(count)
            waits.observe(count)
    states = [
        WorkerState(
            open=0, received=0, problem=None, dead=None,
            gauges=(("oodguard_queue_images", {}, inside), ("oodguard_decoding_seconds", {}, inside)),
        )
        for inside in (3.0, 4.0)
    ]  # fmt: skip
    merged = Merged(fleet, [MappedCells(one) for one in stores], states=lambda: states, models=lambda: [NEWS])
    text = merged.render().decode()
    for line in text, generate_latest(expected).decode():
        assert 'oodguard_key_requests_total{key="alice",status="200"} 2.0' in line
    # Buckets are cumulative, and the library's own would say the same where the bounds are the same.
    theirs = generate_latest(expected).decode()
    for line in ('_bucket{le="1.0"} 1.0', '_bucket{le="4.0"} 3.0', '_bucket{le="+Inf"} 4.0', "_count 4.0", "_sum 16.0"):
        assert f"oodguard_batch_images{line}" in text
        assert f"oodguard_batch_images{line}" in theirs
    assert "oodguard_queue_images 7.0" in text
    assert "oodguard_decoding_seconds 4.0" in text
    began = next(line for line in text.splitlines() if line.startswith("oodguard_batch_images_created "))
    assert time.time() - 60 < float(began.split()[1]) <= time.time()


def test_series_of_another_model_are_left_out(library: None) -> None:
    stores = [new_store(), new_store()]
    keep_values_in(MappedCells(stores[0]))
    fleet = Metrics(MappedCells(stores[0]))
    worker = MappedCells(stores[1])
    keep_values_in(worker)
    Metrics(worker)._predictions.labels("jade", "false").inc()
    worker.take("oodguard_predictions_total", {"label": "vanished", "is_ood": "false"}, 2)[0] = 5.0
    text = Merged(
        fleet, [MappedCells(one) for one in stores], states=lambda: [], models=lambda: [NEWS]
    ).render().decode()  # fmt: skip
    assert 'oodguard_predictions_total{is_ood="false",label="jade"} 1.0' in text
    assert "vanished" not in text


def test_totals_are_of_all_workers() -> None:
    stores = [new_store(), new_store()]
    first, second = MappedCells(stores[0], others=stores[1:]), MappedCells(stores[1], others=stores[:1])
    first.row[IMAGES], second.row[IMAGES] = 3, 4
    assert Metrics(first).totals().images == Metrics(second).totals().images == 7


def test_evidence_goes_on_where_a_worker_was_killed() -> None:
    store, curve = new_store(), QuantileCurve.fit(np.arange(1000))
    whole = Promise(curve)
    for percentile in (99.9, 50.0, 99.0):
        Promise(curve, cells=MappedCells(store), stream="a").add(percentile)
        whole.add(percentile)
    assert Promise(curve, cells=MappedCells(store), stream="a").total == whole.total > 0
    assert Promise(curve, cells=MappedCells(store), stream="b").total == 0
    again = Promise(curve, cells=MappedCells(store), stream="a")
    again.begin()
    assert Promise(curve, cells=MappedCells(store), stream="a").total == 0


def test_decoders_of_all_workers_keep_to_one_limit() -> None:
    stores, guard = [new_store(), new_store()], new_store()
    mine = SharedRoom(100, MappedCells(stores[0], others=stores[1:], guard=guard))
    theirs = MappedCells(stores[1])
    theirs.row[DECODING] = 70
    with pytest.raises(ImageError, match="at most 100"), mine.hold(101):
        pass
    entered, leave = threading.Event(), threading.Event()

    def decode(size: int) -> None:
        with mine.hold(size):
            entered.set()
            leave.wait(10)

    with mine.hold(30):
        assert (mine.held, theirs.row[DECODING]) == (30, 70)
    waiting = threading.Thread(target=decode, args=(31,))
    waiting.start()
    assert not entered.wait(0.2)
    assert mine.waiting == 1
    # A smaller picture is not held up by it.
    with mine.hold(10):
        pass
    theirs.row[DECODING] = 0
    assert entered.wait(5)
    assert MappedCells(stores[0]).row[DECODING] == mine.held == 31
    leave.set()
    waiting.join()
    assert mine.held == mine.waiting == 0


def test_two_processes_never_hold_more_than_the_limit(tmp_path: Path) -> None:
    program = tmp_path / "hold.py"
    program.write_text(
        "import sys, time\n"
        "from oodguard.server.cells import DECODING, MappedCells\n"
        "from oodguard.server.shared_room import SharedRoom\n"
        "mine, other, guard = map(int, sys.argv[1:])\n"
        "cells = MappedCells(mine, others=[other], guard=guard)\n"
        "room, most = SharedRoom(100, cells), 0\n"
        "for _ in range(200):\n"
        "    with room.hold(60):\n"
        "        most = max(most, cells.row[DECODING] + cells.others[0][DECODING])\n"
        "        time.sleep(0.0005)\n"
        "print(most)\n"
    )
    first, second, guard = new_store(), new_store(), new_store()
    running = [
        subprocess.Popen(
            [sys.executable, str(program), str(mine), str(other), str(guard)],
            pass_fds=(first, second, guard), stdout=subprocess.PIPE, text=True,
        )
        for mine, other in ((first, second), (second, first))
    ]  # fmt: skip
    assert [float(one.communicate(timeout=60)[0]) for one in running] == [60.0, 60.0]
    for one in (first, second, guard):
        os.close(one)
