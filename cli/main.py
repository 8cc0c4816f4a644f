"""The `oodguard` command: its sub-commands, its configuration sources, and how an error looks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Env, Toml
from pydantic import ValidationError
from rich.console import Console

import oodguard
from oodguard.core.errors import OodguardError

CONFIG_FILE = "oodguard.toml"
INTERRUPTED = 130
COMMANDS = (
    *("train", "evaluate", "bench", "diagnose", "export", "tune", "serve", "score", "key", "predict", "review"),
    "samples",
)

EPILOGUE = """
Every option can also come from the environment (OODGUARD_TRAIN_SEED=1) or from a TOML file with one table a command
(`[train]`, `seed = 1`): ./oodguard.toml, or the file named by --config. The command line wins over the environment,
the environment over the file.
"""


def build(config: Path | None = None) -> App:
    """The application, reading `config` or ./oodguard.toml."""
    path = config or Path(CONFIG_FILE)
    app = App(
        name="oodguard",
        help="Image classifiers that know when not to answer: train, evaluate, export and serve a guarded classifier.",
        help_epilogue=EPILOGUE,
        version=oodguard.__version__,
        config=[Env("OODGUARD_", command=True), Toml(path, must_exist=config is not None)],
        default_parameter=Parameter(negative_iterable=()),
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
    )
    # Import paths, so that `oodguard predict` never waits for torch and a serving machine needs none.
    for name in COMMANDS:
        app.command(f"oodguard.cli.{name}:{name}", name=name)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. An error is one sentence on standard error and an exit code, never a traceback."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code."""
    tokens, config, problem = _take_config(arguments)
    if problem:
        return _fail(problem, 2)
    try:
        result = build(config)(tokens, result_action="return_value")
    except CycloptsError as error:
        return _fail(_sentence(error), 2)
    except OodguardError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing half-written was left behind", INTERRUPTED)
    except ModuleNotFoundError as error:
        return _fail(f"this command needs the package {error.name}; install the matching extra of oodguard", 3)
    except BrokenPipeError:
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 3)
    return result if isinstance(result, int) else 0


def _take_config(arguments: list[str]) -> tuple[list[str], Path | None, str | None]:
    """Split `--config FILE` off; it decides how everything else is read."""
    for index, token in enumerate(arguments):
        if token == "--":
            break
        if token == "--config" or token.startswith("--config="):
            inline = token.partition("=")[2]
            value = inline or (arguments[index + 1] if index + 1 < len(arguments) else "")
            rest = arguments[:index] + arguments[index + (1 if inline else 2) :]
            if not value or not Path(value).is_file():
                return rest, None, f"--config: {value or 'no file given'} is not a file"
            return rest, Path(value), None
    return arguments, None, None


def _sentence(error: CycloptsError) -> str:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ValidationError):
        first = cause.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            return message
        option = ".".join(str(part).replace("_", "-") for part in first["loc"])
        return f"--{option}: {message}; got {first['input']!r}"
    return " ".join(str(error).split())


def _fail(sentence: str, code: int) -> int:
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {_escape(sentence)}", highlight=False)
    return code


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


ConfigFlag = Annotated[Path | None, Parameter(help="TOML file with one table a command.")]
