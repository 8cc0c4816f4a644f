"""A slip of the keyboard is one sentence that names the flag, and it costs no import of a heavy package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from oodguard.cli.main import COMMANDS
from oodguard.cli.main import run as run_command

NAMES = [name for names in COMMANDS.values() for name in names]
HEAVY = {"torch", "timm", "onnx", "onnxruntime", "sklearn", "scipy", "matplotlib", "fastapi", "uvicorn", "pyarrow"}


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("servee x", "there is no command servee; did you mean serve?"),
        ("fly", "there is no command fly; oodguard --help lists the commands"),
        ("--hlep", "unknown option --hlep; did you mean --help?"),
        ("serve x --prot 8000", "unknown option --prot of oodguard serve; did you mean --port?"),
        ("serve x --zebra", "unknown option --zebra of oodguard serve; oodguard serve --help lists the options"),
        ("train --memebrs 3", "unknown option --memebrs of oodguard train; did you mean --members?"),
        ("score b s r.csv 0.9", "'0.9' is one word too many for oodguard score: a value follows its option"),
        ("recalibrate b trusted --images x", "'trusted' is one word too many for oodguard recalibrate"),
        ("recalibrate b trusted 0.9", "oodguard recalibrate needs --images; see oodguard recalibrate --help"),
        ("drift r.csv", "oodguard drift needs --bundle (bundle folder that judged the images); see oodguard drift"),
        ("serve b --tls-cert absent.pem", "--tls-cert: absent.pem is not a file\n"),
        ("train --out a --out b --data c", "--out is given twice; leave one out"),
        ("serve b 0.9", "'0.9' is one word too many for oodguard serve"),
        ("evaluate r 0.9", "'0.9' is one word too many for oodguard evaluate"),
        ("review f --accept a.jpg b.jpg", "'b.jpg' is one word too many for oodguard review"),
        ("train photos --out r", "oodguard train needs --data; did you mean --data photos?"),
        ("train --data x", "oodguard train needs --out (run folder to write); see oodguard train --help"),
        ("train --data x --out", "--out needs a value"),
        ("score b s", "oodguard score needs --out; see oodguard score --help"),
        ("compare b", "oodguard compare needs NEW (bundle or run that is to take its place); see oodguard compare"),
        ("serve b --port x", "--port must be a whole number; got 'x'"),
        ("serve b --accept x", "--accept must be a number; got 'x'"),
        ("evaluate r --accept x", "--accept must be a number; got 'x'"),
        ("serve b --port 99999", "--port must be less than or equal to 65535; got '99999'"),
        ("train --data x --out r --ensemble none", "--ensemble must be ldr, independent, a2d, divdis or joint"),
        ("export r --out b --precision int", "--precision must be fp32, int8 or fp16; got 'int'; did you mean int8?"),
        ("train --data x --out r --active 9", "--active 9 cannot exceed --members 5; lower --active"),
        ("serve b --port 8000 --admin-port 8000", "--port and --admin-port are the same; choose another for one"),
        ("serve b --engine triton", "--engine triton needs --triton-url; give HOST:PORT of Triton"),
        ("serve b --engine triton --triton-url a:1 --max-batch 2", "--max-batch is decided where a remote engine"),
        ("serve b --host 0.0.0.0", "0.0.0.0 is reachable from other machines: give API keys with --key-file (oodguard"),
        ("export r --out b --version 2", "unknown option --version: --model-version is a model's"),
        ("releases b demote", "ACTION must be list, promote, rollback or history; got 'demote'"),
    ],
)
def test_a_mistake_is_one_sentence_in_the_words_of_the_command_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    typed: str,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(typed.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {sentence}")
    assert err.count("\n") == 1


def test_a_mistake_in_a_file_or_in_the_environment_says_where_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "oodguard.toml").write_text("[train]\nmembrs = 7\n")
    assert run_command(["train", "--data", "d", "--out", "o"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "membrs" in err
    assert "oodguard.toml" in err
    assert "did you mean --members?" in err


@pytest.mark.parametrize("name", NAMES)
def test_nothing_heavy_is_imported_before_the_arguments_are_checked(name: str, tmp_path: Path) -> None:
    calls = [[name, "--zebra"], [name, "--help"]]
    if name not in ("key", "samples"):
        calls.append([name, "absent"])
    code = f"""
import json, sys
from oodguard.cli.main import run
codes = [run(call) for call in {calls!r}]
print(json.dumps([codes, sorted({HEAVY!r} & set(sys.modules))]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    codes, heavy = json.loads(ran.stdout.splitlines()[-1])
    assert codes[:2] == [2, 0]
    assert set(codes[2:]) <= {2}
    assert heavy == []


@pytest.mark.parametrize("typed", [["train", "--out", "r"], ["train", "--data", "absent", "--out", "r"], ["fly"]])
def test_an_error_is_a_json_object_where_json_was_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, typed: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in (["--log-format", "json"], ["--log-format=json"]):
        assert run_command([*typed, *more]) == 2
        found = json.loads(capsys.readouterr().err)
        assert list(found) == ["time", "level", "phase", "done", "total", "message"]
        assert (found["level"], found["phase"]) == ("error", None)
    assert run_command(typed) == 2
    assert capsys.readouterr().err.startswith("error: ")
