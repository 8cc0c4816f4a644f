"""Zips and tars: the same images as in a folder; bombs, tricks and damage end in rows, never in a lost image."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from oodguard.server.offline import archives
from oodguard.server.offline.items import Item

Find = Callable[[str], list[Item]]
Read = Callable[[Item], bytes | str]
Pack = Callable[..., bytes]

LONG = "/".join(["a-rather-long-folder-name"] * 9) + "/x.jpg"


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_gives_its_images_in_order(
    tmp_path: Path, find: Find, read: Read, pack: Pack, form: int, squeeze: Callable[[bytes], bytes]
) -> None:
    files = {
        "b/1.jpg": b"one",
        "b/1.cls": b"3",
        "é.PNG": b"",
        LONG: b"x" * 600,
        "__MACOSX/b.jpg": b"-",
        "._a.jpg": b"-",
    }
    (tmp_path / "s.tar.any").write_bytes(squeeze(pack(files, form=form)))
    items = find("s.tar.any")
    assert [(item.member, read(item)) for item in items] == [("b/1.jpg", b"one"), ("é.PNG", b""), (LONG, b"x" * 600)]
    assert {item.path for item in items} == {"s.tar.any"}
    # Backwards as well: a compressed tar starts again.
    assert [read(item) for item in reversed(items)] == [b"x" * 600, b"", b"one"]


def test_a_zip_gives_its_images_in_order(tmp_path: Path, find: Find, read: Read) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("b/2.jpg", b"two" * 100, zipfile.ZIP_DEFLATED)
        archive.writestr("b/notes.txt", b"-")
        archive.writestr("a/", b"")
        archive.writestr("a/1.jpg", b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a/1.jpg", b"the same name again", zipfile.ZIP_LZMA)
    assert [read(item) for item in find("s.zip")] == [b"two" * 100, b"one", b"the same name again"]


def test_shards_of_a_pattern_follow_each_other_and_a_bad_one_is_a_row(
    tmp_path: Path, find: Find, read: Read, pack: Pack
) -> None:
    for number in range(12):
        (tmp_path / f"s-{number:02}.tar").write_bytes(pack({f"{number}.jpg": bytes([number]), "x.json": b"{}"}))
    (tmp_path / "s-03.tar").write_bytes(b"")
    (tmp_path / "s-05.tar").write_bytes(b"not a tar" * 100)
    items = find("s-{00..11}.tar")
    assert [item.code for item in items] == [None] * 3 + ["damaged_archive", None, "damaged_archive"] + [None] * 6
    good = [item for item in items if not item.code]
    random.Random(0).shuffle(good)  # more shards than stay open
    assert all(read(item) == bytes([int(str(item.member).split(".")[0])]) for item in good)


def test_members_that_are_no_files_or_lead_out_are_rows(tmp_path: Path, find: Find, read: Read, pack: Pack) -> None:
    link = tarfile.TarInfo("link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("hard.jpg")
    hard.type, hard.linkname = tarfile.LNKTYPE, "fine.jpg"
    device = tarfile.TarInfo("device.jpg")
    device.type = tarfile.CHRTYPE
    (tmp_path / "s.tar").write_bytes(
        pack({"../up.jpg": b"x", "/abs.jpg": b"x", link: b"", hard: b"", device: b"", "fine.jpg": b"x"})
    )
    codes = ["unsafe_path", "unsafe_path", "not_a_file", "not_a_file", "not_a_file", b"x"]
    assert [read(item) for item in find("s.tar")] == codes
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for name in ("a/../../up.jpg", "..\\up.jpg", "C:/x.jpg", "fine.jpg"):
            archive.writestr(name, b"x")
        info = zipfile.ZipInfo("link.jpg")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert [read(item) for item in find("s.zip")] == ["unsafe_path"] * 3 + [b"x", "not_a_file"]
    assert not list(tmp_path.glob("*.jpg"))


def test_a_damaged_tar_keeps_what_came_before_and_says_so(tmp_path: Path, find: Find, read: Read, pack: Pack) -> None:
    noise = random.Random(0).randbytes(700)
    whole = pack({f"{n}.jpg": noise for n in range(4)}, form=tarfile.USTAR_FORMAT)
    second = 3 * 512
    for name, data in {
        "header.tar": whole[:second] + b"garbage!" + whole[second + 8 :],
        "cut-in-data.tar": whole[: second + 512 + 100],
        "cut-in-header.tar": whole[: second + 100],
        "cut.tar.gz": gzip.compress(whole, 0)[:-6000],
    }.items():
        (tmp_path / name).write_bytes(data)
        items = find(name)
        assert items[-1].code == "damaged_archive", name
        assert items[-1].member is None
        assert read(items[0]) == noise
        if name == "cut-in-data.tar":
            assert [read(item) for item in items[1:]] == ["damaged_archive"] * 2


def test_malicious_tar_headers_end_soon(tmp_path: Path, find: Find, pack: Pack) -> None:
    base = pack({"0.jpg": b"x"}, form=tarfile.USTAR_FORMAT)[:1024]

    def header(kind: bytes, size: int, name: str = "x.jpg") -> bytes:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, size
        return info.tobuf(tarfile.GNU_FORMAT)

    tricks = {
        "pax-bomb": header(tarfile.XHDTYPE, 8 * 1024**3),
        "name-bomb": header(tarfile.GNUTYPE_LONGNAME, 8 * 1024**3),
        "negative": header(tarfile.REGTYPE, -1024),
        "negative-name": header(tarfile.GNUTYPE_LONGNAME, -512),
        "endless-headers": header(tarfile.XHDTYPE, 0) * 100,
        "pax-zero": header(tarfile.XHDTYPE, 512) + b"0 path=x\n".ljust(512, b"\0"),
        "pax-digits": header(tarfile.XHDTYPE, 512) + b"9" * 512,
        "pax-size": header(tarfile.XHDTYPE, 512) + b"14 size=-1024\n".ljust(512, b"\0") + header(tarfile.REGTYPE, 1),
        "beyond": header(tarfile.REGTYPE, 2**50),
    }
    for name, tail in tricks.items():
        (tmp_path / f"{name}.tar").write_bytes(base + tail)
        items = find(f"{name}.tar")
        assert items[0].member == "0.jpg", name
        assert items[-1].code == "damaged_archive", name


def test_bombs_are_refused(tmp_path: Path, find: Find, monkeypatch: pytest.MonkeyPatch, pack: Pack) -> None:
    monkeypatch.setattr(archives, "FREE_EXPANSION", 1024 * 1024)
    with zipfile.ZipFile(tmp_path / "ratio.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(60):
            archive.writestr(f"{n}.bmp", bytes(90_000))
    (tmp_path / "ratio.tar.gz").write_bytes(gzip.compress(pack({f"{n}.bmp": bytes(90_000) for n in range(60)})))
    for name in ("ratio.zip", "ratio.tar.gz"):
        last = find(name)[-1]
        assert last.code == "damaged_archive"
        assert "as in a bomb" in str(last.message)
    # Two entries of the directory for one member, as in the bombs without nesting.
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("1.bmp", bytes(2000))
    data = stream.getvalue()
    at = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry = data[at:end]
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, 2 * len(entry), at, 0)
    (tmp_path / "overlap.zip").write_bytes(data[:at] + entry * 2 + tail)
    (only,) = find("overlap.zip")
    assert "overlaps another member" in str(only.message)
    monkeypatch.setattr(archives, "MAX_ZIP_DIRECTORY", 1000)
    (only,) = find("ratio.zip")
    assert "its directory has" in str(only.message)


def test_members_that_lie_or_are_locked_are_rows(tmp_path: Path, find: Find, read: Read) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("crc.jpg", "lock.jpg", "size.jpg", "fine.jpg"):
            archive.writestr(name, b"0123456789" * 50)
        archive.writestr("large.jpg", bytes(100_001))
    data = bytearray((tmp_path / "s.zip").read_bytes())
    for index, patch in ((0, (16, b"\0\0\0\0")), (1, (8, b"\1\0")), (2, (24, struct.pack("<I", 400)))):
        at = -1
        for _ in range(index + 1):
            at = data.index(b"PK\x01\x02", at + 1)
        data[at + patch[0] : at + patch[0] + len(patch[1])] = patch[1]
    (tmp_path / "s.zip").write_bytes(data)
    found = [read(item) for item in find("s.zip")]
    assert found == ["damaged_archive"] * 3 + [b"0123456789" * 50, "too_many_bytes"]
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    assert [item.code for item in find("cut.zip")] == ["damaged_archive"]
