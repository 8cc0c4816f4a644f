"""The help, mistakes, and where options come from."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oodguard.cli.main import COMMANDS, run
from oodguard.training import pipeline
from oodguard.training.options import TrainOptions
from tests.cli.terminal import call

NAMES = [name for names in COMMANDS.values() for name in names]


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches_with_an_example(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = call(capsys, name, "--help")
    assert code == 0
    assert f"Example: oodguard {name}" in out
    assert "OODGUARD_SERVE" not in out


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_help_says_in_one_line_what_each_command_does_in_the_order_of_the_journey(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(arguments) == 0
    shown = capsys.readouterr().out.splitlines()
    found = [line.strip("│ ").split(maxsplit=1) for line in shown if line.startswith("│")]
    expected = []
    for name in NAMES:
        module = name.replace("-", "_")
        command = getattr(importlib.import_module(f"oodguard.cli.{module}"), module)
        expected.append([name, inspect.getdoc(command).splitlines()[0]])
    assert found[: len(NAMES)] == expected
    assert NAMES[:7] == ["check", "train", "wrap", "evaluate", "export", "serve", "predict"]


@pytest.mark.parametrize("name", ["train", "wrap", "serve", "score", "recalibrate"])
def test_the_help_of_a_command_with_many_options_begins_with_a_few(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    panels = [panel for panel in shown.split("╭─ ")[1:] if not panel.startswith("Arguments")]
    titles = [panel.split(" ─")[0] for panel in panels]
    assert titles[0] == "Options"
    assert titles[-1] == ("Triton" if name == "serve" else "Output")
    assert "Other options" not in titles
    assert 5 <= sum(line.startswith("│") and "--" in line[:20] for line in panels[0].splitlines()) <= 12
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_fine_tuning_is_called_so_and_its_old_names_still_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def remember(options: Any, out: Path, **_: object) -> Any:
        seen.append((options.fine_tune, options.fine_tune_epochs, options.fine_tune_lr))
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "train", remember)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d" / "a").mkdir(parents=True)
    given = ("train", "--data", "d", "--out", "o")
    call(capsys, *given, "--no-fine-tune", "--fine-tune-epochs", "2", "--fine-tune-lr", "0.01")
    call(capsys, *given, "--no-tune", "--tune-epochs", "2", "--tune-lr", "0.01")
    (tmp_path / "oodguard.toml").write_text("[train]\ntune = false\ntune_lr = 0.01\n")
    monkeypatch.setenv("OODGUARD_TRAIN_TUNE_EPOCHS", "2")
    call(capsys, *given)
    assert seen == [(False, 2, 0.01)] * 3
    call(capsys, *given, "--fine-tune-epochs", "3")
    assert seen[-1] == (False, 3, 0.01)
    code, _, err = call(capsys, *given, "--tune-epochs", "0")
    assert (code, "--fine-tune-epochs" in err) == (2, True)
    _, out, _ = call(capsys, "train", "--help")
    assert "--fine-tune-epochs" in out
    assert not {"--tune", "--no-tune", "--tune-epochs", "--tune-lr"} & set(out.split())
    assert TrainOptions.model_validate({"data": "d", "tune": False, "tune_epochs": 2}).fine_tune_epochs == 2


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("pydantic_settings", "serve", "serve"), ("starlette", "serve", "serve"), ("httpx", "predict", "client")],
)
def test_a_missing_package_is_one_sentence_that_names_the_extra(
    tmp_path: Path, package: str, name: str, extra: str
) -> None:
    (tmp_path / "manifest.json").touch()
    code = f"""
import sys
sys.modules[{package!r}] = None
from oodguard.cli.main import run
assert run(["--help"]) == 0
sys.exit(run([{name!r}, {str(tmp_path)!r}]))
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
        (["evaluate", "absent"], "absent does not exist; name a run"),
        (["export", "absent", "--out", "x"], "absent does not exist"),
        (["serve", "absent"], "absent does not exist; name a bundle"),
        (["predict", "absent.jpg"], "absent.jpg does not exist"),
        (["predict"], "images"),
        (["review", "absent"], "absent does not exist"),
        (["review", ".", "--limit", "0"], "--limit"),
        (["export", "absent", "--triton", "r", "--triton-backend", "none"], "--triton-backend must be"),
        (["tune", "absent", "--seconds", "0"], "--seconds"),
        (["evaluate", "absent", "--draws", "0"], "--draws"),
        (["evaluate", "absent", "--repeats", "0"], "--repeats"),
        (["evaluate", "absent", "--data", "absent"], "absent does not exist"),
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
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").mkdir()
    (tmp_path / "oodguard.toml").write_text('[train]\ndata = "d"\nout = "o"\nseed = 1\nmembers = 7\nepochs = 3\n')
    monkeypatch.setenv("OODGUARD_TRAIN_MEMBERS", "8")
    monkeypatch.setenv("OODGUARD_TRAIN_EPOCHS", "4")
    code, _, err = call(capsys, "train", "--epochs", "5")
    assert (code, seen) == (130, [(1, 8, 5, Path("o"))])
    assert "interrupted; no half-written files are left; the same command goes on where this one stopped" in err
    (tmp_path / "oodguard.toml").write_text("[train]\nmembrs = 7\n")
    assert call(capsys, "train", "--data", "d", "--out", "o")[0] == 2


@pytest.mark.parametrize(
    "arguments",
    [("bench", "produce", "--seeds"), ("evaluate", "run", "--draws"), ("review", "flagged", "--limit")],
)
def test_a_fraction_is_no_whole_number(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    for wrong in ("2.7", "many"):
        code, _, err = call(capsys, *arguments, wrong)
        assert code == 2
        assert f"must be a whole number; got '{wrong}'" in err
        assert arguments[-1] in err
