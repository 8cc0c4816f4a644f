from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from PIL import Image

from oodguard.clients.review import review
from oodguard.clients.samples import read_samples
from oodguard.core.answers import FlaggedSample, ModelRef
from oodguard.core.errors import InputError
from oodguard.core.explanation import Explanation, Neighbour
from oodguard.core.scores import Family, ScoreName
from oodguard.core.thumbnails import Thumbnails
from oodguard.core.verdict import Decision, ScoreVerdict, Verdict
from tests.nearby import Nearby

Parse = Callable[[str], Element]
TIME = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def sample(ood_score: float, label: str = "plum", **changes: Any) -> FlaggedSample:
    score = ScoreVerdict(value=2.0, threshold=1.0, percentile=99.0, is_ood=True)
    verdict = Verdict(
        label=label,
        class_index=0,
        probability=0.5,
        top_k=(),
        is_ood=True,
        ood_score=ood_score,
        threshold=8.0,
        percentile=99.5,
        decision=Decision.STRANGER,
        scores={ScoreName.KNN: score, ScoreName.PDS: score.model_copy(update={"value": 0.5, "is_ood": False})},
    )
    made = FlaggedSample.of(verdict, model=ModelRef(name="digits", version="1"), accept=0.95, time=TIME)
    return made.model_copy(update=changes)


def put(folder: Path, stem: str, sidecar: FlaggedSample | None, suffix: str = ".jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(stem)).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / f"{stem}{suffix}")
    if sidecar:
        (folder / f"{stem}.json").write_text(sidecar.model_dump_json(), encoding="utf-8")


def cards(tree: Element) -> list[str]:
    return ["".join(li.itertext()) for s in tree.iter("section") if s.get("class") == "gallery" for li in s.iter("li")]


def test_a_sidecar_is_what_the_guard_said_and_survives_writing() -> None:
    made = sample(12.5)
    assert FlaggedSample.model_validate_json(made.model_dump_json()) == made
    assert set(json.loads(made.model_dump_json())) == {
        "format", "time", "model", "accept", "label", "probability", "ood_score", "threshold", "percentile", "scores",
        "explanation", "quality",
    }  # fmt: skip


def test_images_are_shown_highest_score_first(tmp_path: Path, parse_page: Parse) -> None:
    put(tmp_path, "low", sample(9.0))
    put(tmp_path / "2026-03-04", "high", sample(50.25, "kiwi"), suffix=".PNG")
    put(tmp_path, "middle", sample(20.0))
    found = review(tmp_path)
    assert (found.shown, found.left, found.unreadable) == (3, 0, ())
    shown = cards(parse_page(found.html))
    assert ["high.PNG" in shown[0], "middle.jpg" in shown[1], "low.jpg" in shown[2]] == [True] * 3
    for text in ("kiwi, 50\N{NO-BREAK SPACE}%", "OOD score 50.25", "threshold 8.00", "percentile 99.5", "digits 1",
                 "2026-03-04 05:06:07 UTC", "1 of 2 scores above their thresholds: knn"):  # fmt: skip
        assert text in shown[0]
    assert review(tmp_path).html == found.html


def damage(folder: Path) -> dict[str, str]:
    """Every kind of bad file, and a word of what is said about it."""
    good = sample(9.0)
    put(folder, "whole", good)
    put(folder, "torn", good)
    torn = folder / "torn.jpg"
    torn.write_bytes(torn.read_bytes()[:300])
    put(folder, "text", good)
    (folder / "text.jpg").write_text("not an image")
    put(folder, "lonely", None)
    (folder / "orphan.json").write_text(good.model_dump_json())
    put(folder, "twice", good)
    put(folder, "twice", None, suffix=".png")
    texts = {
        "cut": good.model_dump_json()[:80],
        "empty": "",
        "list": "[]",
        "deep": "[" * 100_000,
        "infinite": good.model_dump_json().replace('"ood_score":9.0', '"ood_score":Infinity'),
        "extra": json.dumps({**json.loads(good.model_dump_json()), "more": 1}),
        "naive": json.dumps({**json.loads(good.model_dump_json()), "time": "2026-03-04T05:06:07"}),
        "future": json.dumps({**json.loads(good.model_dump_json()), "format": 2}),
        "huge": " " * (1 << 20) + good.model_dump_json(),
    }
    for stem, text in texts.items():
        put(folder, stem, None)
        (folder / f"{stem}.json").write_text(text)
    put(folder, "binary", None)
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00{")
    score = json.loads(good.model_dump_json())
    score["scores"]["knn"]["value"] = "NaN"
    put(folder, "nan", None)
    (folder / "nan.json").write_text(json.dumps(score).replace('"NaN"', "NaN"))
    return {
        "torn.jpg": "damaged", "text.jpg": "not an image", "lonely.jpg": "has no sidecar",
        "orphan.json": "has no image",
        "twice.jpg": "share one sidecar", "twice.png": "share one sidecar", "cut.json": "not valid",
        "empty.json": "not valid", "list.json": "not valid", "deep.json": "not valid",
        "infinite.json": "finite", "extra.json": "more: ", "naive.json": "time", "future.json": "format",
        "huge.json": "bytes", "binary.json": "not valid", "nan.json": "finite",
    }  # fmt: skip


def test_bad_files_are_listed_and_the_others_shown(tmp_path: Path, parse_page: Parse) -> None:
    expected = damage(tmp_path)
    found = review(tmp_path)
    assert found.shown == 1
    assert {bad.file for bad in found.unreadable} == set(expected)
    tree = parse_page(found.html)
    table = next(t for t in tree.iter("table") if "".join(t.find("caption").itertext()).startswith("Files"))
    listed = {row[0].text: row[1].text for row in table.iter("tr")}
    for name, word in expected.items():
        assert word in listed[name], (name, listed[name])


def test_hostile_text_in_a_sidecar_stays_text(tmp_path: Path, parse_page: Parse) -> None:
    evil = '"><script>alert(1)</script>\x00\x1b[31m'
    put(tmp_path, "<img src=x onerror=y>", sample(9.0, evil, model=ModelRef(name=evil, version=evil)))
    tree = parse_page(review(tmp_path).html)
    assert '"><script>alert(1)</script>' in cards(tree)[0]
    assert "<img src=x onerror=y>.jpg" in cards(tree)[0]


def test_a_limit_keeps_the_highest_and_says_how_many_are_left(tmp_path: Path, parse_page: Parse) -> None:
    for index in range(5):
        put(tmp_path, f"image{index}", sample(10.0 + index))
    (tmp_path / "image4.jpg").write_bytes(b"gone")
    found = review(tmp_path, limit=2)
    assert (found.shown, found.left, [bad.file for bad in found.unreadable]) == (2, 2, ["image4.jpg"])
    shown = cards(parse_page(found.html))
    assert "image3.jpg" in shown[0]
    assert "image2.jpg" in shown[1]


def test_a_folder_of_nothing_but_bad_files_is_still_a_page(tmp_path: Path, parse_page: Parse) -> None:
    (tmp_path / "a.json").write_text("{")
    assert "a.json" in "".join(parse_page(review(tmp_path).html).itertext())


def test_folders_without_samples_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sampled images"):
        read_samples(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        read_samples(tmp_path / "absent")


def test_models_on_different_scales_are_pointed_out(tmp_path: Path) -> None:
    put(tmp_path, "a", sample(9.0))
    put(tmp_path, "b", sample(9.0, model=ModelRef(name="digits", version="2")))
    assert "different models" in review(tmp_path).html


def explained(*neighbours: tuple[str, float, str]) -> Explanation:
    return Explanation(
        decided_by=Family.DENSITY,
        families=(),
        scores=(),
        neighbours=tuple(
            Neighbour(label=label, class_index=0, distance=distance, sha256=sha256)
            for label, distance, sha256 in neighbours
        ),
    )


def test_the_nearest_training_photos_stand_beside_an_image(
    tmp_path: Path, parse_page: Parse, pictured: Path, nearby: Nearby
) -> None:
    first, second = nearby.own[:2]
    near = explained((first.label, 0.25, first.sha256), (second.label, 0.5, second.sha256), ("<b>lost", 0.75, "0" * 64))
    put(tmp_path, "asked", sample(12.0, explanation=near))
    put(tmp_path, "plain", sample(9.0))
    without = parse_page(review(tmp_path).html)
    tree = parse_page(review(tmp_path, bundle=pictured).html)
    captions = [f"{first.label}, distance 0.250", f"{second.label}, distance 0.500", "<b>lost, distance 0.750"]
    for page in (without, tree):
        beside = [ul for ul in page.iter("ul") if ul.get("class") == "beside"]
        assert [["".join(p.itertext()) for p in ul.iter("p")] for ul in beside] == [captions]
    assert "decided by density" in "".join(tree.itertext())
    sources = [img.get("src", "") for ul in tree.iter("ul") if ul.get("class") == "beside" for img in ul.iter("img")]
    thumbnails = Thumbnails(pictured / "thumbnails.zip")
    copies = [thumbnails.read(photo.sha256) for photo in (first, second)]
    thumbnails.close()
    assert [base64.b64decode(source.removeprefix("data:image/jpeg;base64,")) for source in sources] == copies
    assert not [img for ul in without.iter("ul") if ul.get("class") == "beside" for img in ul.iter("img")]


def test_a_bundle_without_thumbnails_is_named(tmp_path: Path, bundle: Path) -> None:
    put(tmp_path, "one", sample(9.0))
    with pytest.raises(InputError, match="has no thumbnails; export it with --thumbnails"):
        review(tmp_path, bundle=bundle)
