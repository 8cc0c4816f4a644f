"""`write_repository`: a bundle becomes a version of a model in a Triton model repository, beside what is served."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.manifest import GRAPH_FILE, MANIFEST_FILE, Manifest, load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.core.triton import describe
from oodguard.export.triton.config import model_config
from oodguard.export.triton.options import TritonOptions

CONFIG_FILE = "config.pbtxt"
WARMUP_FOLDER = "warmup"
MODEL_FILE = "model.py"
# Read, never imported: what it imports exists inside Triton alone.
PYTHON_MODEL = Path(__file__).with_name("python_backend.py")


@dataclass(frozen=True)
class Placed:
    """Where a bundle went: model `name`, version `number`, and every version that Triton may serve now."""

    name: str
    number: int
    served: tuple[int, ...]


def write_repository(bundle: Path, repository: Path, options: TritonOptions | None = None) -> Placed:
    """Write a bundle into a model repository.

    ```python
    placed = write_repository(Path("bundles/photos"), Path("repository"), TritonOptions(backend="python"))
    ```

    Each version folder is a bundle itself. It is written beside the repository and renamed into place, and so is the
    configuration, so a Triton that serves an older version of the model reads one or the other, never a half of one.
    A bundle whose version is not a whole number gets the next free number.

    Raises `InputError` and `FormatError` for what the user can mend, `EnvironmentProblem` for what the disk refuses.
    """
    options = options or TritonOptions()
    manifest = load_manifest(bundle)
    if manifest.graph != GRAPH_FILE:
        raise InputError(f"{bundle} calls its graph {manifest.graph}; Triton wants {GRAPH_FILE}")
    name = options.model or manifest.name
    try:
        with _alone(repository), _scratch(repository) as scratch:
            return _write(bundle, manifest, repository / name, scratch, options)
    except OSError as error:
        raise EnvironmentProblem(f"{repository} cannot be written ({error.strerror or error})") from None


def _write(bundle: Path, manifest: Manifest, home: Path, scratch: Path, options: TritonOptions) -> Placed:
    present = versions(home)
    number = _number(manifest, bundle, present, home)
    staged = scratch / home.name
    staged.mkdir()
    folder = staged / str(number)
    if number not in present:
        _copy(bundle, manifest, folder)
    golden = {g.path: (bundle / g.path).read_bytes() for g in manifest.golden}
    files = _warmup(manifest, golden, staged / WARMUP_FOLDER)
    everything = {**present, number: manifest}
    served = options.served(list(everything))
    if number not in served:
        raise InputError(f"--triton-policy {options.policy} does not serve version {number}, which is being written")
    parameters: dict[str, str] = {}
    for one in served:
        place = bundle if one == number else home / str(one)
        images = {g.path: (place / g.path).read_bytes() for g in everything[one].golden}
        named = everything[one].bank
        parameters |= describe(one, everything[one], images, None if named is None else (place / named).read_bytes())
    text = model_config(home.name, {one: everything[one] for one in served}, parameters, files, options)
    (staged / CONFIG_FILE).write_text(text, encoding="utf-8")
    if options.backend == "python":
        for one in served:
            _add_model(folder if one == number and number not in present else home / str(one), scratch)
    if home.is_dir():
        _sweep(home)
        _join(staged, home, number, config_first=not options.only)
    else:
        staged.rename(home)
    return Placed(home.name, number, tuple(served))


def versions(home: Path) -> dict[int, Manifest]:
    """The versions in a model's folder. Raises `InputError` when it is not one of ours."""
    if not home.exists():
        return {}
    if not (home / CONFIG_FILE).is_file():
        raise InputError(f"{home} exists and is not a model of a Triton repository; choose another --triton-model")
    numbers = sorted(int(path.name) for path in home.iterdir() if path.name.isdecimal() and path.is_dir())
    foreign = [number for number in numbers if not (home / str(number) / MANIFEST_FILE).is_file()]
    if foreign:
        raise InputError(f"{home / str(foreign[0])} was not written by oodguard; choose another --triton-model")
    return {number: load_manifest(home / str(number)) for number in numbers}


def _number(manifest: Manifest, bundle: Path, present: Mapping[int, Manifest], home: Path) -> int:
    same = [number for number, other in present.items() if other == manifest]
    if same:
        return same[-1]
    if not manifest.version.isdecimal() or int(manifest.version) < 1:
        return max(present, default=0) + 1
    number = int(manifest.version)
    if number in present:
        raise InputError(
            f"{home} already has another version {number} than {bundle}; export it with a new --model-version, or "
            "choose another --triton-model"
        )
    return number


def _copy(bundle: Path, manifest: Manifest, folder: Path) -> None:
    for path in (MANIFEST_FILE, *(ref.path for ref in manifest.files)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / path, folder / path)


def _add_model(folder: Path, scratch: Path) -> None:
    """Put the python backend's model beside a graph; an older version may have been written for the other backend."""
    Path(shutil.copyfile(PYTHON_MODEL, scratch / MODEL_FILE)).replace(folder / MODEL_FILE)


def _warmup(manifest: Manifest, golden: Mapping[str, bytes], folder: Path) -> list[str]:
    """One file of pixels a golden image, named by its content: a file that Triton reads now is never changed."""
    folder.mkdir()
    names = []
    for data in golden.values():
        pixels = load_pixels(data, manifest.preprocessing).tobytes()
        names.append(f"golden-{hashlib.sha256(pixels).hexdigest()[:16]}")
        (folder / names[-1]).write_bytes(pixels)
    return list(dict.fromkeys(names))


def _sweep(home: Path) -> None:
    """Remove warm-up files that the configuration in force does not name: they are of versions before it."""
    text = (home / CONFIG_FILE).read_text(encoding="utf-8")
    for file in (home / WARMUP_FOLDER).glob("golden-*"):
        if file.name not in text:
            file.unlink()


def _join(staged: Path, home: Path, number: int, *, config_first: bool) -> None:
    """Move what was staged into a model that may be served right now."""
    (home / WARMUP_FOLDER).mkdir(exist_ok=True)
    for file in (staged / WARMUP_FOLDER).iterdir():
        file.replace(home / WARMUP_FOLDER / file.name)

    def place_version() -> None:
        if (staged / str(number)).is_dir():
            (staged / str(number)).rename(home / str(number))

    # A version must never be loaded under a configuration that does not describe it. `latest` and `all` load a version
    # as soon as its folder is there; `only` as soon as the configuration names it.
    if not config_first:
        place_version()
    (staged / CONFIG_FILE).replace(home / CONFIG_FILE)
    if config_first:
        place_version()


@contextlib.contextmanager
def _alone(repository: Path) -> Iterator[None]:
    """Let one export at a time write: the configuration is made from all versions that are there."""
    repository.mkdir(parents=True, exist_ok=True)
    handle = os.open(repository, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _scratch(repository: Path) -> Iterator[Path]:
    """A folder on the repository's file system that Triton does not look into: everything in a repository is a model.

    Only where the repository is a mount point of its own must it lie inside, for the moment of writing.
    """
    repository = repository.resolve()
    inside = os.path.ismount(repository)
    folder = repository / ".oodguard.partial" if inside else repository.with_name(repository.name + ".partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
