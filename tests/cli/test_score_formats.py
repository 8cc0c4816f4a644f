"""`oodguard score`: which formats it reads, and which Parquet files are no source."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.cli.test_score import FLAGS, call, rows


def test_a_result_is_no_source_and_a_column_must_be_one_of_images(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    data = tmp_path / "r.parquet"
    pq.write_table(pa.table({"path": ["a.jpg"], "is_ood": [True]}), data)
    code, _, said = call(capsys, "score", bundle, data, "--out", tmp_path / "out.csv")
    assert code == 2
    assert "has no column of images (bytes, or a struct of bytes and path); it has path (string)" in said
    code, _, said = call(capsys, "score", bundle, data, "--out", tmp_path / "out.csv", "--column", "path")
    assert code == 2
    assert "column path holds string, and no images" in said


def test_a_folder_of_parquet_files_is_told_how_to_name_them(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "set").mkdir()
    for name in ("train.parquet", "test.parquet"):
        pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "set" / name)
    code, _, said = call(capsys, "score", bundle, tmp_path / "set", "--out", tmp_path / "out.csv")
    assert code == 2
    assert "other files are passed over (archives in a folder or archive 2); give archives and Parquet" in said


def test_a_format_that_is_not_read_is_a_row_and_an_option_reads_it(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, kind in (("a", "JPEG2000"), ("b.avif", "AVIF"), ("c.png", "PNG")):
        Image.new("RGB", (40, 40), (200, 90, 30)).save(photos / name, kind)
    out = tmp_path / "r.parquet"
    code, said, _ = call(capsys, "score", bundle, photos, "--out", out, *FLAGS)
    assert code == 1
    assert "1 could not be used: unsupported_type 1" in said
    assert "unsupported_type: JPEG2000 images are not read here; --formats default,jpeg2000 reads them (1)" in said
    assert rows(out)[0]["error_detail"] == ("JPEG2000 images are not read here; --formats default,jpeg2000 reads them")
    code, _, _ = call(capsys, "score", bundle, photos, "--out", out, "--overwrite", "--formats", "default,jpeg2000")
    assert code == 0
    code, _, said = call(capsys, "score", bundle, photos, "--out", out, "--overwrite", "--formats", "svg")
    assert code == 2
    assert "'svg' is no image format; choose of default, jpeg, png" in said
