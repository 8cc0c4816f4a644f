"""What SOURCE may be, and in which order its images come."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oodguard.core.errors import ImageError, InputError
from oodguard.server.offline.items import Item
from oodguard.server.offline.reader import Reader
from oodguard.server.offline.sources import Source


def paths(items: list[Item]) -> list[str]:
    return [item.path for item in items]


def test_a_folder_is_walked_in_the_order_of_its_names(tmp_path: Path, find: Callable[[str], list[Item]]) -> None:
    for name in ("b/2.JPG", "b/10.png", "a.webp", "c.txt", ".hidden.jpg", ".git/x.jpg", "b/sub/z.gif"):
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(b"x")
    source = Source("f", base=tmp_path, max_bytes=9)
    assert paths(list(source)) == ["f/a.webp", "f/b/10.png", "f/b/2.JPG", "f/b/sub/z.gif"]
    assert sum(source.passed.counts.values()) == 2  # files; what lies in a hidden folder is not looked at


def test_links_are_followed_once_and_loops_end(tmp_path: Path, find: Callable[[str], list[Item]]) -> None:
    folder = tmp_path / "f"
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        (folder / name / "x.jpg").write_bytes(b"x")
        for target in ("..", "../one", "../two", "."):
            (folder / name / f"loop-{target.replace('/', '')}").symlink_to(target)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "y.jpg").write_bytes(b"x")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "self.jpg").symlink_to("self.jpg")
    found = paths(find("f"))
    assert found[0] == "f/linked/y.jpg"
    assert sorted(os.path.basename(p) for p in found) == ["self.jpg", "x.jpg", "x.jpg", "y.jpg"]  # noqa: PTH119


def test_what_is_no_ordinary_file_is_a_row_and_does_not_hang(
    tmp_path: Path, find: Callable[[str], list[Item]], read: Callable[[Item], bytes | str]
) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    os.mkfifo(folder / "1-pipe.jpg")
    (folder / "2-broken.jpg").symlink_to("nowhere")
    (folder / "3-loop.jpg").symlink_to("3-loop.jpg")
    (folder / "4-large.jpg").write_bytes(bytes(100_001))
    (folder / "5-fine.jpg").write_bytes(b"fine")
    (folder / "6-zero.jpg").symlink_to("/dev/zero")
    assert [read(item) for item in find("f")] == [
        "not_a_file",
        "not_found",
        "cannot_read",
        "too_many_bytes",
        b"fine",
        "not_a_file",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_a_row(tmp_path: Path, find: Callable[[str], list[Item]]) -> None:
    (tmp_path / "f" / "locked").mkdir(parents=True)
    (tmp_path / "f" / "locked").chmod(0)
    assert [(item.path, item.code) for item in find("f")] == [("f/locked", "cannot_read")]


def test_a_list_keeps_its_lines_and_refuses_nothing_early(
    tmp_path: Path, find: Callable[[str], list[Item]], read: Callable[[Item], bytes | str]
) -> None:
    odd = os.fsdecode(b"caf\xe9 1.jpg")
    (tmp_path / odd).write_bytes(b"odd")
    (tmp_path / "no suffix").write_bytes(b"any")
    lines = [b"\xef\xbb\xbfno suffix\r", b"", b"caf\xe9 1.jpg", b"http://example.com/x.jpg", b"gone.jpg", b".", b"a\0b"]
    (tmp_path / "some.txt").write_bytes(b"\n".join(lines))
    items = find("some.txt")
    assert paths(items) == ["no suffix", odd, "http://example.com/x.jpg", "gone.jpg", ".", "a\0b"]
    assert [read(item) for item in items] == [b"any", b"odd", "not_found", "not_found", "not_a_file", "cannot_read"]
    assert [Item.of(item.line()) for item in items] == items
    (tmp_path / "some.txt").write_bytes(b"x" * 70_000)
    with pytest.raises(InputError, match=r"line 1 of some.txt is longer"):
        find("some.txt")


def test_patterns(tmp_path: Path, find: Callable[[str], list[Item]]) -> None:
    for name in ("s-008.jpg", "s-009.jpg", "s-010.jpg", "a[1].jpg", "t.txt", "x{1,2}.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert paths(find("s-{008..010}.jpg")) == ["s-008.jpg", "s-009.jpg", "s-010.jpg"]
    assert paths(find("s-{010..008}.jpg")) == ["s-010.jpg", "s-009.jpg", "s-008.jpg"]
    assert paths(find("{s,s}-0{08..10}.jpg")) == [f"s-0{n}.jpg" for n in ("08", "09", "10")] * 2
    assert paths(find("{s-010,s-00?}.jpg")) == ["s-010.jpg", "s-008.jpg", "s-009.jpg"]
    assert paths(find(str(tmp_path / "s-*.jpg")))[0] == str(tmp_path / "s-008.jpg")
    # A name that exists means itself.
    assert paths(find("a[1].jpg")) == ["a[1].jpg"]
    assert paths(find("x{1,2}.jpg")) == ["x{1,2}.jpg"]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("s-{000..003}.tar", "s-000.tar does not exist"),
        ("*.tar", r"nothing matches \*.tar"),
        ("s-{0..999999999}.tar", "more than 1,000,000 names"),
        ("{0..999}{0..999}{0..999}", "more than 1,000,000 names"),
        ("https://example.com/a.tar", "nothing is fetched"),
        ("pipe:curl x", "nothing is fetched"),
        ("s-{0{1,2},3}.tar", "one brace inside another"),
        ("", "empty"),
        ("notes.md", "no folder, image, list"),
    ],
)
def test_sources_that_mean_nothing_are_refused(tmp_path: Path, source: str, sentence: str) -> None:
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(InputError, match=sentence):
        list(Source(source, base=tmp_path, max_bytes=9))


def test_content_decides_what_an_image_is(
    tmp_path: Path, image: Callable[[int], bytes], pack: Callable[..., bytes]
) -> None:
    """Photos without a suffix or with another one are scored, in folders, zips and tars; the rest is named."""
    files = {
        "a": image(0),
        "b.HEIC": image(1),
        "c.jfif": image(2),
        "d.cls": b"3",
        "e.json": b"{}",
        "f.json": b"{}",
        "g.jpg": b"<html>",
        ".h.png": image(3),
        "i": b"text",
    }
    images = ["a", "b.HEIC", "c.jfif", "g.jpg"]
    passed = {".json": 2, ".cls": 1, "hidden": 1, "without a suffix": 1}
    (tmp_path / "folder").mkdir()
    for name, data in files.items():
        (tmp_path / "folder" / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    (tmp_path / "all.tar").write_bytes(pack(files))
    (tmp_path / "all.tar.gz").write_bytes(pack(files, mode="w:gz"))
    reader = Reader(tmp_path, max_bytes=100_000)
    for source in ("folder", "all.zip", "all.tar", "all.tar.gz"):
        found = Source(source, base=tmp_path, max_bytes=100_000)
        items = list(found)
        assert [item.member or PurePath(item.path).name for item in items] == images, source
        assert found.passed.counts == passed
        assert [reader.read(item) for item in items] == [files[name] for name in images]
    reader.close()
    assert [item.path for item in Source("folder/a", base=tmp_path, max_bytes=100_000)] == ["folder/a"]


def test_archives_in_a_folder_are_named_and_kinds_are_bounded(tmp_path: Path, image: Callable[[int], bytes]) -> None:
    (tmp_path / "in").mkdir()
    for number in range(40):
        (tmp_path / "in" / f"{number}.x{number}").write_bytes(b"text")
    (tmp_path / "in" / "0.zip").write_bytes(b"PK\x03\x04")
    (tmp_path / "in" / "a.png").write_bytes(image(0))
    found = Source("in", base=tmp_path, max_bytes=100_000)
    assert len(list(found)) == 1
    assert sum(found.passed.counts.values()) == 41
    assert found.passed.counts["archives in a folder or archive"] == 1
    assert len(found.passed.counts) <= 21
    assert found.passed.counts["others"] == 41 - (len(found.passed.counts) - 1)


@pytest.mark.parametrize("group", [2, 100])
def test_rows_of_parquet_files_are_images(tmp_path: Path, image: Callable[[int], bytes], group: int) -> None:
    cells = [{"bytes": image(number), "path": f"{number}.png"} for number in range(9)]
    cells[4] = {"bytes": None, "path": "lost.png"}
    for shard in range(2):
        table = pa.table({"image": cells, "thumb": [b"x"] * 9, "label": list(range(9))})
        pq.write_table(table, tmp_path / f"{shard}.parquet", row_group_size=group)
    with pytest.raises(InputError, match=r"several columns of images \(image, thumb\); name one of them with --column"):
        list(Source("0.parquet", base=tmp_path, max_bytes=100_000))
    found = Source("{0..1}.parquet", base=tmp_path, max_bytes=100_000, column="image")
    items = list(found)
    assert found.inputs == ["0.parquet", "1.parquet"]
    assert [item.member for item in items[:5]] == [
        "row 0: 0.png", "row 1: 1.png", "row 2: 2.png", "row 3: 3.png", "row 4: lost.png",
    ]  # fmt: skip
    assert [Item.of(item.line()) for item in items] == items
    reader = Reader(tmp_path, max_bytes=100_000, column="image")
    for order in (items, items[::-1], items[7:] + items[:7]):
        for item in order:
            if item.offset == 4:
                with pytest.raises(ImageError, match=r"row 4 has no bytes .*the path lost\.png"):
                    reader.read(item)
            else:
                assert reader.read(item) == image(item.offset)
    small = Reader(tmp_path, max_bytes=10, column="image")
    with pytest.raises(ImageError, match="--max-image-bytes"):
        small.read(items[0])
    small.close()
    reader.close()
