"""What `oodguard review --open` and `--apply` print."""

from __future__ import annotations

import shlex
from pathlib import Path

from oodguard.cli.terminal import Terminal
from oodguard.core.errors import EnvironmentProblem, InputError

# Pictures that are named one by one; of more, their number.
NAMED = 10


def mark_in_browser(
    folder: Path, marks: Path, *, bundle: Path | None, port: int | None, cache: Path, browse: bool
) -> int:
    """Serve the page until Ctrl-C, and say what to do with the marks."""
    if port is not None and not 0 <= port <= 65_535:
        raise InputError("--port takes 0 to 65535")
    try:
        from oodguard.review.tool import Opened, serve
    except ImportError as error:
        raise EnvironmentProblem(
            f"--open needs the package {error.name}; install oodguard with its extra review"
        ) from None
    console = Terminal(soft_wrap=True, highlight=False, markup=False)

    def ready(opened: Opened) -> None:
        bad = f", {opened.unreadable:,} files cannot be used" if opened.unreadable else ""
        console.print(
            f"{opened.pictures:,} flagged images, {opened.marked:,} of them marked{bad}; marks are in {marks}"
        )
        console.print(f"look-alikes are grouped {opened.groups_by}")
        console.print(f"open {opened.url}")
        console.print("(the address has a secret in it: whoever has it on this machine can mark; Ctrl-C ends)")

    try:
        marked, pictures = serve(folder, marks, port=port or 0, bundle=bundle, cache=cache, browse=browse, ready=ready)
    except ImportError as error:
        raise EnvironmentProblem(
            f"--bundle needs the package {error.name}; install oodguard with its extra review, or leave out --bundle"
        ) from None
    console.print(f"\n{marked:,} of {pictures:,} images are marked, in {marks}")
    if marked:
        words = ["oodguard", "review", str(folder), "--apply", str(marks), "--into", "photos"]
        console.print(f"next: {shlex.join(words)}")
    return 0


def apply_to_folders(folder: Path, marks: Path, into: Path, *, strangers: Path | None, out: Path, dry_run: bool) -> int:
    """Copy marked images to their folders, and say where they are and what to do with them."""
    from oodguard.review.applying import Applied, apply_marks
    from oodguard.review.marks import MarkKind

    def write_known(found: Applied) -> None:
        if odd := next((path for path in found.known if not str(path).isprintable()), None):
            raise InputError(f"{odd} cannot stand on a line of a list; rename it")
        try:
            out.write_text("".join(f"{path}\n" for path in found.known), encoding="utf-8")
        except OSError as error:
            raise EnvironmentProblem(f"{out} cannot be written ({error.strerror}); choose another --out") from None

    console = Terminal(soft_wrap=True, highlight=False, markup=False)
    found = apply_marks(folder, marks, into, strangers=strangers, dry_run=dry_run)
    counts = ", ".join(f"{found.marks.get(kind, 0):,} {kind}" for kind in MarkKind)
    done = "would be copied (dry run: nothing was written)" if dry_run else "copied"
    console.print(f"{sum(found.marks.values()):,} marks: {counts}")
    console.print(f"{found.copied:,} images {done}, {found.there:,} were there already")
    for label, many in found.classes.items():
        console.print(f"  {found.photos / label}: {many:,}" + (" (a new class)" if label in found.new else ""))
    if found.marks.get(MarkKind.STRANGER):
        console.print(f"  {found.strangers}: {found.marks[MarkKind.STRANGER]:,} strangers")
    if not dry_run:
        if found.known:
            write_known(found)
        if found.record.exists():
            console.print(f"{found.record} says where each copy came from")
        _print_next(console, into, found.strangers, out if found.known else None)
    for one in found.left[:NAMED]:
        console.print(f"left: {one.path}: {one.why}")
    if found.left:
        raise InputError(
            f"{len(found.left):,} of the marks could not be applied, the first: {found.left[0].path}: "
            f"{found.left[0].why}"
        )
    return 0


def _print_next(console: Terminal, into: Path, strangers: Path, known: Path | None) -> None:
    outliers = ["--outliers", str(strangers)] if strangers.is_dir() else []
    words = ["oodguard", "train", "--data", str(into), *outliers, "--parent", "RUN", "--out", "NEW_RUN"]
    console.print(f"next: {shlex.join(words)}")
    if known is not None:
        words = ["oodguard", "recalibrate", "BUNDLE", "--images", "TRUSTED", "--images", str(known)]
        console.print(f"or, without training: {shlex.join(words)}")
