from __future__ import annotations

import math
import random
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.load_tests.mix import Mix, MixOptions, mix_options
from oodguard.load_tests.shapes import SHAPES, users_at
from oodguard.load_tests.summary import Summary
from oodguard.load_tests.tally import BROKEN, UNREADABLE, Tallies, Tally
from oodguard.load_tests.thresholds import add_thresholds, check
from oodguard.load_tests.triton_http import read_served


def tally(*answers: tuple[str, int, int, float]) -> Tally:
    """Of answers with an outcome, flagged images, other images and milliseconds."""
    total = Tally()
    for outcome, flagged, others, milliseconds in answers:
        total.add(Tally(Counter([outcome]), Counter(stranger=flagged, answer=others)).timed(milliseconds))
    return total


GOOD = tally(*(("200", 1, 1, float(ms)) for ms in range(1, 101)))
MIXED = tally(
    ("200", 0, 3, 20.04), ("200", 1, 0, 12345.678), ("429", 0, 0, 1), ("500", 0, 0, 1), (BROKEN, 0, 0, 1),
)  # fmt: skip
MIXED.decisions.update(answer=-2, unsure=2)


def bounds(*arguments: str) -> Namespace:
    parser = ArgumentParser()
    add_thresholds(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("steady", [10, 10, 10, 10, 10, 10]),
        ("step", [2, 2, 6, 6, 10, 10]),
        ("soak", [1, 10, 10, 10, 10, 1]),
        ("spike", [2, 2, 10, 10, 2, 2]),
    ],
)
def test_shapes(shape: str, expected: list[int]) -> None:
    moments = (0.0, 0.15, 0.4, 0.59, 0.8, 0.999)
    assert [users_at(shape, m, users=10) for m in moments] == expected  # type: ignore[arg-type]
    assert all(users_at(shape, m / 50, users=1) == 1 for m in range(50))  # type: ignore[arg-type]


def test_every_shape_has_a_case() -> None:
    assert set(SHAPES) == {"steady", "step", "soak", "spike"}


def test_a_tally_tells_answered_shed_and_failed_apart() -> None:
    assert (MIXED.requests, MIXED.answered, MIXED.shed, MIXED.errors) == (5, 2, 1, 2)
    assert (MIXED.images, MIXED.decisions["stranger"], MIXED.flagged_share) == (4, 1, 0.25)
    assert (MIXED.latency(50), MIXED.latency(99)) == (20.0, 12350.0)
    assert (GOOD.latency(50), GOOD.latency(95), GOOD.latency(99)) == (50, 95, 99)
    assert math.isnan(Tally().latency(50))
    assert Tally().share(0) == Tally().flagged_share == 0


def test_workers_send_every_count_once() -> None:
    worker, master = Tallies({"raw": GOOD, "json": MIXED}), Tallies()
    master.receive(worker.take())
    master.receive(worker.take())
    master.receive(Tallies({"raw": tally(("200", 0, 1, 5.0))}).take())
    assert master.total.requests == 106
    assert master.of("json") == MIXED
    assert master.of("raw").latencies[5.0] == 2


def test_thresholds_are_kept_or_missed() -> None:
    given = bounds("--max-p99-ms", "99", "--max-p50-ms", "49", "--min-images-per-second", "20", "--max-shed-share", "0")
    assert [found.kept for found in check(given, GOOD, 10)] == [True, False, True, True, True, True]
    kept = {found.words: found.kept for found in check(bounds("--max-shed-share", "0.1"), MIXED, 1)}
    assert kept["share of requests that failed"] is False
    assert kept["share of requests that were shed"] is False
    assert not any(found.kept for found in check(bounds("--max-p99-ms", "1"), Tally(), 1)[:2])


def test_the_summary_is_the_same_on_the_page_in_markdown_and_in_csv(
    tmp_path: Path, parse_page: Callable[[str], Element]
) -> None:
    checks = check(bounds("--max-p99-ms", "50"), MIXED, 2)
    summary = Summary(Tallies({"raw": MIXED}), 2.0, checks, {"shape": "<step>", "people": 3})
    assert not summary.kept
    row = ("raw", "5", "2.0", "20", "12350", "12350", "20.0", "40.0", "50.0", "25.0")
    assert summary.rows() == (row, ("all", *row[1:]))
    summary.write(tmp_path / "new")
    table = "".join(parse_page((tmp_path / "new" / "summary.html").read_text()).itertext())
    markdown, rows = ((tmp_path / "new" / f"summary.{name}").read_text() for name in ("md", "csv"))
    assert "| all | 5 | 2.0 |" in markdown
    assert "all,5,2.0,20" in rows
    for text in (table, markdown):
        assert "<step> load of up to 3 users" in text
        assert "MISSED: p99 of answered requests, ms: 1.235e+04, bound 50" in text
        assert "200 2" in text
        assert "this machine answers 2.0 images/s at p99 12350 ms; it was saturated: 20.0" in text
    assert markdown.rstrip().splitlines()[-1] == summary.sentence
    with pytest.raises(InputError, match="cannot be written"):
        summary.write(tmp_path / "new" / "summary.md")


def test_a_mix_has_the_share_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(b"inside")
    (tmp_path / "out.png").write_bytes(b"outside")
    where = {"images": str(tmp_path / "in.png"), "ood_images": str(tmp_path / "out.png")}
    mix = Mix(mix_options(Namespace(**where, ood_share=0.3, max_images=3)), random.Random(1))
    drawn = mix.draw(2000)
    assert drawn.count(b"outside") / 2000 == pytest.approx(0.3, abs=0.04)
    drawn_requests = [mix.gateway() for _ in range(300)]
    assert {(one.kind, one.images) for one in drawn_requests if one.kind != "raw"} == {
        (kind, images) for kind in ("multipart", "json") for images in (1, 2, 3)
    }
    assert {one.images for one in drawn_requests if one.kind == "raw"} == {1}
    # Nobody needs images that are never sent.
    Mix(MixOptions(images=tmp_path / "in.png", ood_images=tmp_path / "absent", ood_share=0), random.Random()).draw(1)
    with pytest.raises(InputError, match="--ood-share"):
        mix_options(Namespace(ood_share=2.0))


def test_a_tally_counts_every_image_of_an_answer() -> None:
    problems = [("empty", 422), ("unsupported_type", 415)]
    errors = ",".join(f'{{"title":"t","status":{status},"code":"{code}","detail":"d"}}' for code, status in problems)
    total = Tally.of_answer(
        422, f'{{"title":"t","status":422,"code":"all_failed","detail":"d","errors":[{errors}]}}'.encode()
    )
    total.add(Tally.of_answer(429, b'{"title":"t","status":429,"code":"overloaded","detail":"d"}'))
    assert total.refused == Counter(empty=1, unsupported_type=1, overloaded=1)
    assert total.outcomes == Counter({"422": 1, "429": 1})
    assert total.since(total) == Tally()


def test_answers_that_are_not_oodguards() -> None:
    assert Tally.of_answer(200, b"<html>").outcomes == {UNREADABLE: 1}
    assert Tally.of_answer(503, b"<html>").outcomes == {"503": 1}
    assert Tally.of_answer(0, b"").outcomes == {BROKEN: 1}
    with pytest.raises(EnvironmentProblem, match="does not describe a model m"):
        read_served("http://127.0.0.1:9", "m")
