"""Lists the images of SOURCE: a folder, a list, an archive, a Parquet file, one image, or a pattern of these.

Content decides what an image is. The order is always the same.
"""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

from oodguard.core.codes import Code
from oodguard.core.errors import InputError
from oodguard.core.formats import HEAD, format_of
from oodguard.core.text import readable
from oodguard.server.offline.archives import kind_of, list_archive, list_table
from oodguard.server.offline.items import Item
from oodguard.server.offline.skipped import SkippedFiles, looks_like_image

LIST_SUFFIXES = (".txt", ".lst", ".list")
MAX_LINE = 64 * 1024
MAX_NAMES = 1_000_000

_BRACE = re.compile(r"(\{[^{}]*\})")
_NESTED = re.compile(r"\{[^{}]*\{")
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


class Source:
    """The images of SOURCE, found while the caller iterates.

    ```python
    for item in Source("shards/{000..127}.tar", base=Path.cwd(), max_bytes=20_000_000):
        ...
    ```

    inputs: the lists and archives that were read, so that a caller notices when they change later.
    passed: the files that were passed over because they are hidden, or images neither by content nor by name. column:
    the column of images, where a Parquet file has several.
    """

    def __init__(self, source: str, *, base: Path, max_bytes: int, column: str | None = None) -> None:
        self._base = base
        self._max_bytes = max_bytes
        self._source = source
        self._names = _expand(source, base)
        self.inputs: list[str] = []
        self.passed = SkippedFiles()
        self._column = column

    def __iter__(self) -> Iterator[Item]:
        """Yield items in order: of the names, a folder's sorted entries, a list's lines, an archive's members."""
        for name in self._names:
            path = self._base / name
            if path.is_dir():
                yield from self._walk(name)
                continue
            if looks_like_image(name, b""):
                yield Item(name)
                continue
            try:
                head = _head(path) if path.is_file() else b""
                kind = kind_of(str(path)) if path.is_file() else None
            except OSError as error:
                yield Item(name, code=Code.CANNOT_READ, message=f"it cannot be read ({error.strerror})")
                continue
            if format_of(head) is not None:
                yield Item(name)
            elif kind:
                self.inputs.append(name)
                if kind == "parquet":
                    yield from list_table(name, str(path), column=self._column)
                else:
                    yield from list_archive(name, str(path), kind, max_bytes=self._max_bytes, passed=self.passed)
            elif path.is_file() and name.lower().endswith(LIST_SUFFIXES):
                self.inputs.append(name)
                yield from _lines(name, path)
            elif len(self._names) > 1:
                self.passed.add(name, head)
            else:
                raise InputError(
                    f"{readable(name)} is no folder, image, list ({', '.join(LIST_SUFFIXES)}), zip, tar or Parquet "
                    "file that can be read"
                )

    def _walk(self, folder: str) -> Iterator[Item]:
        """Yield the images below a folder; follow links, but enter no folder twice, so that loops end."""
        seen: set[tuple[int, int]] = set()
        stack = [self._entries(folder, seen)]
        while stack:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
            elif isinstance(found, Item):
                yield found
            else:
                stack.append(self._entries(found, seen))

    def _entries(self, folder: str, seen: set[tuple[int, int]]) -> Iterator[Item | str]:
        """Yield images and sub-folders of a folder, sorted by name; one that cannot be read becomes an error row."""
        path = self._base / folder
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                names = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError as error:
            yield Item(folder, code=Code.CANNOT_READ, message=f"the folder cannot be read ({error.strerror})")
            return
        for name, is_folder in names:
            below = str(PurePath(folder, name))
            if is_folder and not name.startswith("."):
                yield below
            elif not is_folder:
                hidden = name.startswith(".")
                head = b"" if hidden or looks_like_image(name, b"") else _head(path / name)
                if not hidden and looks_like_image(name, head):
                    yield Item(below)
                else:
                    self.passed.add(name, head)


def _head(path: Path) -> bytes:
    """The first bytes of an ordinary file; none of what cannot be read."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as stream:
            return stream.read(HEAD)
    except OSError:
        return b""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _lines(name: str, path: Path) -> Iterator[Item]:
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise InputError(f"line {number} of {readable(name)} is longer than {MAX_LINE:,} bytes; is it a list?")
            text = os.fsdecode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip("\r\n")
            if text.strip():
                yield Item(text)


def _expand(source: str, base: Path) -> list[str]:
    """Return the files and folders that SOURCE names: itself, or what its braces and wildcards stand for."""
    if re.match(r"[a-z][a-z0-9+.-]*://|pipe:", source, re.IGNORECASE):
        raise InputError(f"{source} is not a path: nothing is fetched from a network; download it first")
    if not source:
        raise InputError("SOURCE is empty")
    if (base / source).exists():
        return [source]
    names: list[str] = []
    for pattern in _braces(source):
        if glob.has_magic(pattern):
            names += sorted(glob.glob(pattern, root_dir=base))  # noqa: PTH207 - pathlib's does not take absolute patterns
        elif (base / pattern).exists():
            names.append(pattern)
        else:
            raise InputError(f"{readable(pattern)} does not exist")
    if not names:
        raise InputError(f"nothing matches {source}")
    return names


def _braces(pattern: str) -> list[str]:
    """Expand shell braces, `{a,b}` and `{000..127}`, one or several; the last one changes fastest."""
    if _NESTED.search(pattern):
        raise InputError(f"{pattern} has one brace inside another; write the names out")
    choices = [_options(piece) for piece in _BRACE.split(pattern)]
    if any(not choice for choice in choices) or math.prod(map(len, choices)) > MAX_NAMES:
        raise InputError(f"{pattern} stands for more than {MAX_NAMES:,} names")
    return ["".join(names) for names in itertools.product(*choices)]


def _options(piece: str) -> list[str]:
    """Return what a piece of a pattern stands for; nothing for a range of more than `MAX_NAMES`."""
    span = _RANGE.fullmatch(piece)
    if span:
        first, last = int(span[1]), int(span[2])
        if abs(last - first) >= MAX_NAMES:
            return []
        width = max(map(len, span.groups())) if "0" in (span[1][0], span[2][0]) else 0
        step = 1 if last >= first else -1
        return [f"{number:0{width}d}" for number in range(first, last + step, step)]
    return piece[1:-1].split(",") if _BRACE.fullmatch(piece) and "," in piece else [piece]
