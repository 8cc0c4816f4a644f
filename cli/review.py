"""`oodguard review`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from oodguard.cli.artefacts import Artefact
from oodguard.cli.inputs import expect
from oodguard.cli.marking import apply_to_folders, mark_in_browser
from oodguard.cli.terminal import Terminal
from oodguard.cli.whole import Whole
from oodguard.clients.labelling import coco, label_studio
from oodguard.clients.review import DEFAULT_LIMIT
from oodguard.clients.review import review as make_review
from oodguard.clients.samples import accepted
from oodguard.core.errors import EnvironmentProblem, InputError

KNOWN = Path("known.txt")
# As `oodguard score` and `oodguard recalibrate` know a list.
LIST_SUFFIXES = (".txt", ".lst", ".list")
NAMES = {"html": Path("review.html"), "label-studio": Path("label-studio.json"), "coco": Path("coco.json")}


def review(
    folder: Annotated[Path, Parameter(help="Folder of sampled flagged images, each with its .json sidecar.")],
    *,
    format: Annotated[
        Literal["html", "label-studio", "coco"],
        Parameter(
            help="html: a page to look at; label-studio: tasks to import there, and beside them the labelling "
            "interface as .xml; coco: one annotation file."
        ),
    ] = "html",
    out: Annotated[
        Path | None,
        Parameter(help="File to write; default: review.html, label-studio.json or coco.json; with --accept known.txt."),
    ] = None,
    limit: Annotated[
        Whole | None,
        Parameter(
            help=f"Maximum images, the highest scores first; default: {DEFAULT_LIMIT} on a page, else all of them."
        ),
    ] = None,
    accept: Annotated[
        list[str] | None,
        Parameter(
            help="Names of images that are in distribution after all, or patterns such as '20261127*'; repeat for "
            "more. Writes the list of their paths, for oodguard recalibrate --images, in place of a page."
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        Parameter(
            help="Bundle exported with --thumbnails: the page shows the nearest training photos beside each image. "
            "With --open any bundle groups the look-alikes by its feature."
        ),
    ] = None,
    open: Annotated[
        bool,
        Parameter(
            help="Mark the images: serves a page to this machine alone, and opens a browser. Each mark is in marks.csv "
            "in the folder (or in --out) at once.",
            negative=(),
        ),
    ] = False,
    port: Annotated[
        Whole | None, Parameter(help="As --open, at this port and without opening a browser; 0: any free port.")
    ] = None,
    cache: Annotated[Path, Parameter(help="(--open) Folder in which to cache features.")] = Path(".oodguard-cache"),
    apply: Annotated[
        Path | None,
        Parameter(help="The marks.csv of --open: copy the marked images to the photos that --into names."),
    ] = None,
    into: Annotated[
        Path | None, Parameter(help="(--apply) Folder of photos in class folders, as train takes it.")
    ] = None,
    strangers: Annotated[
        Path | None,
        Parameter(help="(--apply) Folder of strangers, for train --outliers; default: beside --into, -strangers."),
    ] = None,
    dry_run: Annotated[bool, Parameter(help="(--apply) Copy nothing; say what would be.", negative=())] = False,
    image_prefix: Annotated[
        str | None,
        Parameter(
            help="(label-studio) What stands before each image's path, as in s3://bucket/flagged/; default: Label "
            "Studio's address of a local file, relative to the folder above."
        ),
    ] = None,
) -> int:
    """Look through flagged images that a server kept, and mark them.

    Without --open, makes one HTML page without scripts, the highest OOD score first, or a file for an annotation tool.
    The page lists damaged images and sidecars, and shows all others.

    Example: oodguard review flagged --open --bundle bundles/photos

    Example: oodguard review flagged --apply flagged/marks.csv --into photos

    Example: oodguard review flagged --out review.html

    Example: oodguard review flagged --accept 20261127-0815.jpg --out known.txt
    """
    expect(folder, Artefact.SAMPLES)
    if bundle is not None and format == "html":
        expect(bundle, Artefact.BUNDLE, flag="--bundle")
    marking, applying = open or port is not None, apply is not None
    unfit = limit is not None or accept or image_prefix is not None or format != "html"
    if marking and (unfit or applying or into or strangers or dry_run):
        raise InputError("--open takes no other options than --port, --bundle, --cache and --out; leave them out")
    if not applying and (into or strangers or dry_run):
        raise InputError("--into, --strangers and --dry-run are for --apply; name the marks.csv with it")
    if marking:
        return mark_in_browser(folder, out or folder / "marks.csv", bundle=bundle, port=port, cache=cache, browse=open)
    if apply is not None:
        if unfit or bundle is not None:
            raise InputError("--apply takes no other options than --into, --strangers, --dry-run and --out")
        if into is None:
            raise InputError("--apply needs --into: the folder of photos that train takes")
        return apply_to_folders(folder, apply, into, strangers=strangers, out=_list_of(out), dry_run=dry_run)
    if accept:
        if format != "html" or limit is not None or image_prefix is not None:
            raise InputError("--accept takes no other option than --out; leave them out")
        found = accepted(folder, accept)
        out = _list_of(out)
        _write({out: "".join(f"{path}\n" for path in found)})
        console = Terminal(soft_wrap=True)
        console.print(f"{out}: {len(found):,} images that are known", highlight=False, markup=False)
        console.print(
            f"next: oodguard recalibrate BUNDLE --images photos --images {out}", highlight=False, markup=False
        )
        return 0
    if limit is not None and limit < 1:
        raise InputError("--limit must be at least 1")
    if image_prefix is not None and format != "label-studio":
        raise InputError("--image-prefix is for --format label-studio; leave it out")
    if bundle is not None and format != "html":
        raise InputError("--bundle is for --format html; leave it out")
    out = out or NAMES[format]
    if format == "label-studio" and out.suffix == ".xml":
        raise InputError(
            "--out is the file of the tasks, and the interface beside it ends in .xml; choose another name"
        )
    if format == "html":
        page = make_review(folder, limit=limit or DEFAULT_LIMIT, bundle=bundle)
        count, left, unreadable, files = page.shown, page.left, page.unreadable, {out: page.html}
    else:
        exported = (
            coco(folder, limit=limit) if format == "coco" else label_studio(folder, limit=limit, prefix=image_prefix)
        )
        count, left, unreadable = exported.images, exported.left, exported.unreadable
        files = {
            out if suffix == "json" else out.with_suffix(f".{suffix}"): text for suffix, text in exported.files.items()
        }
    _write(files)
    done = "shown" if format == "html" else "exported"
    more = f", {left:,} more with lower scores" if left else ""
    Terminal(soft_wrap=True).print(
        f"{' and '.join(map(str, files))}: {count:,} {done}{more}, {len(unreadable):,} could not be read",
        highlight=False,
        markup=False,
    )
    return 0


def _list_of(out: Path | None) -> Path:
    """The list of known images to write. Raises `InputError`."""
    out = out or KNOWN
    if out.suffix.lower() not in LIST_SUFFIXES:
        raise InputError(f"--out is a list of paths here, and its name ends in {', '.join(LIST_SUFFIXES)}")
    return out


def _write(files: Mapping[Path, str]) -> None:
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise EnvironmentProblem(f"{path} cannot be written ({error.strerror}); choose another --out") from None
