"""Versions count up."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodguard.core.errors import InputError
from oodguard.core.lineage import next_version, versions_beside


@pytest.mark.parametrize(
    ("known", "following"), [([], "1"), (["1"], "2"), (["9", "10"], "11"), (["3", "spring"], "4"), (["007"], "8")]
)
def test_the_next_version_is_the_whole_number_after_the_highest(known: list[str], following: str) -> None:
    assert next_version(known) == following


def test_nothing_follows_a_version_that_is_no_number() -> None:
    with pytest.raises(InputError, match="version spring is no whole number, so nothing follows it"):
        next_version(["spring"])


def test_versions_are_those_of_the_same_name_at_the_place_and_beside_it(tmp_path: Path) -> None:
    for folder, name, version in (
        ("photos", "photos", "1"),
        ("photos-2", "photos", "2"),
        ("other", "shoes", "40"),
        ("photos-3.partial", "photos", "50"),
        ("photos.old", "photos", "60"),
    ):
        (tmp_path / folder).mkdir()
        # Of a schema that this program may not read otherwise.
        (tmp_path / folder / "manifest.json").write_text(
            f'{{"schema_version": 1, "name": "{name}", "version": "{version}"}}'
        )
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "manifest.json").write_text("{")
    (tmp_path / "file").write_text("")
    for out in ("photos", "photos-9"):
        assert sorted(versions_beside(tmp_path / out, "photos", record="manifest.json")) == ["1", "2"]
    assert list(versions_beside(tmp_path / "nowhere" / "photos", "photos", record="manifest.json")) == []
