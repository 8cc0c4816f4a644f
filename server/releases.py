"""Releases: bundles side by side in one folder, and which of them is served; promoted and rolled back by one rename."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from oodguard.core.errors import EnvironmentProblem, FormatError, InputError
from oodguard.core.files import file_sha256
from oodguard.core.frozen import Frozen
from oodguard.core.manifest import MANIFEST_FILE, Manifest, load_manifest
from oodguard.core.preprocessing import DEFAULT_LIMITS, ImageLimits
from oodguard.server.batch_judge import BatchJudge
from oodguard.server.engines.registry import DEFAULT
from oodguard.server.tuning import TUNING_FILE, EnginePlan

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

SERVED = "current"
HISTORY_FILE = "releases.jsonl"
LOCK_FILE = ".releases.lock"

Action = Literal["promote", "rollback"]


class Promotion(Frozen):
    """A line of the history: what was served from `time` on. sha256: of its manifest. by: what did it."""

    time: str
    action: Action
    release: str
    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Release:
    """A bundle in the folder; fault: why it cannot be served, as far as its files say."""

    folder: Path
    manifest: Manifest | None
    sha256: str | None
    fault: str | None

    @property
    def release(self) -> str:
        """The name of its folder."""
        return self.folder.name


class Releases:
    """The bundles of one folder, and the one that is served.

    ```python
    releases = Releases(Path("bundles"))
    releases.promote("photos-2")     # oodguard serve bundles/current takes it over
    releases.rollback()
    ```

    `bundles/current` is a link to one of them, and a promotion replaces the link by one rename: whoever opens it finds
    the one bundle or the other. Where it is a folder, or links cannot be made, the bundle is copied beside it and
    renamed. Every promotion is a line of `bundles/releases.jsonl`.
    """

    def __init__(self, folder: Path, *, served: str = SERVED) -> None:
        """Raises `InputError` where `folder` is no folder."""
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder of bundles")
        if (folder / MANIFEST_FILE).is_file():
            raise InputError(f"{folder} is one bundle; name the folder that holds it and its later versions")
        if Path(served).name != served or served in ("", ".", ".."):
            raise InputError(f"--served is a name inside {folder}; got {served!r}")
        self.folder = folder
        self.served = folder / served

    def all(self) -> list[Release]:
        """Every bundle, in the order of their folders' names with numbers as numbers."""
        try:
            found = sorted(path for path in self.folder.iterdir() if self._holds_bundle(path))
        except OSError as error:
            raise EnvironmentProblem(f"{self.folder} cannot be read ({error.strerror or error})") from None
        return [_release(path) for path in found]

    def _holds_bundle(self, path: Path) -> bool:
        if path == self.served or path.name.startswith(".") or path.name.endswith((".partial", ".old")):
            return False
        return path.is_dir() and not path.is_symlink() and (path / MANIFEST_FILE).is_file()

    @property
    def history(self) -> list[Promotion]:
        """Every promotion and rollback, oldest first. Raises `FormatError` for a damaged file."""
        path = self.folder / HISTORY_FILE
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            return [Promotion.model_validate_json(line) for line in lines if line.strip()]
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError, ValidationError):
            raise FormatError(f"{path} is damaged; mend it, or remove it to begin a new history") from None

    def serving(self) -> Release | None:
        """The release that is served: by its content, so that a copy counts as what it is a copy of."""
        try:
            sha256 = file_sha256(self.served / MANIFEST_FILE)
        except OSError:
            return None
        linked = self.served.resolve() if self.served.is_symlink() else None
        candidates = [one for one in self.all() if one.sha256 == sha256]
        return next((one for one in candidates if one.folder.resolve() == linked), next(iter(candidates), None))

    def named(self, name: str) -> Release:
        """The release with this folder's name, or this version. Raises `InputError` where that is none or several."""
        found = self.all()
        if not found:
            raise InputError(
                f"{self.folder} holds no bundle; oodguard export writes one, with --out {self.folder}/NAME"
            )
        chosen = [one for one in found if one.release == name] or [
            one for one in found if one.manifest is not None and one.manifest.version == name
        ]
        if len(chosen) > 1:
            raise InputError(
                f"version {name} is in {' and '.join(one.release for one in chosen)}; name one of these folders"
            )
        if not chosen:
            there = ", ".join(one.release for one in found)
            raise InputError(f"{self.folder} has no release {name!r}; there are {there}")
        return chosen[0]

    def promote(self, name: str, *, copy: bool = False) -> Promotion:
        """Serve a release: by its folder's name or its version. copy: copy it, where links cannot be made.

        Verifies every file's hash, and that the engine answers the golden images as the manifest says. Raises
        `FormatError` and `QualityError` for a bundle that does not load, `InputError` for a name that is none, and
        `EnvironmentProblem` for what this machine refuses; what is served stays then.
        """
        with self._locked():
            return self._serve(self.named(name), "promote", copy=copy)

    def rollback(self, *, copy: bool = False) -> Promotion:
        """Serve again what was served before. Raises as `promote` does, and `InputError` where nothing was."""
        with self._locked():
            before = served_before(self.history)
            if before is None:
                raise InputError(f"{self.folder} has served no release before this one; promote the one to go back to")
            release = next((one for one in self.all() if one.release == before.release), None)
            if release is None:
                raise InputError(f"{before.release} was served before, and is not in {self.folder} any more")
            if release.sha256 != before.sha256:
                raise InputError(
                    f"{before.release} is not what was served before: its manifest has changed since {before.time}; "
                    f"promote {before.release} if that is right"
                )
            return self._serve(release, "rollback", copy=copy)

    def _serve(self, release: Release, action: Action, *, copy: bool) -> Promotion:
        manifest = require_loads(release.folder)
        done = Promotion(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            action=action,
            release=release.release,
            name=manifest.name,
            version=manifest.version,
            sha256=file_sha256(release.folder / MANIFEST_FILE),
        )
        before = self.history
        try:
            if copy or (self.served.exists() and not self.served.is_symlink()):
                self._copy(release.folder, manifest)
            else:
                self._link(release.folder)
            if not before or (before[-1].release, before[-1].sha256) != (done.release, done.sha256):
                with (self.folder / HISTORY_FILE).open("a", encoding="utf-8") as stream:
                    stream.write(done.model_dump_json() + "\n")
                    stream.flush()
                    os.fsync(stream.fileno())
        except OSError as error:
            raise EnvironmentProblem(f"{self.served} cannot be written ({error.strerror or error})") from None
        return done

    def _link(self, folder: Path) -> None:
        """Replace the link by one rename; it is relative, so the folder may be mounted elsewhere."""
        scratch = self.served.with_name(f".{self.served.name}.partial")
        scratch.unlink(missing_ok=True)
        try:
            scratch.symlink_to(folder.name, target_is_directory=True)
        except (OSError, NotImplementedError):
            raise EnvironmentProblem(f"{self.folder} takes no links; add --copy") from None
        scratch.replace(self.served)

    def _copy(self, folder: Path, manifest: Manifest) -> None:
        """Replace the served folder by a copy, which is whole before it has its name."""
        foreign = self.served.is_dir() and not (self.served / MANIFEST_FILE).is_file() and any(self.served.iterdir())
        if foreign and not self.served.is_symlink():
            raise InputError(f"{self.served} is not a bundle; choose another --served")
        scratch = self.served.with_name(f"{self.served.name}.partial")
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            for name in (*(ref.path for ref in manifest.files), TUNING_FILE, MANIFEST_FILE):
                if (folder / name).is_file():
                    (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / name, scratch / name)
            load_manifest(scratch)
            old = self.served.with_name(f"{self.served.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            if self.served.is_symlink():
                self.served.unlink()
            elif self.served.exists():
                self.served.replace(old)
            scratch.replace(self.served)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One promotion at a time. Raises `EnvironmentProblem` where another one is under way."""
        try:
            descriptor = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise EnvironmentProblem(f"{self.folder} cannot be written ({error.strerror or error})") from None
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise EnvironmentProblem(f"another promotion in {self.folder} is under way") from None
        finally:
            os.close(descriptor)


def served_before(history: list[Promotion]) -> Promotion | None:
    """What a rollback goes back to: each takes away the last promotion that is left; None where there is none."""
    served: list[Promotion] = []
    for one in history:
        if one.action == "rollback" and len(served) > 1:
            served.pop()
        elif one.action == "promote":
            served.append(one)
    return served[-2] if len(served) > 1 else None


def require_loads(bundle: Path, *, limits: ImageLimits = DEFAULT_LIMITS) -> Manifest:
    """The manifest of a bundle whose files have their hashes, and whose golden images are answered as it says.

    Raises `FormatError`, `EnvironmentProblem` or `QualityError` for any other.
    """
    manifest = load_manifest(bundle)
    plan = EnginePlan(engine=DEFAULT, sessions=1, threads=1, max_batch=1)
    BatchJudge.open(bundle, manifest, plan, limits=limits, device="cpu").close()
    return manifest


def _release(folder: Path) -> Release:
    sha256 = None
    try:
        sha256 = file_sha256(folder / MANIFEST_FILE)
        return Release(folder=folder, manifest=load_manifest(folder), sha256=sha256, fault=None)
    except (FormatError, OSError) as error:
        return Release(folder=folder, manifest=None, sha256=sha256, fault=str(error))
