"""How far a long command is: lines where there is no terminal, JSON for programs, nothing with --quiet."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from oodguard.cli.main import run as run_command
from oodguard.cli.output import Output, choose_form
from oodguard.cli.progress import LineReporter, QuietReporter, reporter, spoken

WAIT = 10.0


def lines(text: str) -> list[str]:
    """The lines without their time."""
    return [line.split(" ", 1)[1] for line in text.splitlines()]


def test_a_phase_is_one_line_and_tells_the_time_that_remains(capsys: pytest.CaptureFixture[str]) -> None:
    with LineReporter(every=0.05) as report:
        report.progress("features", 0, 1000)
        report.progress("features (of training)", 500, 1000)
        found, until = "", time.monotonic() + WAIT
        while "left" not in found and time.monotonic() < until:
            time.sleep(0.01)
            found += capsys.readouterr().err
        report.progress("features (of training)", 1000, 1000)
        report.progress("heads", 0, 3)
        report.note("chosen by left-out classes")
    first, second, *rest = lines(found + capsys.readouterr().err)
    assert first == "features: 0 of 1,000"
    assert second == "features (of training): 500 of 1,000, about 1 s left"
    assert "features (of training): 1,000 of 1,000 in 1 s" in rest
    assert rest[-2:] == ["heads: 0 of 3", "chosen by left-out classes"]


def test_a_phase_that_ends_soon_has_no_second_line_and_one_that_repeats_no_second_first_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with LineReporter() as report:
        for _ in range(3):
            for done in range(1, 4):
                report.progress("fold", done, 3)
    assert lines(capsys.readouterr().err) == ["fold: 1 of 3"]


def test_work_between_phases_is_told_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    with LineReporter(every=0.02) as report:
        report.progress("fold", 3, 3)
        found, until = "", time.monotonic() + WAIT
        while "at work" not in found and time.monotonic() < until:
            time.sleep(0.01)
            found += capsys.readouterr().err
    assert lines(found)[1] == "at work for 1 s"


def test_names_in_lines_act_on_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with LineReporter() as report:
        report.note("left out \x1b[2J[/red]")
    assert lines(capsys.readouterr().err) == [r"left out \x1b[2J[/red]"]
    choose_form("json")
    with LineReporter() as report:
        report.note("left out \x1b[2J[/red]\x9b")
    written = capsys.readouterr().err
    assert set(written).isdisjoint({"\x1b", "\x9b"})
    assert json.loads(written)["message"] == "left out \x1b[2J[/red]\x9b"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (3540, "59 min"), (3600, "1 h 0 min"), (9000, "2 h 30 min")],
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


def test_who_shows_progress_follows_from_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(reporter(Output(quiet=True)), QuietReporter)
    assert isinstance(reporter(Output(log_format="json")), LineReporter)
    assert isinstance(reporter(), LineReporter)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(reporter(), LineReporter)


def test_a_command_tells_its_phases_as_lines_as_json_or_not_at_all(
    capsys: pytest.CaptureFixture[str], bundle: Path, photos: Path, tmp_path: Path
) -> None:
    def scored(*more: str) -> tuple[str, str]:
        out = tmp_path / f"{len(more)}.csv"
        assert run_command(["score", str(bundle), str(photos / "test"), "--out", str(out), "--overwrite", *more]) == 0
        found = capsys.readouterr()
        assert "45 images" in found.out
        return found.out, found.err

    err = scored()[1]
    assert [line.split(":")[0] for line in lines(err)] == ["listing", "scoring"]
    assert "scoring: 0 of 45" in lines(err)
    assert scored("--quiet")[1] == ""
    found = [json.loads(line) for line in scored("--log-format", "json")[1].splitlines()]
    assert {(one["level"], one["phase"]) for one in found} == {("info", "listing"), ("info", "scoring")}
    last = found[-1]
    assert (last["phase"], last["done"], last["total"]) == ("scoring", 45, 45)
    assert last["message"].startswith("45 of 45 in ")


def test_the_environment_asks_for_json_as_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OODGUARD_CHECK_LOG_FORMAT", "json")
    assert run_command(["check", "absent"]) == 2
    assert json.loads(capsys.readouterr().err)["message"].startswith("absent does not exist")
