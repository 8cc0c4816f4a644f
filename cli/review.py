"""`oodguard review`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from oodguard.cli.artefacts import Artefact
from oodguard.cli.inputs import expect
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
            help="(html) Bundle exported with --thumbnails: the page shows the nearest training photos beside each "
            "image."
        ),
    ] = None,
    image_prefix: Annotated[
        str | None,
        Parameter(
            help="(label-studio) What stands before each image's path, as in s3://bucket/flagged/; default: Label "
            "Studio's address of a local file, relative to the folder above."
        ),
    ] = None,
) -> None:
    """Look through the flagged images that a server kept.

    Makes one HTML page of them, highest OOD score first, or a file for an annotation tool. The page is a single
    file without scripts. It lists damaged images and sidecars, and shows all others.

    Example: oodguard review flagged --out review.html

    Example: oodguard review flagged --accept 20261127-0815.jpg --out known.txt
    """
    expect(folder, Artefact.SAMPLES)
    if bundle is not None:
        expect(bundle, Artefact.BUNDLE, flag="--bundle")
    if accept:
        if format != "html" or limit is not None or image_prefix is not None:
            raise InputError("--accept takes no other option than --out; leave them out")
        found = accepted(folder, accept)
        out = out or KNOWN
        if out.suffix.lower() not in LIST_SUFFIXES:
            raise InputError(f"--out is a list of paths here, and its name ends in {', '.join(LIST_SUFFIXES)}")
        _write({out: "".join(f"{path}\n" for path in found)})
        console = Terminal(soft_wrap=True)
        console.print(f"{out}: {len(found):,} images that are known", highlight=False, markup=False)
        console.print(
            f"next: oodguard recalibrate BUNDLE --images photos --images {out}", highlight=False, markup=False
        )
        return
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


def _write(files: Mapping[Path, str]) -> None:
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise EnvironmentProblem(f"{path} cannot be written ({error.strerror}); choose another --out") from None
