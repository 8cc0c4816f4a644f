"""`oodguard releases`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from oodguard.cli.artefacts import Artefact
from oodguard.cli.inputs import expect
from oodguard.cli.terminal import Terminal
from oodguard.core.errors import InputError

if TYPE_CHECKING:
    from oodguard.server.releases import Promotion, Releases

DEFAULT_SERVED = "current"


def releases(
    bundles: Annotated[Path, Parameter(help="Folder that holds bundles, one in each folder.")],
    action: Annotated[
        Literal["list", "promote", "rollback", "history"],
        Parameter(help="list: what is there; promote: serve RELEASE; rollback: serve what was served before; history."),
    ] = "list",
    release: Annotated[
        str | None, Parameter(help="(promote) The bundle to serve: its folder's name, or its version.")
    ] = None,
    *,
    served: Annotated[
        str, Parameter(help="Name in that folder of what the server serves: a link, or a folder that gets a copy.")
    ] = DEFAULT_SERVED,
    copy: Annotated[
        bool, Parameter(help="Copy the bundle in place of making a link, where links cannot be made.", negative="")
    ] = False,
) -> None:
    """List the bundles of a folder; promote one, or roll back.

    A promotion verifies every file's hash and the answers to the golden images, and then replaces the link
    BUNDLES/current by one rename. `oodguard serve BUNDLES/current` takes the new bundle over while it serves. The file
    releases.jsonl keeps the history.

    Example: oodguard releases bundles

    Example: oodguard releases bundles promote photos-2
    """
    if (release is not None) != (action == "promote"):
        needed = "name the bundle to serve" if action == "promote" else f"{action} takes no release; leave it out"
        raise InputError(needed)
    if copy and action not in ("promote", "rollback"):
        raise InputError("--copy is for promote and rollback; leave it out")
    expect(bundles, Artefact.BUNDLES)
    from oodguard.server.releases import Releases

    console = Terminal(soft_wrap=True, highlight=False)
    found = Releases(bundles, served=served)
    if action == "list":
        _list(console, found)
    elif action == "history":
        _history(console, found.history)
    else:
        done = found.rollback(copy=copy) if action == "rollback" else found.promote(release or "", copy=copy)
        console.print(
            f"{escape(str(found.served))} is now [bold]{escape(done.release)}[/], {done.name} version {done.version} "
            f"(SHA-256 {done.sha256[:12]}); a server that serves it reloads"
        )
        console.print(f"back: oodguard releases {escape(str(bundles))} rollback")


def _list(console: Terminal, found: Releases) -> None:
    there = found.all()
    if not there:
        raise InputError(f"{found.folder} holds no bundle; oodguard export writes one, with --out {found.folder}/NAME")
    serving = found.serving()
    table = Table("", "release", "name", "version", "precision", "trained", "test accuracy", "SHA-256", box=None)
    for one in there:
        mark = "served" if serving is not None and one.folder == serving.folder else ""
        if one.manifest is None:
            table.add_row(mark, escape(one.release), escape(f"cannot be served: {one.fault}"))
            continue
        accuracy = one.manifest.provenance.metrics.get("test_accuracy")
        table.add_row(
            mark,
            escape(one.release),
            one.manifest.name,
            one.manifest.version,
            one.manifest.precision,
            "-" if one.manifest.run is None else one.manifest.run.created[:10],
            "-" if accuracy is None else f"{accuracy:.1%}",
            (one.sha256 or "")[:12],
        )
    console.print(table)
    if serving is None:
        what = "is none of these bundles" if found.served.exists() else "does not exist yet"
        console.print(
            f"{escape(str(found.served))} {what}: oodguard releases {escape(str(found.folder))} promote RELEASE"
        )


def _history(console: Terminal, history: list[Promotion]) -> None:
    table = Table("time", "", "release", "name", "version", "SHA-256", box=None)
    for one in history:
        table.add_row(one.time, one.action, escape(one.release), one.name, one.version, one.sha256[:12])
    console.print(table if history else "nothing was promoted yet")
