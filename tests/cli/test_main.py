"""The help, mistakes, and where options come from."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oodguard.cli.main import COMMANDS
from oodguard.training import pipeline
from tests.cli.terminal import call

NAMES = [name for names in COMMANDS.values() for name in names]


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches_with_an_example(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = call(capsys, name, "--help")
    assert code == 0
    assert f"Example: oodguard {name}" in out
    assert "OODGUARD_SERVE" not in out


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_help_says_what_each_command_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    for name in NAMES:
        module = name.replace("-", "_")
        command = getattr(importlib.import_module(f"oodguard.cli.{module}"), module)
        assert f"{name} {inspect.getdoc(command).splitlines()[0]}" in out


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("pydantic_settings", "serve", "serve"), ("fastapi", "serve", "serve"), ("httpx", "predict", "client")],
)
def test_a_missing_package_is_one_sentence_that_names_the_extra(package: str, name: str, extra: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
from oodguard.cli.main import run
assert run(["--help"]) == 0
sys.exit(run([{name!r}, sys.executable]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    sentence = f"error: oodguard {name} needs the package {package}; pip install 'oodguard[{extra}]'"
    assert (ran.returncode, ran.stderr.splitlines()) == (3, [sentence])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--out", "x"], "--data"),
        (["train", "--data", "absent", "--out", "x"], "absent does not exist"),
        (["train", "--data", "a", "--out", "x", "--members", "1"], "--members"),
        (["train", "--data", "a", "--out", "x", "--memebrs", "3"], "--members"),
        (["evaluate", "absent"], "not a finished run"),
        (["export", "absent", "--out", "x"], "not a finished run"),
        (["serve", "absent"], "not a bundle"),
        (["predict", "absent.jpg"], "absent.jpg does not exist"),
        (["predict"], "images"),
        (["review", "absent"], "not a folder"),
        (["review", "absent", "--limit", "0"], "--limit"),
        (["export", "absent", "--triton", "r", "--triton-backend", "none"], "--triton-backend must be"),
        (["tune", "absent", "--seconds", "0"], "--seconds"),
        (["evaluate", "absent", "--draws", "0"], "--draws"),
        (["evaluate", "absent", "--repeats", "0"], "--repeats"),
        (["evaluate", "absent", "--data", "absent"], "not a finished run"),
        (["key", "a:b"], "'a:b' is not a name"),
        (["train", "--config"], "--config needs"),
        (["serve", "absent", "onnxruntime"], "onnxruntime"),
        (["fly"], "fly"),
        (["train", "--config", "absent.toml"], "absent.toml is not a file"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_two(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert err.startswith("error:")
    assert sentence.lower() in err.lower()
    assert not (tmp_path / "x").exists()


def test_config_file_environment_and_flag_in_that_order(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def remember(options: Any, out: Path, **_: object) -> Any:
        seen.append((options.seed, options.members, options.epochs, out))
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "train", remember)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "oodguard.toml").write_text('[train]\ndata = "d"\nout = "o"\nseed = 1\nmembers = 7\nepochs = 3\n')
    monkeypatch.setenv("OODGUARD_TRAIN_MEMBERS", "8")
    monkeypatch.setenv("OODGUARD_TRAIN_EPOCHS", "4")
    code, _, err = call(capsys, "train", "--epochs", "5")
    assert (code, seen) == (130, [(1, 8, 5, Path("o"))])
    assert "interrupted" in err
    (tmp_path / "oodguard.toml").write_text("[train]\nmembrs = 7\n")
    assert call(capsys, "train", "--data", "d", "--out", "o")[0] == 2


def test_review_and_evaluate_help_load_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; from oodguard.cli.main import run; run(['review', '--help']); run(['evaluate', '--help']); "
        "sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [("bench", "produce", "--seeds"), ("evaluate", "run", "--draws"), ("review", "flagged", "--limit")],
)
def test_a_fraction_is_no_whole_number(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    for wrong in ("2.7", "many"):
        code, _, err = call(capsys, *arguments, wrong)
        assert code == 2
        assert f"'{wrong}' is not a whole number" in err
        assert arguments[-1] in err
