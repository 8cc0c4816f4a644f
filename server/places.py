"""Where sampled images are kept: a folder, or a bucket in an object store."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from oodguard.core.errors import EnvironmentProblem

if TYPE_CHECKING:
    from obstore.store import ObjectStore

# For one request to an object store; only the sampling thread waits for it.
REQUEST_TIMEOUT = "5s"
RETRIES = 2
UNFINISHED = ".partial"


# What a file takes on most disks is a multiple of this; so many small files are counted, too.
BLOCK = 4096
# Seconds after which a half-written file is nobody's any more.
ABANDONED = 3600.0


def stored(size: int) -> int:
    """What a file of so many bytes takes."""
    return -(-size // BLOCK) * BLOCK


class Place(Protocol):
    """Somewhere to put files. `held`, `has` and `put` raise `EnvironmentProblem`, in one sentence."""

    def held(self, enough: int) -> int:
        """What the files take (see `stored`) that are there already; counting may stop at `enough`."""

    def has(self, name: str) -> bool:
        """Whether a file is there."""

    def put(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""

    def remove(self, name: str) -> None:
        """Remove a file, if that is possible."""


class Folder:
    """A folder on this machine; only its owner may read the files, and the folder if it is made here.

    Raises `EnvironmentProblem` when it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(path, os.W_OK):
                raise PermissionError(None, "it is not writable")
            for unfinished in path.glob(f".*{UNFINISHED}"):
                if time.time() - unfinished.stat().st_mtime > ABANDONED:
                    unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise self._problem(error) from None

    def _problem(self, error: OSError) -> EnvironmentProblem:
        return EnvironmentProblem(f"flagged images cannot be kept in {self._path}: {error.strerror or error}")

    def held(self, enough: int) -> int:
        """What the files in the folder take."""
        try:
            return sum(stored(path.stat().st_size) for path in self._path.iterdir() if path.is_file())
        except OSError as error:
            raise self._problem(error) from None

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self._path / name).exists()

    def put(self, name: str, data: bytes) -> None:
        """Write beside its place, then rename; nothing is left of a file that cannot be written."""
        # Another worker may be writing the same picture.
        unfinished = self._path / f".{name}.{os.getpid()}{UNFINISHED}"
        try:
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
                stream.write(data)
            unfinished.rename(self._path / name)
        except OSError as error:
            self.remove(unfinished.name)
            raise self._problem(error) from None

    def remove(self, name: str) -> None:
        """Remove a file, if that is possible."""
        with contextlib.suppress(OSError):
            (self._path / name).unlink()


class Bucket:
    """A prefix in an object store: `s3://bucket/prefix`, `gs://bucket/prefix` or `az://account/container/prefix`.

    Credentials and endpoint come from the cloud's usual environment variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`
    and so on) or the machine's own identity. Nothing is asked of the store before the first image. Raises
    `EnvironmentProblem` without the extra, or for an address that cannot be understood.
    """

    def __init__(self, address: str) -> None:
        try:
            import obstore
            from obstore.store import from_url
        except ModuleNotFoundError:
            raise EnvironmentProblem("flagged images in an object store need: pip install 'oodguard[store]'") from None
        self._api = obstore
        self._address = address
        try:
            self._store: ObjectStore = from_url(
                address,
                # Options given here take the place of those in the environment, so this one is carried over.
                client_options={
                    "timeout": REQUEST_TIMEOUT,
                    "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"),
                },
                retry_config={"max_retries": RETRIES},
            )
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise self._problem(error) from None

    def _problem(self, error: Exception) -> EnvironmentProblem:
        # The store's own errors are pages long; the first line says what happened.
        reason = " ".join(str(error).strip().splitlines()[0].split())[:200] if str(error).strip() else "no reason given"
        return EnvironmentProblem(f"flagged images cannot be kept in {self._address}: {reason}")

    def held(self, enough: int) -> int:
        """What the objects under the prefix take."""
        found = 0
        try:
            for objects in self._api.list(self._store):
                found += sum(stored(one["size"]) for one in objects)
                if found >= enough:
                    break
        except (self._api.exceptions.BaseError, OSError) as error:
            raise self._problem(error) from None
        return found

    def has(self, name: str) -> bool:
        """Whether there is such an object."""
        try:
            self._api.head(self._store, name)
        except FileNotFoundError:
            return False
        except (self._api.exceptions.BaseError, OSError) as error:
            raise self._problem(error) from None
        return True

    def remove(self, name: str) -> None:
        """Remove an object, if that is possible."""
        with contextlib.suppress(self._api.exceptions.BaseError, OSError):
            self._api.delete(self._store, name)

    def put(self, name: str, data: bytes) -> None:
        """Write one object."""
        try:
            self._api.put(self._store, name, data)
        except (self._api.exceptions.BaseError, OSError) as error:
            raise self._problem(error) from None


def place_of(folder: Path | None, address: str | None) -> Place | None:
    """The place that settings name; None where they name none."""
    if address is not None:
        return Bucket(address)
    return Folder(folder) if folder is not None else None
