"""What somebody typed wrongly, in one sentence that names the flag and says what to type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from cyclopts import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)
from cyclopts.argument import ArgumentCollection
from cyclopts.exceptions import UnknownCommandError
from pydantic import ValidationError

from oodguard.cli.whole import NOT_WHOLE

HELP_FLAGS = ("--help", "-h")
KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def sentence_of(error: CycloptsError, *, commands: Sequence[str], command: str, tokens: Sequence[str]) -> str:
    """What is wrong with a command line, in one sentence.

    commands: every command there is. command: the one that was typed. tokens: what was typed behind it.
    """
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ValidationError):
        children = error.argument.children if error.argument else ()
        return validation_sentence(cause, {one.field_info.name: one.name for one in children}, command)
    if isinstance(error, UnknownCommandError):
        return _command(command, commands)
    flags = _flags(error)
    # An option that nobody knows comes first: what it was meant for is then missing elsewhere.
    unknown = _unknown(tokens, flags)
    if isinstance(error, UnknownOptionError):
        unknown = error.token.keyword or error.token.value
        if error.token.source != "cli":
            return _option(unknown, flags, command, where=f" in {error.token.source}")
    if unknown and isinstance(error, UnknownOptionError | MissingArgumentError | UnusedCliTokensError):
        return _option(unknown, flags, command)
    match error:
        case UnusedCliTokensError(unused_tokens=[first, *_]):
            return _stray(first, command)
        case MissingArgumentError():
            return _missing(error, command, tokens)
        case CoercionError(token=token, target_type=kind) if token is not None and (kind in KINDS or _whole(error)):
            what = KINDS[int] if _whole(error) or kind is None else KINDS[kind]
            return f"{token.keyword or _name(error)} must be {what}; got {token.value!r}"
        case CoercionError(token=token) if token is not None and error.msg is None and error.argument is not None:
            found = re.search(r"Choose from: (.*?)\.?(?: Did you mean.*)?$", " ".join(str(error).split()))
            if found is not None:
                choices = [choice.strip('" ') for choice in re.split(r", (?:or )?| or ", found[1])]
                return f"{_name(error)} must be {_listed(choices)}; got {token.value!r}{_near(token.value, choices)}"
        case RepeatArgumentError(token=token):
            return f"{token.keyword or _name(error)} is given twice; leave one out"
        case _:
            pass
    return _plain(str(error))


def _whole(error: CycloptsError) -> bool:
    """Whether the converter of whole numbers refused a value."""
    return str(error).endswith(NOT_WHOLE)


def _plain(text: str) -> str:
    text = " ".join(text.split())
    return re.sub(r"^Invalid value for (\S+): ", r"\1: ", text).rstrip(".")


def _name(error: CycloptsError) -> str:
    """How the command line writes what is wrong: --out, or IMAGES where only its place says what it is."""
    if error.argument is None:
        return "an option"
    name = error.argument.name
    return name.removeprefix("--").upper() if error.argument.field_info.is_positional else name


def _flags(error: CycloptsError) -> tuple[str, ...]:
    arguments: ArgumentCollection | None = getattr(error, "argument_collection", None)
    if arguments is None and error.app is not None:
        try:
            arguments = error.app.assemble_argument_collection(parse_docstring=False)
        except Exception:
            arguments = None
    shown = [one for one in arguments or () if one.show]
    return tuple(name for one in shown for name in one.names if name.startswith("--"))


def _takes_places(error: CycloptsError) -> bool:
    """Whether the command takes something by its place."""
    collection = error.app.assemble_argument_collection(parse_docstring=False) if error.app is not None else ()
    return any(one.field_info.is_positional and not one.children for one in collection)


def _unknown(tokens: Iterable[str], flags: Sequence[str]) -> str | None:
    """The first token that looks like an option and is none; None where there is none, or no option is known."""
    for token in tokens if flags else ():
        if token == "--":
            return None
        name = token.partition("=")[0]
        if name.startswith("--") and name not in flags and name not in HELP_FLAGS:
            return token
    return None


def _option(token: str, flags: Sequence[str], command: str, *, where: str = "") -> str:
    name = token.partition("=")[0]
    if name == "--version":
        return "unknown option --version: --model-version is a model's, and oodguard --version prints the program's"
    near = _near(name, flags) or f"; oodguard {command} --help lists the options"
    return f"unknown option {name} of oodguard {command}{where}{near}"


def _command(name: str, commands: Sequence[str]) -> str:
    if name.startswith("-"):
        return f"unknown option {name}{_near(name, ('--help', '--version', '--config')) or '; see oodguard --help'}"
    return f"there is no command {name}{_near(name, commands) or '; oodguard --help lists the commands'}"


def _near(word: str, words: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def _stray(word: str, command: str) -> str:
    return (
        f"{word!r} is one word too many for oodguard {command}: a value follows its option, as in --name value; "
        f"oodguard {command} --help lists the options"
    )


def _missing(error: MissingArgumentError, command: str, tokens: Sequence[str]) -> str:
    argument, keyword = error.argument, error.keyword
    if argument is None:
        return _plain(str(error))
    given = keyword or next((token.keyword for token in reversed(argument.tokens) if token.keyword), None)
    if given:
        return f"{given} needs a value"
    name = _name(error)
    stray = next(iter(tokens), "-")
    if not _takes_places(error) and not stray.startswith("-"):
        return f"oodguard {command} needs {name}; did you mean {name} {stray}?"
    return _needs(name, argument.parameter.help or argument.field_info.help, command)


def _needs(name: str, about: str | None, command: str) -> str:
    first = re.split(r"[.:,;]", about or "")[0]
    what = f" ({first[:1].lower()}{first[1:]})" if first else ""
    return f"oodguard {command} needs {name}{what}; see oodguard {command} --help"


def _listed(words: Sequence[str]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else "".join(words)


def validation_sentence(error: ValidationError, options: Mapping[str, str], command: str) -> str:
    """The first thing that is wrong with options, in one sentence; options: how the command line writes fields."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    field, got = str(first["loc"][0]), first["input"]
    option = options.get(field, f"--{field.replace('_', '-')}")
    match first["type"]:
        case "int_parsing" | "int_from_float":
            return f"{option} must be a whole number; got {got!r}"
        case "float_parsing":
            return f"{option} must be a number; got {got!r}"
        case "missing":
            return _needs(option, None, command)
        case "literal_error":
            choices = re.findall(r"'([^']*)'", message)
            return f"{option} must be {_listed(choices)}; got {got!r}{_near(str(got), choices)}"
        case "string_pattern_mismatch":
            return f"{option} does not take {got!r}; see oodguard {command} --help for its form"
        case "value_error" if str(got) in message:
            return f"{option}: {message}"
        case _:
            return f"{option}: {message}; got {got!r}".replace(": Input should ", " must ", 1)
