"""What the boxes of a HEIF file (AVIF, HEIC) say of its main picture: what its numbers mean (ISO/IEC 23008-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
# Bytes of a sample entry of a video track before the boxes in it.
_SAMPLE_ENTRY = 78


def transfer_of(data: bytes) -> int | None:
    """The code (H.273) of the transfer function of the main picture; None where the boxes do not say.

    Of a file that is a sequence, also that of its tracks: either may be decoded.
    """
    boxes = dict(_boxes(data))
    try:
        found = _of_item(boxes[b"meta"][4:]) if b"meta" in boxes else None
        if found is None and b"moov" in boxes:
            found = _of_track(boxes[b"moov"])
    except (IndexError, KeyError, struct.error):
        return None
    return found


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        head = 8
        if size == 1 and place + 16 <= len(data):
            (size,), head = struct.unpack_from(">Q", data, place + 8), 16
        size = size or len(data) - place
        if size < head:
            return
        yield kind, data[place + head : place + size]
        place += size


def _of_item(meta: bytes) -> int | None:
    boxes = dict(_boxes(meta))
    main = _main(boxes[b"pitm"])
    parts = list(_boxes(boxes[b"iprp"]))
    properties = [content for kind, held in parts if kind == b"ipco" for content in _boxes(held)]
    for kind, held in parts:
        if kind == b"ipma":
            for number in _associated(held, main):
                found = _transfer(*properties[number - 1]) if 0 < number <= len(properties) else None
                if found is not None:
                    return found
    return None


def _main(pitm: bytes) -> int:
    return int(struct.unpack_from(">I" if pitm[0] else ">H", pitm, 4)[0])


def _associated(ipma: bytes, item: int) -> list[int]:
    """The numbers of the properties of an item, from 1."""
    version, wide = ipma[0], ipma[3] & 1
    (count,) = struct.unpack_from(">I", ipma, 4)
    place = 8
    for _ in range(count):
        (found,) = struct.unpack_from(">I" if version else ">H", ipma, place)
        place += 4 if version else 2
        number, place = ipma[place], place + 1
        entries = struct.unpack_from(f">{number}{'H' if wide else 'B'}", ipma, place)
        place += number * (2 if wide else 1)
        if found == item:
            return [entry & (0x7FFF if wide else 0x7F) for entry in entries]
    return []


def _of_track(content: bytes) -> int | None:
    for kind, held in _boxes(content):
        if kind in _CONTAINERS:
            found = _of_track(held)
        elif kind == b"stsd":
            entries = (box for _, entry in _boxes(held[8:]) for box in _boxes(entry[_SAMPLE_ENTRY:]))
            found = next((code for code in (_transfer(*box) for box in entries) if code is not None), None)
        else:
            continue
        if found is not None:
            return found
    return None


def _transfer(kind: bytes, content: bytes) -> int | None:
    if kind != b"colr" or content[:4] != b"nclx":
        return None
    return int(struct.unpack_from(">H", content, 6)[0])
