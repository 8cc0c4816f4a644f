"""Files of a source that are not scored: how many there are of each kind, and what makes a file an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from oodguard.core.formats import IMAGE_SUFFIXES, format_of
from oodguard.core.image_tables import is_parquet

# Kinds that are told apart; further ones are counted together.
KINDS = 20
LONGEST_SUFFIX = 12
OTHERS = "others"
ARCHIVES = "archives in a folder or archive"


class SkippedFiles:
    """Counts the files that were passed over, by kind: hidden ones, archives, and the others by suffix.

    ```python
    passed = SkippedFiles()
    passed.add("shard/000.json", b'{"label": 1}')
    assert passed.counts == {".json": 1}
    ```
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, name: str, head: bytes = b"") -> None:
        """Count a file by its name and its first bytes."""
        kind = _kind(name, head)
        self.counts[kind if kind in self.counts or len(self.counts) < KINDS else OTHERS] += 1

    @property
    def sentence(self) -> str:
        """What was passed over, and what to do about archives among it; empty where nothing was."""
        if not self.counts:
            return ""
        advice = "; give archives and Parquet files themselves, or a pattern such as 'FOLDER/*.parquet'"
        return f"other files are passed over ({most_first(self.counts)}){advice if ARCHIVES in self.counts else ''}"


def most_first(counts: Mapping[str, int]) -> str:
    """Kinds with their counts, the most frequent first, as people read them."""
    return ", ".join(f"{kind} {count:,}" for kind, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def looks_like_image(name: str, head: bytes) -> bool:
    """Whether a file is to be scored: its content says that it is an image, or its name does, damaged or not."""
    return name.lower().endswith(IMAGE_SUFFIXES) or format_of(head) is not None


def _kind(name: str, head: bytes) -> str:
    parts = name.replace("\\", "/").split("/")
    if parts[-1].startswith(".") or "__MACOSX" in parts:
        return "hidden"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")) or is_parquet(head):
        return ARCHIVES
    suffix = PurePosixPath(parts[-1]).suffix.lower()
    if not suffix:
        return "without a suffix"
    return suffix if len(suffix) <= LONGEST_SUFFIX and suffix.isprintable() else OTHERS
