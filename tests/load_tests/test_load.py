from __future__ import annotations

import itertools
import math

import pytest

from oodguard.load_tests.harness import percentile
from oodguard.load_tests.limit import Comparison, Organisation, fastest, finalists, organisations, turns
from oodguard.load_tests.load import LoadResult, schedule


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(v) for v in range(1, 101)]
    assert [percentile(values, share) for share in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([5.0], 99) == 5.0
    assert math.isnan(percentile([], 50))


@pytest.mark.parametrize("share", [0, 101])
def test_a_share_outside_the_data_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        percentile([1.0], share)


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert schedule(4, 1, arrivals="constant") == [0.0, 0.25, 0.5, 0.75]
    assert schedule(0.1, 2, arrivals="constant") == [0.0]


def test_poisson_arrivals_offer_the_same_load_with_exponential_gaps() -> None:
    due = schedule(200, 50, arrivals="poisson", seed=3)
    assert len(due) == 10_000
    assert due == sorted(due)
    assert 0 <= due[0] <= due[-1] <= 50
    gaps = [b - a for a, b in itertools.pairwise(due)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(1 / 200, rel=0.02)
    assert deviation == pytest.approx(mean, rel=0.05)
    assert due == schedule(200, 50, arrivals="poisson", seed=3)
    assert due != schedule(200, 50, arrivals="poisson", seed=4)


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1, 0), (-1, 1)])
def test_an_impossible_load_is_refused(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        schedule(rate, seconds)


def test_outcomes_are_counted_once_each() -> None:
    result = LoadResult(
        offered=10,
        seconds=1,
        outcomes={"200": 3, "429": 2, "503": 1, "504": 1, "500": 1, "timeout": 2},
        latencies=(1.0, 2.0, 30.0),
        late_p99_ms=0.1,
        client_cpu=0.0,
    )
    assert result.accepted == 3
    assert result.count("429", "503") == 3
    assert (result.errors, result.failed) == (3, 7)
    assert result.rate == 3.0
    assert (result.latency(50), result.latency(99)) == (2.0, 30.0)


def test_the_limit_tries_threads_processes_and_parallel_runs() -> None:
    shapes = {(o.processes, o.threads, o.intra_op) for o in organisations(4)}
    assert shapes == {(4, 1, 1), (1, 4, 1), (1, 1, 4)}
    assert {o.batch for o in organisations(4)} == {1, 4, 8}
    assert len(organisations(1)) == 3


def test_every_kind_of_loop_reaches_the_rounds_with_its_best_batch() -> None:
    threads, processes = Organisation(1, 2, 1, batch=1), Organisation(2, 1, 1, batch=4)
    rates = {threads: 50.0, Organisation(1, 2, 1, batch=8): 40.0, Organisation(2, 1, 1, batch=1): 9.0, processes: 10.0}
    assert set(finalists(rates)) == {threads, processes}


def test_the_limit_is_the_best_over_all_rounds_and_goes_first_in_every_other() -> None:
    steady, lucky = Organisation(1, 2, 1, batch=1), Organisation(2, 1, 1, batch=4)
    rounds = [{steady: 50.0, lucky: 90.0}, {steady: 51.0, lucky: 20.0}, {steady: 50.0, lucky: 30.0}]
    assert fastest([steady, lucky], rounds) == steady
    assert [turns(number, "a", "b") for number in range(3)] == [("a", "b"), ("b", "a"), ("a", "b")]


def test_a_share_is_taken_within_its_round() -> None:
    row = Comparison(Organisation(1, 2, 1, batch=4), (100.0, 50.0, 80.0)).row("gateway", [90.0, 50.0, 60.0])
    assert (row["limit"], row["gateway"]) == (80.0, 60.0)
    assert (row["share_percent"], row["share_range"]) == (90.0, "75.0 to 100.0")
    assert row["gateways"] == [90.0, 50.0, 60.0]
