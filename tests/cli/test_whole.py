from __future__ import annotations

import pytest

from oodguard.cli.main import run


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "produce", "--seeds"),
        ("evaluate", "run", "--draws"),
        ("evaluate", "run", "--repeats"),
        ("review", "flagged", "--limit"),
    ],
)
def test_a_fraction_is_no_whole_number(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    for wrong in ("2.7", "many"):
        assert run([*arguments, wrong]) == 2
        err = " ".join(capsys.readouterr().err.split())
        assert f"must be a whole number; got '{wrong}'" in err
        assert arguments[-1] in err
