"""What a configuration file may decide, by how it was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oodguard.cli.config import CHOSEN_ONLY
from oodguard.cli.main import run
from oodguard.server.offline.options import ScoreOptions
from oodguard.server.settings import ServeSettings
from oodguard.training import pipeline


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run([*arguments])
    return code, " ".join(capsys.readouterr().err.split())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("predict", "x.jpg"), '[predict]\nurl = "http://collector.invalid"'),
        (("predict", "x.jpg"), '[predict]\nkey = "og_other"'),
        (("serve", "bundle"), '[serve]\nhost = "0.0.0.0"'),
        (("serve", "bundle"), '[serve]\nadmin_host = "0.0.0.0"'),
        (("serve", "bundle"), '[serve]\nauth = "none"'),
        (("serve", "bundle"), '[serve]\nsample-webhook = "http://collector.invalid"'),
    ],
)
def test_a_file_found_by_chance_decides_no_address_key_or_access(
    here: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], line: str
) -> None:
    (here / "oodguard.toml").write_text(line + "\n")
    code, err = call(capsys, *command)
    assert code == 2
    assert "which a file found in the current folder may not" in err
    # Whoever names it, means it: the command goes on to what is wrong otherwise.
    (here / "oodguard.toml").rename(here / "mine.toml")
    code, err = call(capsys, *command, "--config", "mine.toml")
    assert code != 0
    assert "current folder" not in err


def test_it_is_said_which_file_was_read(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "train", stop)
    (here / "oodguard.toml").write_text('[train]\ndata = "d"\nout = "o"\n')
    _, err = call(capsys, "train")
    assert f"options of [train] are read from {here / 'oodguard.toml'}" in err
    # Nothing is said of a file that says nothing of this command.
    (here / "oodguard.toml").write_text("[serve]\nport = 1\n")
    _, err = call(capsys, "train", "--data", "d", "--out", "o")
    assert "oodguard.toml" not in err


@pytest.mark.parametrize("text", ["[sevre]\nport = 1\n", "port = 1\n", "[server]\n"])
def test_a_table_that_is_no_command_is_refused(here: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (here / "oodguard.toml").write_text(text)
    code, err = call(capsys, "train", "--data", "d", "--out", "o")
    assert code == 2
    assert "is no command's table" in err


def test_every_name_is_one_of_an_option() -> None:
    known = {name.replace("_", "-") for model in (ServeSettings, ScoreOptions) for name in model.model_fields}
    assert known | {"url", "key"} >= CHOSEN_ONLY
    # Settings that name an address, a key or a certificate, whichever are added.
    named = {one for one in known if any(part in one.split("-") for part in ("host", "url", "key", "ca", "cert"))}
    assert named <= CHOSEN_ONLY
