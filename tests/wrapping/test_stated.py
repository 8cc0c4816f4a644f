"""What flags, files and metadata say of preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from oodguard.core.errors import InputError
from oodguard.core.preprocessing import Preprocessing
from oodguard.wrapping.conventions import conventions
from oodguard.wrapping.stated import PreprocessingOptions, stated

HALF, IMAGENET = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def read(path: Path, content: object, *, size: Any = (None, None), **flags: Any) -> Any:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return stated(PreprocessingOptions(preprocessing=path, **flags), metadata={}, size=size)


def made(path: Path, content: object, *, size: Any = (None, None), **flags: Any) -> Preprocessing:
    """A preprocessing that leaves nothing open."""
    found = conventions(read(path, content, size=size, **flags), size=size, dtype="float32").decided
    assert found is not None
    return found


# What transformers 5.24.0 does with each file was compared with these, pixel by pixel.
HUGGING_FACE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}, "resample": 2,
         "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
         "image_mean": HALF, "image_std": HALF},
        {"fit": "squash", "resize": 224, "crop": 224, "interpolation": "bilinear", "scale": 255.0, "mean": HALF,
         "std": HALF, "channels": "rgb", "width": None},
    ),
    ({"feature_extractor_type": "ViTFeatureExtractor", "size": 384}, {"fit": "squash", "resize": 384, "crop": 384}),
    ({"image_processor_type": "DeiTImageProcessorFast"}, {"fit": "squash", "resize": 256, "crop": 224, "mean": HALF}),
    (
        {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 448}, "crop_size": 448},
        {"fit": "crop", "resize": 448, "crop": 448, "interpolation": "bicubic"},
    ),
    (
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875},
        {"fit": "crop", "resize": 256, "crop": 224},
    ),
    # 224 / 0.9 is cut off, as Hugging Face cuts it off.
    ({"image_processor_type": "ConvNextImageProcessor", "size": 224, "crop_pct": 0.9}, {"resize": 248, "crop": 224}),
    (
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "crop_pct": 0.875},
        {"fit": "squash", "resize": 384, "crop": 384},
    ),
    (
        {"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 260, "width": 260}, "resample": 0,
         "image_mean": IMAGENET, "image_std": (0.5, 0.25, 0.125), "include_top": True},
        {"fit": "squash", "crop": 260, "interpolation": "nearest", "mean": IMAGENET, "std": (0.25, 0.0625, 0.015625)},
    ),
    (
        {"image_processor_type": "EfficientNetImageProcessor", "size": 224, "rescale_factor": 1 / 127.5,
         "rescale_offset": True, "do_normalize": False, "include_top": False},
        {"scale": 127.5, "mean": (1.0, 1.0, 1.0), "std": (1.0, 1.0, 1.0)},
    ),
    (
        {"image_processor_type": "LevitFeatureExtractor", "size": {"shortest_edge": 224}},
        {"fit": "crop", "resize": 256, "crop": 224, "mean": IMAGENET},
    ),
    (
        {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 288}, "crop_size": 256},
        {"resize": 288, "crop": 256, "channels": "bgr", "scale": 255.0, "mean": (0, 0, 0), "std": (1, 1, 1)},
    ),
    ({"image_processor_type": "PerceiverImageProcessor"}, {"fit": "crop", "resize": 256, "crop": 224}),
    ({"image_processor_type": "PoolFormerImageProcessor"}, {"fit": "crop", "resize": 248, "crop": 224}),
    (
        {"image_processor_type": "ViTImageProcessor", "size": [192, 256], "do_rescale": False, "do_normalize": False},
        {"fit": "squash", "resize": 192, "crop": 192, "width": 256, "scale": 1.0, "mean": (0, 0, 0)},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("said", "expected"), HUGGING_FACE)
def test_hugging_faces_file_is_followed(said: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    found = made(tmp_path / "preprocessor_config.json", said).model_dump()
    assert {name: found[name] for name in expected} == expected


def test_what_is_not_followed_is_said(tmp_path: Path) -> None:
    said = {"image_processor_type": "NewImageProcessor", "size": 224, "do_pad": True, "do_convert_rgb": True, "x": None}
    notes = read(tmp_path / "p.json", said).notes
    assert notes == (
        "p.json is for the processor New, read as ViT's: compare the accuracy",
        "p.json also says do_pad, which oodguard does not follow",
    )
    assert read(tmp_path / "p.json", {**HUGGING_FACE[0][0], "do_pad": False}).notes == ()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"do_resize": False, "image_mean": HALF}, "resizes no image"),
        (
            {"image_mean": HALF, "size": {"longest_edge": 224}},
            "keeps the size longest_edge, which gives images",
        ),
        ({"image_mean": HALF, "size": "large"}, "holds values that an image processor cannot have"),
        ({"image_mean": [1, 2], "size": 224}, "holds values that an image processor cannot have"),
        (
            {"image_processor_type": "BitImageProcessor", "crop_size": {"height": 224, "width": 192}},
            "cuts 224 x 192 pixels out of a picture whose short side has 224",
        ),
        (
            {"image_mean": HALF, "size": [256, 320], "do_center_crop": True, "crop_size": 224},
            "cuts 224 x 224 out of 256 x 320 pixels, which are of another shape",
        ),
    ],
)
def test_processors_that_cannot_be_followed_are_refused(said: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path / "p.json", said)


TIMM = {
    "architecture": "resnet50",
    "pretrained_cfg": {
        "input_size": [3, 288, 288], "crop_pct": 0.95, "crop_mode": "border", "interpolation": "bilinear",
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2],
    },
}  # fmt: skip


@pytest.mark.parametrize("content", [TIMM, TIMM["pretrained_cfg"]])
def test_timms_file_is_followed(content: object, tmp_path: Path) -> None:
    found = made(tmp_path / "config.json", content)
    assert (found.resize, found.crop, found.fit, found.fill) == (303, 288, "pad", (128, 102, 76))
    # The same share of the picture at the size that the classifier was exported with.
    smaller = read(tmp_path / "config.json", content, size=(224, 224))
    assert (smaller.fields["resize"], smaller.fields["crop"]) == (235, 224)
    assert "its crop_pct is kept at the classifier's 224 x 224" in smaller.notes[0]


def test_a_folder_gives_the_file_that_says_something(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has neither preprocessor_config.json nor config.json"):
        stated(PreprocessingOptions(preprocessing=tmp_path), metadata={})
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    assert stated(PreprocessingOptions(preprocessing=tmp_path), metadata={}).fields["crop"] == 288
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HUGGING_FACE[0][0]))
    assert stated(PreprocessingOptions(preprocessing=tmp_path), metadata={}).fields["crop"] == 224


# The example of the documents.
DOCUMENT = Path(__file__).parents[2] / "docs" / "DATA.md"
TOML = DOCUMENT.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]


@pytest.mark.parametrize("text", [TOML, TOML.replace("[preprocessing]", "")])
def test_a_toml_has_the_names_of_the_manifest(text: str, tmp_path: Path) -> None:
    found = made(tmp_path / "p.toml", text)
    assert (found.fit, found.interpolation, found.channels, found.scale) == ("pad", "bilinear", "bgr", 1.0)
    assert (found.mean, found.fill) == ((103.939, 116.779, 123.68), (114, 114, 114))
    rows = DOCUMENT.read_text(encoding="utf-8").split("## What enters the network")[1].split("```toml")[0]
    assert all(f"`{name}`" in rows for name in Preprocessing.model_fields)
    # A manifest says as much.
    again = made(tmp_path / "manifest.json", {"preprocessing": found.model_dump(mode="json", exclude_none=True)})
    assert again == found


def test_flags_go_before_the_file_and_the_file_before_the_metadata(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("scale = 1\nchannels = 'bgr'\n")
    options = PreprocessingOptions(preprocessing=tmp_path / "p.toml", channels="rgb")
    metadata = {"oodguard.preprocessing": json.dumps({"scale": 127.5, "fit": "squash", "mean": [1, 1, 1]})}
    found = stated(options, metadata=metadata)
    assert found.fields == {"channels": "rgb", "scale": 1.0, "fit": "squash", "mean": (1.0, 1.0, 1.0)}
    assert found.sources == ("the options", "p.toml", "the file's oodguard.preprocessing")
    assert stated(PreprocessingOptions(), metadata={}).fields == {}


def test_ultralytics_classifiers_say_it_in_their_metadata() -> None:
    metadata = {"author": "Ultralytics", "task": "classify", "imgsz": "[224, 224]", "names": "{0: 'a', 1: 'b'}"}
    found = stated(PreprocessingOptions(), metadata=metadata)
    how = conventions(found, size=(224, 224), dtype="float32").decided
    assert how is not None
    assert (how.fit, how.resize, how.crop, how.interpolation, how.scale) == ("crop", 224, 224, "bilinear", 255.0)
    assert (how.mean, how.std, how.channels) == ((0, 0, 0), (1, 1, 1), "rgb")
    assert stated(PreprocessingOptions(), metadata={**metadata, "task": "detect"}).fields == {}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "resize =", "is not valid TOML or JSON"),
        ("a.json", "{", "is not valid TOML or JSON"),
        ("a.json", "[1]", "holds no table of names"),
        ("a.json", '{"model_type": "vit"}', "says nothing of preprocessing that oodguard knows"),
        ("a.toml", "resise = 224", "is not a preprocessing: resise: Extra inputs"),
        ("a.toml", "mean = [1, 2]", "is not a preprocessing: mean"),
        ("a.toml", "", "says nothing of preprocessing; its names are"),
        ("a.toml", "crop = 256", "takes 224 x 224 pixels, and a.toml give 256 x 256"),
    ],
)
def test_a_file_that_says_nothing_usable_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path / name, text, size=(224, 224))


def test_absent_files_and_foolish_flags() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        stated(PreprocessingOptions(preprocessing=Path("/absent/p.toml")), metadata={})
    for wrong in ({"scale": 0}, {"fit": "stretch"}, {"crop": 4}, {"mean": (1, 2)}):
        with pytest.raises(ValidationError):
            PreprocessingOptions.model_validate(wrong)
    with pytest.raises(InputError, match=r"metadata oodguard\.preprocessing is not valid JSON"):
        stated(PreprocessingOptions(), metadata={"oodguard.preprocessing": "{"})
