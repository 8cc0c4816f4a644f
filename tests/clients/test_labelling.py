"""What annotation tools get: held against the formats as Label Studio and pycocotools read them."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest
from PIL import Image

from oodguard.clients.labelling import Export, coco, label_studio
from oodguard.core.errors import InputError
from tests.clients.test_review import damage, put, sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three samples; one is below another folder, and one lies on its side."""
    root = tmp_path / "flagged here"
    put(root, "low", sample(9.0))
    put(root / "2026 03", "high & low", sample(50.25, 'kiwi "gold" <b>'), suffix=".PNG")
    put(root, "middle", sample(20.0))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(root / "middle.jpg", exif=exif)
    return root


def test_label_studio_gets_a_task_with_both_predictions_for_each_image(folder: Path) -> None:
    export = label_studio(folder)
    tasks = json.loads(export.files["json"])
    assert (export.images, export.left, export.unreadable) == (3, 0, ())
    # Label Studio decodes the parameter and looks below its document root.
    found = [parse_qs(urlsplit(task["data"]["image"]).query, strict_parsing=True)["d"] for task in tasks]
    assert found == [["flagged here/2026 03/high & low.PNG"], ["flagged here/middle.jpg"], ["flagged here/low.jpg"]]
    assert urlsplit(tasks[0]["data"]["image"]).path == "/data/local-files/"
    first = tasks[0]
    assert first["data"] == {
        "image": "/data/local-files/?d=flagged%20here/2026%2003/high%20%26%20low.PNG",
        "label": 'kiwi "gold" <b>',
        "probability": 0.5,
        "ood_score": 50.25,
        "threshold": 8.0,
        "percentile": 99.5,
        "model": "digits 1",
        "time": "2026-03-04T05:06:07+00:00",
    }
    assert first["predictions"] == [
        {
            "model_version": "digits 1",
            "score": 0.5,
            "result": [
                {"from_name": "label", "to_name": "image", "type": "choices",
                 "value": {"choices": ['kiwi "gold" <b>']}},
                {"from_name": "verdict", "to_name": "image", "type": "choices",
                 "value": {"choices": ["out of distribution"]}},
            ],
        }
    ]  # fmt: skip


def test_the_interface_has_every_choice_that_a_prediction_makes(folder: Path) -> None:
    put(folder, "odd", sample(8.5, "a\x00b\x1b[31m"))
    export = label_studio(folder)
    view = ElementTree.fromstring(export.files["xml"])
    choices = {
        block.attrib["name"]: [choice.attrib["value"] for choice in block.iter("Choice")]
        for block in view.iter("Choices")
    }
    assert choices["label"] == ["a\ufffdb\ufffd[31m", 'kiwi "gold" <b>', "plum"]
    assert {block.attrib["toName"] for block in view.iter("Choices")} == {view.find("Image").attrib["name"]}
    for task in json.loads(export.files["json"]):
        for result in task["predictions"][0]["result"]:
            assert result["value"]["choices"][0] in choices[result["from_name"]]


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("s3://bucket/flagged/", "s3://bucket/flagged/2026 03/high & low.PNG"),
        ("s3://bucket/flagged", "s3://bucket/flagged/2026 03/high & low.PNG"),
        ("/data/local-files/?d=", "/data/local-files/?d=2026%2003/high%20%26%20low.PNG"),
        ("https://images.example.com/", "https://images.example.com/2026%2003/high%20%26%20low.PNG"),
    ],
)
def test_images_may_lie_elsewhere(folder: Path, prefix: str, path: str) -> None:
    assert json.loads(label_studio(folder, prefix=prefix).files["json"])[0]["data"]["image"] == path


def test_coco_has_a_box_around_each_image_as_it_is_shown(folder: Path) -> None:
    document = json.loads(coco(folder).files["json"])
    assert [(one["file_name"], one["width"], one["height"]) for one in document["images"]] == [
        ("2026 03/high & low.PNG", 60, 40),
        ("middle.jpg", 40, 60),
        ("low.jpg", 60, 40),
    ]
    assert all((folder / one["file_name"]).is_file() for one in document["images"])
    assert [(one["id"], one["name"]) for one in document["categories"]] == [(1, 'kiwi "gold" <b>'), (2, "plum")]
    assert [(one["image_id"], one["category_id"]) for one in document["annotations"]] == [(1, 1), (2, 2), (3, 2)]
    middle = document["annotations"][1]
    assert (middle["bbox"], middle["area"], middle["iscrowd"]) == ([0, 0, 40, 60], 2400, 0)
    assert middle["segmentation"] == [[0, 0, 40, 0, 40, 60, 0, 60]]
    assert middle["attributes"]["ood_score"] == 20.0


@pytest.mark.parametrize("export", [label_studio, coco])
def test_bad_files_are_left_out_and_a_limit_keeps_the_highest(tmp_path: Path, export: type[Export]) -> None:
    expected = damage(tmp_path)
    put(tmp_path, "higher", sample(10.0))
    put(tmp_path, "highest", sample(11.0))
    (tmp_path / "highest.jpg").write_bytes(b"gone")
    found = export(tmp_path)
    assert (found.images, found.left) == (2, 0)
    assert {bad.file for bad in found.unreadable} == {*expected, "highest.jpg"}
    limited = export(tmp_path, limit=1)
    assert (limited.images, limited.left) == (1, 1 + sum(name in expected for name in ("torn.jpg", "text.jpg")))
    assert "higher.jpg" in limited.files["json"]
    assert export(tmp_path).files == found.files


@pytest.mark.parametrize("export", [label_studio, coco])
def test_a_name_that_is_no_unicode_is_left_out(tmp_path: Path, export: type[Export]) -> None:
    put(tmp_path, "good", sample(9.0))
    for suffix in (".jpg", ".json"):
        (tmp_path / f"good{suffix}").rename(tmp_path / f"b\udcffad{suffix}")
    put(tmp_path, "fine", sample(9.0))
    found = export(tmp_path)
    assert found.images == 1
    assert [bad.why for bad in found.unreadable] == ["its name is no Unicode; rename it"]


def test_a_folder_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sampled images"):
        coco(tmp_path)
