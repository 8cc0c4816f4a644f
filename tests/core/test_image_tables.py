"""Images in Parquet files: which column, which rows, and how much memory."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from oodguard.core.errors import ImageError, InputError
from oodguard.core.image_tables import ImageTable, is_parquet
from oodguard.core.preprocessing import open_image

SIZES = [(3 + number, 2) for number in range(7)]
HUGGING_FACE = {
    "info": {
        "features": {
            "image": {"_type": "Image"},
            "mask": {"_type": "Image"},
            "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        }
    }
}


def png(size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (9, 8, 7)).save(stream, "PNG")
    return stream.getvalue()


def written(path: Path, columns: dict[str, Any], *, metadata: dict[str, Any] | None = None, **how: Any) -> Path:
    table = pa.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pq.write_table(table, path, **how)
    return path


@pytest.mark.parametrize("group", [1, 3, 100])
def test_a_struct_of_bytes_and_path_gives_every_row_its_image(tmp_path: Path, group: int) -> None:
    images = [{"bytes": png(size), "path": f"{number}.png"} for number, size in enumerate(SIZES)]
    path = written(tmp_path / "a.parquet", {"image": images, "label": list("abcdefg")}, row_group_size=group)
    assert is_parquet(path.read_bytes()[:8])
    with ImageTable(path, others=("label",)) as table:
        rows = list(table)
        assert (len(table), table.column, table.columns) == (7, "image", ("image", "label"))
        assert [row.number for row in rows] == list(range(7))
        assert [open_image(row.image).size for row in rows] == SIZES
        assert [row.name for row in rows] == list(table.names()) == [f"{number}.png" for number in range(7)]
        assert [row.others["label"] for row in rows] == list("abcdefg")
        for start in range(8):
            assert [row.number for row in table.rows(start)] == list(range(start, 7))
            assert [row.image for row in table.rows(start)] == [one["bytes"] for one in images[start:]]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_plain_column_of_bytes_is_read(tmp_path: Path, kind: Any) -> None:
    images = [png(size) for size in SIZES]
    path = written(tmp_path / "a.parquet", {"name": list("abcdefg"), "dots.in it": pa.array(images, kind)})
    with ImageTable(path) as table:
        assert table.column == "dots.in it"
        assert [row.image for row in table] == images
        assert list(table.names()) == 7 * [None]


def test_missing_bytes_are_named_by_row(tmp_path: Path) -> None:
    images = [{"bytes": png((3, 2)), "path": "a"}, {"bytes": None, "path": "b.png"}, None, {"bytes": b"", "path": None}]
    with ImageTable(written(tmp_path / "a.parquet", {"image": images})) as table:
        rows = list(table)
    assert rows[0].image == png((3, 2))
    for row, said in zip(
        rows[1:],
        ("row 1 has no bytes .* the path b.png, which is not opened", "row 2 has no bytes", "row 3 .* 0 bytes"),
        strict=True,
    ):
        with pytest.raises(ImageError, match=said) as caught:
            _ = row.image
        assert caught.value.code == "empty"


def test_the_column_is_declared_or_named_or_asked_for(tmp_path: Path) -> None:
    cells = {"image": [png((3, 2))], "mask": [png((4, 2))], "label": [1]}
    plain = written(tmp_path / "plain.parquet", cells)
    with pytest.raises(InputError, match=r"several columns of images \(image, mask\); name one of them with --column"):
        ImageTable(plain)
    with ImageTable(plain, column="mask") as table:
        assert open_image(next(iter(table)).image).size == (4, 2)
    both = written(tmp_path / "both.parquet", cells, metadata=HUGGING_FACE)
    with pytest.raises(InputError, match=r"\(image, mask\)"):
        ImageTable(both)
    features = {name: about for name, about in HUGGING_FACE["info"]["features"].items() if name != "mask"}
    one = written(tmp_path / "one.parquet", cells, metadata={"info": {"features": features}})
    with ImageTable(one) as table:
        assert table.column == "image"
        assert table.features["label"]["names"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("columns", "column", "said"),
    [
        ({"images": [[png((3, 2))]]}, None, "column images holds lists of images; .* one image in each row"),
        ({"images": [[{"bytes": b"x", "path": "p"}]]}, None, "column images holds lists of images"),
        ({"path": ["a.png"], "label": [1]}, None, r"no column of images .* it has path \(string\), label \(int64\)"),
        ({"path": ["a.png"]}, "path", "column path holds string, and no images"),
        ({"image": [b"x"]}, "picture", "no column picture; it has image"),
    ],
)
def test_what_is_no_column_of_images_is_said(tmp_path: Path, columns: Any, column: str | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ImageTable(written(tmp_path / "a.parquet", columns), column=column)


def test_other_columns_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column label; it has image"):
        ImageTable(written(tmp_path / "a.parquet", {"image": [b"x"]}), others=("label",))


@pytest.mark.parametrize("cut", [0, 3, 40, -1])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "a.parquet", {"image": [png((3, 2))]})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        ImageTable(path)


def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    """64 MiB in one row group, of which no more than two batches and a page are held."""
    random = np.random.default_rng(0)
    images = [random.bytes(256 * 1024) for _ in range(256)]
    path = written(tmp_path / "a.parquet", {"image": images}, write_batch_size=1)
    before = pa.default_memory_pool()
    pool = pa.system_memory_pool()
    pa.set_memory_pool(pool)
    try:
        with ImageTable(path) as table:
            count = sum(row.image == images[row.number] for row in table)
    finally:
        pa.set_memory_pool(before)
    assert count == 256
    assert 8 * 1024**2 < pool.max_memory() < 28 * 1024**2


def test_a_column_that_unpacks_like_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.parquet", {"image": [bytes(1024**2)]}, compression="zstd", use_dictionary=False)
    monkeypatch.setattr("oodguard.core.image_tables.FREE_EXPANSION", 1024)
    with pytest.raises(InputError, match=r"would unpack to 1,048,6\d\d in row group 0"):
        ImageTable(path)
