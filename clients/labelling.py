"""Sampled flagged images as the files that annotation tools read: Label Studio's tasks, and COCO."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from oodguard.clients.samples import Sampled, Unreadable, read_samples
from oodguard.core.errors import ImageError
from oodguard.core.images import OWN_FILES
from oodguard.core.preprocessing import open_image
from oodguard.pages.text import plain

# How Label Studio names a file below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.
LOCAL_FILES = "/data/local-files/?d="
# Addresses whose paths Label Studio takes as they stand; in all others they are percent-encoded.
STORES = ("s3://", "gs://", "azure-blob://")
VERDICTS = ("in distribution", "out of distribution")


@dataclass(frozen=True)
class Sized:
    """A sample, the path of its image below the folder, and its size in pixels as it is shown, upright."""

    sampled: Sampled
    name: str
    width: int
    height: int

    @property
    def facts(self) -> dict[str, str | float]:
        """What the guard said, for people who sort and filter."""
        sample = self.sampled.sample
        return {
            "label": plain(sample.label),
            "probability": sample.probability,
            "ood_score": sample.ood_score,
            "threshold": sample.threshold,
            "percentile": sample.percentile,
            "model": plain(f"{sample.model.name} {sample.model.version}"),
            "time": sample.time.isoformat(),
        }


@dataclass(frozen=True)
class Export:
    """The content of each file by its suffix, the number of images in them and left out by the limit, and bad files."""

    files: Mapping[str, str]
    images: int
    left: int
    unreadable: tuple[Unreadable, ...]


class Sizes:
    """The images of a folder of samples that can be decoded, highest OOD score first, up to a limit."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        """Raises `InputError` as `read_samples` does."""
        samples = read_samples(folder)
        self.folder = folder
        self.unreadable = list(samples.unreadable)
        self.found: list[Sized] = []
        looked = 0
        for sampled in samples.good:
            if len(self.found) == limit:
                break
            looked += 1
            self._look(sampled)
        self.unreadable.sort(key=lambda found: found.file)
        self.left = len(samples.good) - looked

    def _look(self, sampled: Sampled) -> None:
        name = sampled.image.relative_to(self.folder).as_posix()
        try:
            name.encode()
            width, height = open_image(sampled.image.read_bytes(), OWN_FILES).size
        except UnicodeEncodeError:
            self.unreadable.append(Unreadable(name, "its name is no Unicode; rename it"))
        except (ImageError, OSError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            self.unreadable.append(Unreadable(name, why))
        else:
            self.found.append(Sized(sampled, name, width, height))

    def export(self, **files: str) -> Export:
        """These files."""
        return Export(MappingProxyType(files), len(self.found), self.left, tuple(self.unreadable))


def label_studio(folder: Path, *, limit: int | None = None, prefix: str | None = None) -> Export:
    """Tasks to import into Label Studio (`json`), and the labelling interface that they fit (`xml`).

    ```python
    export = label_studio(Path("flagged"), prefix="s3://bucket/flagged/")
    ```

    Each task holds the guard's label and verdict as a prediction. `prefix` is what stands before the path of an image;
    by default Label Studio serves the folder from the disk. Raises `InputError` as `read_samples` does.
    """
    sizes = Sizes(folder, limit)
    before = f"{LOCAL_FILES}{quote(folder.resolve().name)}/" if prefix is None else prefix
    if not before.endswith(("/", "=")):
        before += "/"
    tasks: list[dict[str, Any]] = [
        {
            "data": {"image": before + (one.name if before.startswith(STORES) else quote(one.name)), **one.facts},
            "predictions": [
                {
                    "model_version": one.facts["model"],
                    "score": one.sampled.sample.probability,
                    "result": [_choice("label", one.facts["label"]), _choice("verdict", VERDICTS[1])],
                }
            ],
        }
        for one in sizes.found
    ]
    labels = sorted({plain(one.sampled.sample.label) for one in sizes.found})
    interface = ["<View>", '  <Image name="image" value="$image"/>', *_choices("label", labels),
                 *_choices("verdict", VERDICTS), "</View>"]  # fmt: skip
    return sizes.export(json=_text(tasks), xml="\n".join(interface) + "\n")


def _choice(control: str, value: str | float) -> dict[str, Any]:
    return {"from_name": control, "to_name": "image", "type": "choices", "value": {"choices": [value]}}


def _choices(control: str, values: tuple[str, ...] | list[str]) -> Iterator[str]:
    yield f'  <Choices name="{control}" toName="image" choice="single">'
    for value in values:
        yield f"    <Choice value={quoteattr(value)}/>"
    yield "  </Choices>"


def coco(folder: Path, *, limit: int | None = None) -> Export:
    """One COCO file (`json`): each image with one annotation, a box around all of it, of the label that it got.

    Names of files are relative to the folder. What else the guard said is in the `attributes` of the annotation. Raises
    `InputError` as `read_samples` does.
    """
    sizes = Sizes(folder, limit)
    labels = sorted({plain(one.sampled.sample.label) for one in sizes.found})
    numbers = {label: number for number, label in enumerate(labels, start=1)}
    images, annotations = [], []
    for number, one in enumerate(sizes.found, start=1):
        width, height = one.width, one.height
        images.append({"id": number, "file_name": one.name, "width": width, "height": height})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": numbers[str(one.facts["label"])],
                "bbox": [0, 0, width, height],
                "area": width * height,
                "segmentation": [[0, 0, width, 0, width, height, 0, height]],
                "iscrowd": 0,
                "attributes": one.facts,
            }
        )
    document = {
        "info": {"description": "images that oodguard flagged", "version": "1"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": label, "supercategory": ""} for label, number in numbers.items()],
    }
    return sizes.export(json=_text(document))


def _text(document: Any) -> str:
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
