"""Thresholds from new photos: what they accept, what the bundle then says, and how it takes the old one's place."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import oodguard
from oodguard.core.errors import InputError
from oodguard.core.files import file_sha256
from oodguard.core.golden import judged
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.core.targets import Targets
from oodguard.core.verdict import Outputs
from oodguard.load_tests.gateway import Gateway
from oodguard.server.recalibration import RecalibrateOptions, recalibrate, renewed
from tests.conftest import COLOURS, draw

PHOTOS = 60
SAMPLED = {"label", "probability", "ood_score", "threshold", "percentile", "scores"}


def darkened(folder: Path, *, seed: int, each: int = PHOTOS // 3) -> Path:
    """Photos as another camera takes them: the same things with a fifth of the light, in folders by class."""
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for index in range(each):
            seed += 1
            light = np.asarray(draw(colour, seed), dtype=np.float64) * 0.2
            Image.fromarray(light.astype(np.uint8)).save(folder / label / f"{index:03d}.jpg", quality=90)
    return folder


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trusted photos of a camera in the dark."""
    return darkened(tmp_path_factory.mktemp("camera") / "trusted", seed=50_000)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other photos of that camera."""
    return darkened(tmp_path_factory.mktemp("camera") / "fresh", seed=90_000, each=100)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle to change."""
    return Path(shutil.copytree(bundle, tmp_path / "discs"))


def options(bundle: Path, *images: Path, **more: object) -> RecalibrateOptions:
    return RecalibrateOptions(
        bundle=bundle,
        images=tuple(map(str, images)),
        **{"sessions": 1, "threads": 1, **more},  # type: ignore[arg-type]
    )


def silent(done: int, total: int) -> None:
    assert 0 < done <= total


def flagged(bundle: Path, photos: Path, source: str | None = None) -> float:
    with oodguard.load(bundle, sessions=1) as guard:
        paths = sorted(p for p in photos.rglob("*") if p.is_file())
        answers = list(guard.stream(paths, source=source))
    return float(np.mean([a.prediction.is_ood for a in answers if a.prediction is not None]))


def test_new_thresholds_accept_what_they_promise_and_still_flag_strangers(
    copy: Path, camera: Path, fresh: Path, strangers: Path
) -> None:
    assert flagged(copy, fresh) > 0.9
    found = recalibrate(options(copy, camera), progress=silent)
    low, high = found.kept
    assert low < 0.95 < high
    # 300 fresh photos are a sample, too: two more standard errors.
    assert low - 0.025 <= 1 - flagged(copy, fresh) <= high + 0.025
    assert flagged(copy, strangers) == 1.0


def test_what_a_recalibrated_bundle_says_of_itself(copy: Path, camera: Path) -> None:
    before, parent = load_manifest(copy), file_sha256(copy / MANIFEST_FILE)
    found = recalibrate(options(copy, camera), progress=silent)
    after = load_manifest(copy)
    assert after == found.manifest
    assert (after.version, after.graph_sha256) == ("8", before.graph_sha256)
    (done,) = after.recalibrations
    assert (done.source, done.images, done.labelled) == (None, PHOTOS, True)
    assert (done.from_version, done.from_sha256) == ("7", parent)
    assert (after.calibration.samples, after.max_accept) == (PHOTOS, PHOTOS / (PHOTOS + 1))
    # What the fused score is made from, and how classes are made alike, is not these photos' to say.
    assert after.calibration.curves == before.calibration.curves
    assert after.calibration.answering is not None
    assert before.calibration.answering is not None
    assert after.calibration.answering.offsets == before.calibration.answering.offsets
    assert len(after.calibration.answering.photos.fused) == PHOTOS
    assert all(score.samples == PHOTOS for score in after.calibration.own.values())
    expected = after.judge(
        Outputs(
            probabilities=np.array([g.probabilities for g in after.golden], dtype=np.float32),
            scores=np.array([g.scores for g in after.golden], dtype=np.float32),
        )
    )
    assert [g.is_ood for g in after.golden] == [v.is_ood for v in expected]
    assert after.parity == before.parity
    assert recalibrate(options(copy, camera), progress=silent).manifest.version == "9"
    assert load_manifest(copy).recalibrations[0].from_version == "8"


def test_the_same_photos_give_the_same_thresholds(copy: Path, camera: Path, tmp_path: Path) -> None:
    found = [
        recalibrate(options(copy, camera, out=tmp_path / name, max_batch=size), progress=silent).calibration
        for name, size in (("one", 8), ("two", 8), ("three", 5))
    ]
    assert found[0] == found[1]
    assert found[2].curve.values == pytest.approx(found[0].curve.values, rel=1e-3, abs=1e-3)


def test_photos_without_labels_leave_label_sets_as_they_are(copy: Path, camera: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for index, path in enumerate(sorted(camera.rglob("*.jpg"))):
        shutil.copyfile(path, flat / f"{index}.jpg")
    before = load_manifest(copy).calibration.answering
    found = recalibrate(options(copy, flat), progress=silent)
    after = found.calibration.answering
    assert after is not None
    assert before is not None
    assert (after.photos, after.sharpening, after.nonconformity) == (
        before.photos, before.sharpening, before.nonconformity,
    )  # fmt: skip
    assert after.curve != before.curve
    assert found.photos.homeless == str(flat / "0.jpg")
    assert not found.manifest.recalibrations[0].labelled


def test_copies_count_once_and_bad_files_are_named(copy: Path, camera: Path, tmp_path: Path) -> None:
    trusted = Path(shutil.copytree(camera, tmp_path / "trusted"))
    shutil.copyfile(trusted / "jade" / "000.jpg", trusted / "jade" / "again.jpg")
    (trusted / "jade" / "torn.jpg").write_bytes((trusted / "jade" / "000.jpg").read_bytes()[:300])
    found = recalibrate(options(copy, trusted), progress=silent)
    assert (len(found.photos), found.photos.copies) == (PHOTOS, 1)
    ((name, why),) = found.photos.unreadable
    assert name == str(trusted / "jade" / "torn.jpg")
    assert "damaged" in why


def test_another_folder_gets_a_whole_bundle_and_the_old_one_stays(copy: Path, camera: Path, tmp_path: Path) -> None:
    before = (copy / MANIFEST_FILE).read_bytes()
    out = tmp_path / "new"
    recalibrate(options(copy, camera, out=out, model_version="2026-11"), progress=silent)
    assert (copy / MANIFEST_FILE).read_bytes() == before
    assert load_manifest(out).version == "2026-11"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["discs", "new"]
    with pytest.raises(InputError, match="exists; choose another --out"):
        recalibrate(options(copy, camera, out=out), progress=silent)


def test_a_dry_run_writes_nothing(copy: Path, camera: Path) -> None:
    before = sorted((p.name, p.stat().st_mtime_ns) for p in copy.rglob("*"))
    assert recalibrate(options(copy, camera, dry_run=True), progress=silent).accepted < 0.5
    assert sorted((p.name, p.stat().st_mtime_ns) for p in copy.rglob("*")) == before


def some(camera: Path, folder: Path, count: int) -> Path:
    folder.mkdir()
    for index, path in enumerate(sorted(camera.rglob("*.jpg"))[:count]):
        shutil.copyfile(path, folder / f"{index}.jpg")
    return folder


def test_what_is_refused(copy: Path, camera: Path, tmp_path: Path) -> None:
    def refused(sentence: str, *images: Path, **more: object) -> None:
        before = (copy / MANIFEST_FILE).read_bytes()
        with pytest.raises(InputError, match=sentence):
            recalibrate(options(copy, *images, **more), progress=silent)
        assert (copy / MANIFEST_FILE).read_bytes() == before

    refused("19 different photos are too few for thresholds; give at least 20", some(camera, tmp_path / "few", 19))
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("empty has no images", empty)
    refused("does not exist", tmp_path / "none")
    refused("--model-version takes letters", camera, model_version="a b")
    refused("is version 7 already", camera, model_version="7")
    refused("not the name default; got 'default'", camera, source="default")
    refused("--source takes letters", camera, source="cam 3")
    twice = tmp_path / "twice"
    shutil.copytree(camera, twice)
    shutil.copyfile(twice / "jade" / "000.jpg", twice / "plum" / "x.jpg")
    refused("are one photo in the folders of two classes", twice)
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "a.jpg").write_bytes(b"no image")
    refused("none of the photos can be used; .*a.jpg: not an image", torn)


def changed(bundle: Path, **fields: object) -> None:
    manifest = load_manifest(bundle).model_copy(update=fields)
    golden = judged(manifest.golden, manifest.calibration, manifest.targets)
    (bundle / MANIFEST_FILE).write_text(manifest.model_copy(update={"golden": golden}).model_dump_json())


def test_targets_that_so_few_photos_cannot_promise_are_refused(copy: Path, camera: Path, tmp_path: Path) -> None:
    changed(copy, targets=Targets(accept=0.97))
    with pytest.raises(InputError, match=r"at most 0.9524 \(calibrated on 20 images\); got 0.97; give more photos"):
        recalibrate(options(copy, some(camera, tmp_path / "few", 20)), progress=silent)


def test_versions_that_are_no_number_need_a_name(copy: Path, camera: Path) -> None:
    changed(copy, version="spring")
    with pytest.raises(InputError, match="version spring is no whole number, so nothing follows it; give --model-ver"):
        recalibrate(options(copy, camera), progress=silent)


def test_samples_of_flagged_images_alone_set_no_thresholds(copy: Path, camera: Path, tmp_path: Path) -> None:
    with oodguard.load(copy, sessions=1) as guard:
        one = guard.predict(next(camera.rglob("*.jpg"))).predictions[0]
    sidecar = {
        "time": "2026-11-27T10:00:00Z", "model": {"name": "discs", "version": "7"}, "accept": 0.95,
        **one.model_dump(mode="json", include=SAMPLED),
    }  # fmt: skip
    flagged_ones = some(camera, tmp_path / "flagged", 30)
    for index in range(30):
        (flagged_ones / f"{index}.json").write_text(json.dumps(sidecar))
    with pytest.raises(InputError, match="all 30 photos are samples of flagged images"):
        recalibrate(options(copy, flagged_ones), progress=silent)
    others = some(camera, tmp_path / "others", 60)
    assert recalibrate(options(copy, flagged_ones, others), progress=silent).photos.sampled == 30
    assert recalibrate(options(copy, flagged_ones, source="cam3"), progress=silent).photos.sampled == 30


def test_a_golden_image_that_another_runtime_might_judge_otherwise_is_left_out(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    assert renewed(manifest, manifest.calibration) == manifest.golden
    # The threshold lands where one golden image is, and every runtime may be a tenth of a range away.
    loose = manifest.model_copy(update={"parity": manifest.parity.model_copy(update={"tolerance": 0.1})})
    outputs = Outputs(
        probabilities=np.array([manifest.golden[0].probabilities] * 40, dtype=np.float32),
        scores=np.array([manifest.golden[0].scores] * 40, dtype=np.float32),
    )
    kept = renewed(loose, manifest.calibration.recalibrated(outputs))
    assert manifest.golden[0].path not in {g.path for g in kept}
    assert kept


def test_a_running_server_takes_the_new_thresholds_and_loses_no_request(
    copy: Path, camera: Path, server: Callable[..., Gateway]
) -> None:
    running = server("--sessions", "1", "--watch-interval", "1", folder=copy)
    photo = sorted(camera.rglob("*.jpg"))[7].read_bytes()
    versions: list[tuple[str, bool]] = []
    failures: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client() as client:
            while not stop.is_set():
                reply = client.post(f"{running.url}/predict", content=photo, headers={"content-type": "image/jpeg"})
                if reply.status_code != 200:
                    failures.append(reply.status_code)
                    continue
                answer = reply.json()
                versions.append((answer["model"]["version"], answer["predictions"][0]["is_ood"]))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        recalibrate(options(copy, camera), progress=silent)
        running.wait_ready(lambda: bool(versions) and versions[-1][0] == "8")
    finally:
        stop.set()
        asking.join()
    assert failures == []
    assert set(versions) == {("7", True), ("8", False)}
