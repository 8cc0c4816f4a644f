"""The `oodguard` command: its sub-commands, its configuration sources, and how an error looks."""

from __future__ import annotations

import ast
import os
import sys
from itertools import pairwise
from pathlib import Path

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Env

import oodguard
from oodguard.cli.config import CONFIG_FILE, ConfigFile
from oodguard.cli.mistakes import sentence_of
from oodguard.cli.output import choose_form, say, say_error
from oodguard.core.errors import InputError, OodguardError

INTERRUPTED = 130
ENV_PREFIX = "OODGUARD_"

# Every command in the order in which a newcomer meets them, and the extra whose packages it needs.
COMMANDS = {
    "Make a guard": {
        "check": "train",
        "train": "train",
        "wrap": "train",
        "evaluate": "train",
        "export": "export",
    },
    "Use it": {
        "serve": "serve",
        "predict": "client",
        "score": "serve,score",
    },
    "Keep it right": {
        "drift": "score",
        "review": "client",
        "add-class": "train",
        "recalibrate": "guard",
        "compare": "train",
        "releases": "serve",
    },
    "Also": {
        "tune": "serve",
        "key": "serve",
        "sign": "cli,sign",
        "diagnose": "train",
        "bench": "train",
        "samples": "train",
    },
}

EPILOGUE = """
`oodguard COMMAND --help` explains the options of a command, everyday ones first. You can also set every option in the
environment (OODGUARD_TRAIN_SEED=1) or in a TOML file with one table per command (`[train]`, then `seed = 1`):
./oodguard.toml, or the file that --config names. The command line wins over the environment, and the environment over
the file. Addresses, keys and who may ask are read only from a file that you name.
"""


def build(config: Path | None = None, *, summaries: bool = False, versions: bool = True) -> App:
    """The application, which reads `config` or ./oodguard.toml; its help describes the commands if `summaries`.

    versions: whether `--version` prints the program's version.
    """
    file = ConfigFile(
        config or Path(CONFIG_FILE),
        chosen=config is not None,
        commands=[name for names in COMMANDS.values() for name in names],
        say=say,
    )
    app = App(
        name="oodguard",
        help="Image classifiers that know when not to answer. The commands are in the order in which you need them.",
        help_epilogue=EPILOGUE,
        version=oodguard.__version__,
        version_flags=("--version",) if versions else (),
        group_parameters=Group("Options", sort_key=0),
        group_commands=Group("Options of oodguard", sort_key=99),
        config=[Env(ENV_PREFIX, command=True), file],
        default_parameter=Parameter(negative_iterable=(), show_env_var=False),
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
    )
    for place, (title, names) in enumerate(COMMANDS.items()):
        group = Group(title, sort_key=place)
        for order, name in enumerate(names):
            # Import paths, so that `oodguard predict` never waits for torch and a serving machine needs none.
            module = _module(name)
            path_of = f"oodguard.cli.{module}:{module}"
            app.command(path_of, name=name, group=group, sort_key=order, help=_summary(name) if summaries else None)
    return app


def _module(name: str) -> str:
    """The module of a command, and the name of its function there."""
    return name.replace("-", "_")


def _summary(name: str) -> str:
    """The first line of a command's docstring, read without importing the command."""
    module = _module(name)
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    command = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == module)
    return (ast.get_docstring(command) or "").partition("\n")[0]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. An error is one sentence on standard error and an exit code, never a traceback."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code."""
    choose_form("json" if _asks_for_json(arguments) else "text")
    tokens: list[str] = []
    try:
        tokens, config = _take_config(arguments)
        bare = not tokens or tokens[0].startswith("-")
        # After a command, --version is somebody's wish for a version of the model, not a question about the program.
        app = build(config, summaries=bare, versions=bare)
        result = app(tokens, result_action="return_value")
    except CycloptsError as error:
        names = [name for names in COMMANDS.values() for name in names]
        return _fail(sentence_of(error, commands=names, command=tokens[0], tokens=tokens[1:]), 2)
    except OodguardError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        kept = "; the same command goes on where this one stopped" if tokens[:1] == ["train"] else ""
        return _fail(f"interrupted; no half-written files are left{kept}", INTERRUPTED)
    except ImportError as error:
        # cyclopts wraps what a command's module raises.
        return _fail(_missing(tokens[0], error.__cause__ or error), 3)
    except BrokenPipeError:
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'a file'} cannot be read or written ({error.strerror or error})", 3)
    return result if isinstance(result, int) else 0


def _asks_for_json(arguments: list[str]) -> bool:
    """Whether lines on standard error are to be JSON, before the command line is read: a mistake in it is such a line.

    The server has a log of its own, and says what keeps it from starting as text.
    """
    if arguments[:1] == ["serve"]:
        return False
    pairs = pairwise(arguments)
    variable = f"{ENV_PREFIX}{(arguments or [''])[0].upper().replace('-', '_')}_LOG_FORMAT"
    typed = [value for flag, value in pairs if flag == "--log-format"]
    typed += [one.partition("=")[2] for one in arguments if one.startswith("--log-format=")]
    return (typed or [os.environ.get(variable, "")])[0] == "json"


def _take_config(arguments: list[str]) -> tuple[list[str], Path | None]:
    """Split `--config FILE` off, which decides how everything else is read. Raises `InputError`."""
    for index, token in enumerate(arguments):
        if token == "--":
            break
        if token == "--config" or token.startswith("--config="):
            inline = token.partition("=")[2]
            value = inline or "".join(arguments[index + 1 : index + 2])
            if not Path(value).is_file():
                raise InputError(
                    f"--config needs a TOML file; {value} is not a file" if value else "--config needs a TOML file"
                )
            return arguments[:index] + arguments[index + (1 if inline else 2) :], Path(value)
    return arguments, None


def _missing(command: str, error: BaseException) -> str:
    extra = next(names[command] for names in COMMANDS.values() if command in names)
    package = str(getattr(error, "name", None)).partition(".")[0]
    return f"oodguard {command} needs the package {package}; pip install 'oodguard[{extra}]'"


def _fail(sentence: str, code: int) -> int:
    say_error(sentence)
    return code
