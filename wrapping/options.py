"""`WrapOptions`: every choice that putting a guard around a classifier depends on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from oodguard.training.options import FolderOptions, TrainOptions

# Options of training that mean the same here.
SHARED = (
    "seed",
    "views",
    "members",
    "hidden",
    "anchors",
    "epochs",
    "batch_size",
    "lr",
    "neighbours",
    "bank_size",
    "calibration_fraction",
    "test_fraction",
    "confidence",
    "outliers",
    "on_unreadable",
    "on_duplicate",
    *FolderOptions.model_fields,
    "cache",
    "overwrite",
    "threads",
)


def _of_training(name: str) -> Any:
    """A field of `TrainOptions`: its default, limits and description."""
    return copy.copy(TrainOptions.model_fields[name])


class WrapOptions(FolderOptions):
    """What `oodguard wrap` takes, but for the classifier, its preprocessing and what training takes as well.

    ```python
    WrapOptions(data=Path("photos"), unseen=Path("new-photos"))
    ```
    """

    data: Path = Field(
        description="Photos of the classifier's classes: a folder with one sub-folder per class, or with such folders "
        "in train/, val/ and test/; a zip file of either; a table, Parquet files or shards, as train takes them; with "
        "--labels model any folder of images."
    )
    unseen: Path | None = Field(
        None,
        description="Photos that the classifier was not trained on, laid out like --data: they set the thresholds. "
        "Default: val/ of --data.",
    )
    all_unseen: bool = Field(
        False, description="None of the photos of --data trained the classifier, so any of them may set thresholds."
    )
    labels: Literal["photos", "model"] = Field(
        "photos", description="Where labels come from: the photos' folders, or the classifier's own answers."
    )
    classes: Path | None = Field(
        None,
        description="The classifier's class names in its order: a text file with one a line, a JSON list, or a Hugging "
        "Face id2label; default: the file's metadata, or the folders' names where their number fits.",
    )
    classes_map: Path | None = Field(
        None, description="A CSV or TOML file that says which class each folder is of; '-' leaves a folder out."
    )
    feature: str | None = Field(None, description="The tensor that enters the last layer; default: found.")
    logits: str | None = Field(None, description="The tensor before softmax or sigmoid; default: found.")
    constant: tuple[str, ...] = Field(
        (), description="The value of a further input of the classifier, NAME=0.485,0.456,0.406; repeat for more."
    )
    backbone: str | None = Field(
        None, description="The timm model that a checkpoint (.pth, .pt, .safetensors) is of; its head is kept."
    )
    seed: int = _of_training("seed")
    views: int = _of_training("views")
    members: int = _of_training("members")
    hidden: int = Field(
        64, ge=8, le=4096, description="Hidden width of the ensemble's members and of the anchored head."
    )
    anchors: int = _of_training("anchors")
    epochs: int = _of_training("epochs")
    batch_size: int = _of_training("batch_size")
    lr: float = _of_training("lr")
    neighbours: int = _of_training("neighbours")
    bank_size: int = _of_training("bank_size")
    calibration_fraction: float = _of_training("calibration_fraction")
    test_fraction: float = _of_training("test_fraction")
    confidence: float | None = _of_training("confidence")
    outliers: Path | None = _of_training("outliers")
    on_unreadable: Literal["skip", "refuse"] = _of_training("on_unreadable")
    on_duplicate: Literal["report", "drop", "refuse"] = _of_training("on_duplicate")
    cache: Path = _of_training("cache")
    overwrite: bool = _of_training("overwrite")
    threads: int = _of_training("threads")

    @model_validator(mode="after")
    def _calibrates(self) -> Self:
        if self.unseen is not None and self.all_unseen:
            raise ValueError("--all-unseen says that --data is new to the classifier; leave out --unseen or it")
        return self

    def training(self, name: str, *, seen: bool) -> TrainOptions:
        """The options of training on its feature, which is not tuned.

        seen: whether the classifier was trained on the training photos, so that heads which leave some out say nothing
        about new ones.
        """
        shared: dict[str, Any] = {field: getattr(self, field) for field in SHARED}
        given: dict[str, Any] = {"data": self.data, "backbone": f"onnx:{name}", "fine_tune": False, **shared}
        if seen:
            given["out_of_fold"] = 0
        return TrainOptions(**given, check_folds=0)
