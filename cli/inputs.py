"""Whether a path is what a command takes; where it is something else, the sentence says what it is and what to do."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

from oodguard.cli.artefacts import ARCHIVES, RUN_FILE, Artefact, inside, recognise
from oodguard.core.errors import InputError
from oodguard.training.options import DIGITS

# What a command takes, in the words of whoever has none yet.
NEEDED = {
    Artefact.RUN: "a run: the folder that oodguard train wrote",
    Artefact.BUNDLE: "a bundle: the folder that oodguard export wrote",
    Artefact.BUNDLES: "a folder that holds bundles, one in each of its folders",
    Artefact.PHOTOS: "a folder of labelled photos with one sub-folder per class",
    Artefact.IMAGES: "images, or a folder of them",
    Artefact.SAMPLES: "the folder that oodguard serve --sample-dir fills",
    Artefact.RESULTS: "a file that oodguard score or oodguard predict --csv wrote",
    Artefact.SUSPECTS: "a list such as the suspects.csv of oodguard check",
    Artefact.GRAPH: "an ONNX file, or a timm model's checkpoint with --backbone",
}
# What may be given for it: what the reader of the input itself knows to refuse is let through to it.
FITS: dict[Artefact, frozenset[Artefact]] = {
    Artefact.RUN: frozenset({Artefact.RUN}),
    Artefact.BUNDLE: frozenset({Artefact.BUNDLE}),
    Artefact.BUNDLES: frozenset({Artefact.BUNDLES, Artefact.FOLDER}),
    Artefact.PHOTOS: frozenset(
        {
            *(Artefact.PHOTOS, Artefact.IMAGES, Artefact.FOLDER, Artefact.ARCHIVE, Artefact.TABLE, Artefact.TRITON),
            Artefact.FILE,
        }
    ),
    Artefact.IMAGES: frozenset(
        {Artefact.PHOTOS, Artefact.IMAGES, Artefact.IMAGE, Artefact.SAMPLES, Artefact.FOLDER, Artefact.FILE}
    ),
    Artefact.SAMPLES: frozenset({Artefact.SAMPLES, Artefact.PHOTOS, Artefact.IMAGES, Artefact.FOLDER}),
    Artefact.RESULTS: frozenset({Artefact.RESULTS, Artefact.TABLE}),
    Artefact.SUSPECTS: frozenset({Artefact.SUSPECTS, Artefact.RESULTS, Artefact.TABLE, Artefact.LIST, Artefact.FILE}),
    Artefact.GRAPH: frozenset({Artefact.GRAPH, Artefact.CHECKPOINT, Artefact.FILE}),
}
# What `score` and `recalibrate` read besides.
SOURCES = frozenset({Artefact.ARCHIVE, Artefact.LIST})
# Files of photos of which a folder may be full, in place of folders.
SHARDS = (*ARCHIVES, ".parquet")
LISTED = 5


def expect(path: Path, *wanted: Artefact, flag: str = "", more: frozenset[Artefact] = frozenset()) -> None:
    """Nothing where `path` is what a command takes.

    ```python
    expect(bundle, Artefact.BUNDLE)
    expect(data, Artefact.PHOTOS, flag="--data")
    ```

    wanted: what the command takes, the first being what an error asks for. flag: the option that gave the path. more:
    what this command takes besides. Raises `InputError`, which says what the path is and what to do.
    """
    found = recognise(path)
    if found in more.union(*(FITS[one] for one in wanted)):
        return
    where = f"{flag}: " if flag else ""
    raise InputError(f"{where}{_sentence(path, found, wanted[0])}")


def expect_photos(path: Path, *, flag: str = "") -> None:
    """Nothing where `path` is labelled photos, or the name of the embedded example."""
    if str(path) == DIGITS:
        return
    expect(path, Artefact.PHOTOS, flag=flag)
    if path.is_dir() and not any(one.is_dir() or one.name.lower().endswith(SHARDS) for one in path.iterdir()):
        where = f"{flag}: " if flag else ""
        raise InputError(f"{where}{path} has no folders in it; name {NEEDED[Artefact.PHOTOS]}")


def expect_free(out: Path, kind: Artefact, *, flag: str = "--out") -> None:
    """Nothing where a run or bundle can be written: nothing is there, or an older one of the kind."""
    found = recognise(out)
    empty = found is Artefact.FOLDER and not any(out.iterdir())
    if found not in (Artefact.ABSENT, kind) and not empty:
        raise InputError(f"{flag}: {out} is {found} already, and nothing of it is replaced; choose another folder")


def expect_sets(pairs: Iterable[str]) -> None:
    """Nothing where every `name=folder` of --ood names a folder of images."""
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            raise InputError(f"--ood takes name=folder, as in --ood packages=other/packages; got {pair!r}")
        expect(Path(folder), Artefact.IMAGES, flag=f"--ood {name}")


def _sentence(path: Path, found: Artefact, wanted: Artefact) -> str:
    if found is Artefact.ABSENT:
        near = nearest(path)
        return f"{path} does not exist; {f'did you mean {near}?' if near else f'name {NEEDED[wanted]}'}"
    if found is Artefact.ADDRESS:
        return f"{path} is an address, and nothing is fetched from a network; download it, and name {NEEDED[wanted]}"
    what = f"a file of {path.parent}" if found is Artefact.PART else found
    advice = ADVICE.get((wanted, found))
    return f"{path} is {what}; {advice(path) if advice else f'name {NEEDED[wanted]}'}"


def nearest(path: Path) -> Path | None:
    """The existing path that is spelled most like this one, which does not exist; None where none is near."""
    given, place = path, Path()
    for number, part in enumerate(given.parts):
        if (place / part).exists():
            place /= part
            continue
        try:
            names = sorted(one.name for one in place.iterdir() if not one.name.startswith("."))
        except OSError:
            return None
        rest = given.parts[number + 1 :]
        # A folder whose next part exists as well is nearer than one that is only spelled alike.
        for name in difflib.get_close_matches(part, names, n=3, cutoff=0.7):
            if not rest:
                return place / name
            whole = place.joinpath(name, *rest)
            if whole.exists():
                return whole
            below = nearest(whole)
            if below is not None:
                return below
        return None
    return None


def _command(*words: str | Path) -> str:
    return shlex.join(["oodguard", *map(str, words)])


def _stem(path: Path) -> str:
    return path.name.partition(".")[0] or "photos"


def _sibling(path: Path, folder: str) -> Path:
    """Where the other of run and bundle usually is: runs/photos and bundles/photos."""
    home = path.parent.parent if path.parent.name in ("runs", "bundles") else path.parent
    return home / folder / _stem(path)


def _export(run: Path) -> str:
    return f"export it first: {_command('export', run, '--out', _sibling(run, 'bundles'))}"


def _train(photos: Path) -> str:
    return f"train a guard on them first: {_command('train', '--data', photos, '--out', Path('runs') / _stem(photos))}"


def _wrap(file: Path) -> str:
    out = Path("runs") / _stem(file)
    return f"put a guard around it first: {_command('wrap', file, '--data', 'PHOTOS', '--out', out)}"


def _wrap_checkpoint(file: Path) -> str:
    out = Path("runs") / _stem(file)
    words = ("wrap", file, "--backbone", "NAME", "--data", "PHOTOS", "--out", out)
    return f"put a guard around it first: {_command(*words)}"


def _run_of(bundle: Path) -> str:
    run = _sibling(bundle, "runs")
    return f"name the run that it was exported from{f': {run}' if (run / RUN_FILE).is_file() else ''}"


def _export_instead(run: Path) -> str:
    return f"it has its guard already; export it: {_command('export', run, '--out', _sibling(run, 'bundles'))}"


def _serve_instead(bundle: Path) -> str:
    return f"it has its guard already; serve it: {_command('serve', bundle)}"


def _one_of(kind: Artefact) -> Callable[[Path], str]:
    def advice(folder: Path) -> str:
        there = inside(folder, kind)
        names = ", ".join(map(str, there[:LISTED])) + (", ..." if len(there) > LISTED else "")
        return f"name one of those in it: {names}"

    return advice


def _holder(file: Path) -> str:
    return f"name the folder: {file.parent}"


def _photos_of(run: Path) -> str:
    """The photos that a run was trained on, where they still are."""
    try:
        data = Path(json.loads((run / RUN_FILE).read_bytes())["options"]["data"])
        if data.exists():
            return f"the photos it was trained on are in {data}"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return f"name {NEEDED[Artefact.PHOTOS]}"


def _score(images: Path) -> str:
    out = f"{_stem(images)}.parquet"
    return f"judge them first: {_command('score', 'BUNDLE', images, '--out', out)}"


def _score_archive(archive: Path) -> str:
    out = f"{_stem(archive)}.parquet"
    return f"unpack it, or judge it without a server: {_command('score', 'BUNDLE', archive, '--out', out)}"


def _drift(results: Path) -> str:
    return f"{_command('drift', results, '--bundle', 'BUNDLE')} says what is in it"


def _holding_bundle(bundle: Path) -> str:
    return f"name the folder that holds it and its later versions: {bundle.parent}"


def _review(samples: Path) -> str:
    return f"say what they are first: {_command('review', samples)}"


def _exclude(listed: Path) -> str:
    return f"name the photos, and give the list as {shlex.join(['--exclude', str(listed)])}"


_FROM_PHOTOS = {Artefact.PHOTOS: _train, Artefact.ARCHIVE: _train}
_FROM_CLASSIFIER = {Artefact.GRAPH: _wrap, Artefact.CHECKPOINT: _wrap_checkpoint}

ADVICE: dict[tuple[Artefact, Artefact], Callable[[Path], str]] = {
    **{(Artefact.RUN, found): advice for found, advice in (_FROM_PHOTOS | _FROM_CLASSIFIER).items()},
    **{(Artefact.BUNDLE, found): advice for found, advice in (_FROM_PHOTOS | _FROM_CLASSIFIER).items()},
    (Artefact.RUN, Artefact.BUNDLE): _run_of,
    (Artefact.RUN, Artefact.BUNDLES): _one_of(Artefact.BUNDLE),
    (Artefact.RUN, Artefact.RUNS): _one_of(Artefact.RUN),
    (Artefact.RUN, Artefact.PART): _holder,
    (Artefact.BUNDLE, Artefact.RUN): _export,
    (Artefact.BUNDLE, Artefact.RUNS): _one_of(Artefact.RUN),
    (Artefact.BUNDLE, Artefact.BUNDLES): _one_of(Artefact.BUNDLE),
    (Artefact.BUNDLE, Artefact.PART): _holder,
    (Artefact.BUNDLES, Artefact.BUNDLE): _holding_bundle,
    (Artefact.BUNDLES, Artefact.RUN): _export,
    (Artefact.PHOTOS, Artefact.RUN): _photos_of,
    (Artefact.PHOTOS, Artefact.SAMPLES): _review,
    (Artefact.PHOTOS, Artefact.SUSPECTS): _exclude,
    (Artefact.IMAGES, Artefact.ARCHIVE): _score_archive,
    (Artefact.IMAGES, Artefact.RESULTS): _drift,
    (Artefact.RESULTS, Artefact.IMAGES): _score,
    (Artefact.RESULTS, Artefact.PHOTOS): _score,
    (Artefact.RESULTS, Artefact.SAMPLES): _score,
    (Artefact.RESULTS, Artefact.ARCHIVE): _score,
    (Artefact.RESULTS, Artefact.IMAGE): _score,
    (Artefact.SAMPLES, Artefact.RESULTS): _drift,
    (Artefact.GRAPH, Artefact.RUN): _export_instead,
    (Artefact.GRAPH, Artefact.BUNDLE): _serve_instead,
}
