"""`--quiet` and `--log-format`: how much a long command says, and in which form."""

from __future__ import annotations

import json
from contextvars import ContextVar
from datetime import datetime
from typing import Annotated, Literal

from cyclopts import Group, Parameter
from pydantic import BaseModel, ConfigDict, Field

from oodguard.cli.terminal import Terminal

Level = Literal["info", "warning", "error"]

GROUP = Group("Output", sort_key=90)
# Whether this run of the command line writes JSON, so that its last error is a line of JSON as well.
_as_json: ContextVar[bool] = ContextVar("as_json", default=False)


class Output(BaseModel):
    """How much a long command says on standard error, and in which form. Results are printed on standard output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quiet: Annotated[bool, Parameter(group=GROUP, negative="")] = Field(
        False, description="Print errors and the result, and nothing of what happens in between."
    )
    log_format: Annotated[Literal["text", "json"], Parameter(group=GROUP)] = Field(
        "text", description="Write progress and errors as text, or as one JSON object per line (on standard error)."
    )


def choose_form(form: Literal["text", "json"]) -> None:
    """Set the form of every further line of this run of the command line."""
    _as_json.set(form == "json")


def writes_json() -> bool:
    """Whether lines on standard error are JSON objects."""
    return _as_json.get()


def json_record(
    level: Level, message: str, *, phase: str | None = None, done: int = 0, total: int | None = None
) -> str:
    """One line of `--log-format json`; done and total are null where nothing is counted."""
    # Escaped to ASCII, so that no character acts on a terminal and none has to be shown otherwise.
    return json.dumps(
        {
            "time": datetime.now().astimezone().isoformat(timespec="seconds"),
            "level": level,
            "phase": phase,
            "done": done if total is not None else None,
            "total": total or None,
            "message": message,
        }
    )


def say(sentence: str) -> None:
    """Print a line on standard error, in the form that was chosen."""
    line = json_record("info", sentence) if writes_json() else sentence
    Terminal(stderr=True, soft_wrap=True).print(line, highlight=False, markup=False)


def say_error(sentence: str, *, title: str = "error") -> None:
    """Print an error's sentence on standard error, in the form that was chosen."""
    console = Terminal(stderr=True, soft_wrap=True)
    if writes_json():
        said = sentence if title == "error" else f"{title}: {sentence}"
        console.print(json_record("error", said), highlight=False, markup=False)
    else:
        console.print(f"{title}:", style="bold red", end=" ", highlight=False, markup=False)
        console.print(sentence, highlight=False, markup=False)
