"""Formats that have to be asked for: over HTTP, and for a guard that learned from such photos."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from oodguard.export.bundle import export_bundle
from oodguard.server.app import create_gateway
from oodguard.server.settings import ServeSettings
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from tests.core.test_apart import encoded, picture

ASKED = "default,heic,jxl,jpeg2000"


def ask(bundle: Path, formats: str, *images: bytes) -> Any:
    settings = ServeSettings(bundle=bundle, watch=False, page=False, formats=formats)
    with TestClient(create_gateway(settings).public) as client:
        return client.post("/predict", files=[("image", (str(number), data)) for number, data in enumerate(images)])


def test_a_picture_is_judged_alike_in_every_format_that_keeps_its_pixels(bundle: Path) -> None:
    pytest.importorskip("imagecodecs")
    pytest.importorskip("pillow_heif")
    values = picture()
    exact = ask(bundle, ASKED, *(encoded(values, kind) for kind in ("PNG", "JXL", "JPEG2000")))
    first, *others = exact.json()["predictions"]
    assert [one["scores"] for one in others] == [first["scores"]] * 2
    near = ask(bundle, ASKED, encoded(values, "HEIC")).json()["predictions"][0]
    assert (near["is_ood"], near["decision"]) == (first["is_ood"], first["decision"])


@pytest.mark.parametrize("kind", ["HEIC", "JXL", "JPEG2000"])
def test_a_format_that_was_not_asked_for_is_refused_with_the_option(bundle: Path, kind: str) -> None:
    answer = ask(bundle, "default", encoded(picture(), kind))
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_type")
    detail = f"{kind} images are not read here; --formats default,{kind.lower()} reads them"
    assert answer.json()["detail"] == detail


def test_a_guard_that_learned_from_phone_photos_answers_them_as_their_lossless_copies(
    photos: Path, options: TrainOptions, tmp_path: Path
) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    data = tmp_path / "photos"
    for path in photos.rglob("*.jpg"):
        to = (data / path.relative_to(photos)).with_suffix(".HEIC")
        to.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(to, "HEIF", quality=90)
    quick = options.model_copy(update={"data": data, "fine_tune": False, "check_folds": 0, "out_of_fold": 0})
    record = train(quick, tmp_path / "run")
    assert record.splits.train + record.splits.calibration == 180
    assert record.metrics["test_accuracy"] > 0.6
    bundle = tmp_path / "bundle"
    export_bundle(tmp_path / "run", bundle)
    phone = (data / "test" / "jade" / "000.HEIC").read_bytes()
    lossless = io.BytesIO()
    Image.open(io.BytesIO(phone)).convert("RGB").save(lossless, "PNG")
    taken, copied = ask(bundle, "default,heic", phone, lossless.getvalue()).json()["predictions"]
    assert taken["label"] == copied["label"]
    assert taken["scores"] == copied["scores"]
