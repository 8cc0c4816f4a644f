"""A command as a person types it."""

from __future__ import annotations

import pytest

from oodguard.cli.main import run as command


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = command([str(a) for a in arguments])
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    return code, " ".join(out.out.split()), " ".join(out.err.split())
