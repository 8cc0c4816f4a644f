"""The `oodguard` command: its sub-commands, its configuration sources, and how an error looks."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from cyclopts import App, CycloptsError, Group, Parameter, UnknownOptionError
from cyclopts.config import Env
from pydantic import ValidationError
from rich.markup import escape

import oodguard
from oodguard.cli.config import CONFIG_FILE, ConfigFile
from oodguard.cli.terminal import Terminal
from oodguard.core.errors import InputError, OodguardError

INTERRUPTED = 130

# Every command as the help groups it, and the extra whose packages it needs.
COMMANDS = {
    "Train and evaluate": {
        "check": "train",
        "train": "train",
        "wrap": "train",
        "evaluate": "train",
        "compare": "train",
        "diagnose": "train",
        "bench": "train",
    },
    "Export and serve": {
        "export": "export",
        "releases": "serve",
        "recalibrate": "guard",
        "tune": "serve",
        "serve": "serve",
        "key": "serve",
        "sign": "cli,sign",
    },
    "Judge images": {
        "predict": "client",
        "score": "serve,score",
        "drift": "score",
        "review": "client",
        "samples": "train",
    },
}

EPILOGUE = """
You can also set every option in the environment (OODGUARD_TRAIN_SEED=1) or in a TOML file with one table per command
(`[train]`, then `seed = 1`): ./oodguard.toml, or the file that --config names. The command line wins over the
environment, and the environment over the file. Addresses, keys and who may ask are read only from a file that you name.
"""


def build(config: Path | None = None, *, summaries: bool = False, versions: bool = True) -> App:
    """The application, which reads `config` or ./oodguard.toml; its help describes the commands if `summaries`.

    versions: whether `--version` prints the program's version.
    """
    file = ConfigFile(
        config or Path(CONFIG_FILE),
        chosen=config is not None,
        commands=[name for names in COMMANDS.values() for name in names],
        say=_aside,
    )
    app = App(
        name="oodguard",
        help="Image classifiers that know when not to answer: train, evaluate, export and serve a guarded classifier.",
        help_epilogue=EPILOGUE,
        version=oodguard.__version__,
        version_flags=("--version",) if versions else (),
        config=[Env("OODGUARD_", command=True), file],
        default_parameter=Parameter(negative_iterable=(), show_env_var=False),
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
    )
    for title, names in COMMANDS.items():
        group = Group.create_ordered(title)
        for order, name in enumerate(names):
            # Import paths, so that `oodguard predict` never waits for torch and a serving machine needs none.
            path_of = f"oodguard.cli.{name}:{name}"
            app.command(path_of, name=name, group=group, sort_key=order, help=_summary(name) if summaries else None)
    return app


def _summary(name: str) -> str:
    """The first line of a command's docstring, read without importing the command."""
    tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
    command = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    return (ast.get_docstring(command) or "").partition("\n")[0]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. An error is one sentence on standard error and an exit code, never a traceback."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code."""
    try:
        tokens, config = _take_config(arguments)
        bare = not tokens or tokens[0].startswith("-")
        # After a command, --version is somebody's wish for a version of the model, not a question about the program.
        app = build(config, summaries=bare, versions=bare)
        result = app(tokens, result_action="return_value")
    except CycloptsError as error:
        return _fail(_sentence(error), 2)
    except OodguardError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; no half-written files are left", INTERRUPTED)
    except ImportError as error:
        # cyclopts wraps what a command's module raises.
        return _fail(_missing(tokens[0], error.__cause__ or error), 3)
    except BrokenPipeError:
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'a file'} cannot be read or written ({error.strerror or error})", 3)
    return result if isinstance(result, int) else 0


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


def _sentence(error: CycloptsError) -> str:
    cause = error.__cause__ or error.__context__
    if not isinstance(cause, ValidationError):
        sentence = " ".join(str(error).split())
        if isinstance(error, UnknownOptionError) and "option: --version" in sentence:
            return "unknown option --version: --model-version is a model's, and oodguard --version prints the program's"
        return sentence
    first = cause.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    options = {option.field_info.name: option.name for option in error.argument.children} if error.argument else {}
    field = str(first["loc"][0])
    option = options.get(field, f"--{field}")
    return f"{option}: {message}; got {first['input']!r}".replace(": Input should ", " must ", 1)


def _missing(command: str, error: BaseException) -> str:
    extra = next(names[command] for names in COMMANDS.values() if command in names)
    return f"oodguard {command} needs the package {getattr(error, 'name', None)}; pip install 'oodguard[{extra}]'"


def _aside(sentence: str) -> None:
    Terminal(stderr=True, soft_wrap=True).print(f"[dim]{escape(sentence)}[/]", highlight=False)


def _fail(sentence: str, code: int) -> int:
    Terminal(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(sentence)}", highlight=False)
    return code
