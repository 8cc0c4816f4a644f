"""Photos in Parquet files, with their labels: as Hugging Face's data sets are, or with a column of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from oodguard.core.columns import LABELS, PATH_OPTION, SPLITS, Columns, chosen, required
from oodguard.core.image_tables import ImageTable
from oodguard.core.photo_folders import Part
from oodguard.core.text import visible
from oodguard.training.photos.labels import LabelReader
from oodguard.training.photos.packed import PackedPhoto
from oodguard.training.photos.tables import class_labels, required_part


def photos_of_images(table: Path, columns: Columns, part: Part, labels: LabelReader) -> Iterator[PackedPhoto]:
    """The photos of a Parquet file in order; part: theirs, where no column says it.

    Class numbers become the names that Hugging Face's description in the file gives them, unless somebody gave others.
    A row without an image has no bytes. Raises `InputError`, which names the row, for no label and for several.
    """
    shown = visible(table.name)
    with ImageTable(table, column=columns.path, option=PATH_OPTION) as opened:
        others = [name for name in opened.columns if name != opened.column]
    label = required(columns.label, LABELS, others, source=shown, what="label")
    split = chosen(columns.split, SPLITS, others)
    if columns.split is not None and split is None:
        required(columns.split, SPLITS, others, source=shown, what="split")
    wanted = (label,) if split is None else (label, split)
    with ImageTable(table, column=columns.path, others=wanted, option=PATH_OPTION) as opened:
        names = class_labels(opened.features).get(label)
        reader = labels if labels.strict or not names else LabelReader(names)
        for row in opened:
            where = f"row {row.number} of {shown}"
            yield PackedPhoto(
                shard=table.name,
                where=where,
                name=row.name or f"row-{row.number}",
                data=row.data or b"",
                label=reader.read(row.others[label], where=where),
                part=part if split is None else required_part(row.others[split], where),
            )
    reader.require_single()
