"""The nearest training photos that an exported graph names: those of a search without the graph, at every precision."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodguard.cli.main import run as command
from oodguard.core.bank import BANK_FILE, Bank
from oodguard.core.errors import FormatError, InputError, QualityError
from oodguard.core.files import file_sha256
from oodguard.core.manifest import GRAPH_FILE, load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.core.thumbnails import Thumbnails
from oodguard.core.verdict import Outputs
from oodguard.export.bundle import export_bundle
from oodguard.export.graph import run_graph, session
from oodguard.export.parity import require_distances
from oodguard.training.options import TrainOptions
from oodguard.training.photos.labelled import load_photos
from oodguard.training.pipeline import train
from oodguard.training.record import RECORD_FILE
from oodguard.training.run import load_run
from tests.nearby import Nearby


def answers(bundle: Path, images: list[bytes]) -> Outputs:
    manifest = load_manifest(bundle)
    pixels = np.stack([load_pixels(image, manifest.preprocessing) for image in images])
    return run_graph(session((bundle / GRAPH_FILE).read_bytes()), pixels)


def read(paths: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def test_the_graph_names_what_numpy_finds(bundle: Path, nearby: Nearby, photos: Path, strangers: Path) -> None:
    images = read([*sorted((photos / "test").rglob("*.jpg"))[::4], *sorted(strangers.rglob("*.png"))[:4]])
    found = answers(bundle, images)
    assert found.neighbours is not None
    assert found.distances is not None
    expected = nearby.distances(images)
    np.testing.assert_array_equal(found.neighbours, np.argsort(expected, axis=1)[:, :3])
    np.testing.assert_allclose(found.distances, np.sort(expected, axis=1)[:, :3], atol=1e-4)
    # Unit vectors: nothing is farther than 2, and a stranger is farther from its nearest photo than a test photo.
    assert found.distances.max() <= 2.0
    assert found.distances[-4:, 0].min() > found.distances[:-4, 0].max()


def test_a_training_photo_finds_itself_first(bundle: Path, nearby: Nearby) -> None:
    found = answers(bundle, read(nearby.files()[:12]))
    assert found.neighbours is not None
    assert found.distances is not None
    assert found.neighbours[:, 0].tolist() == list(range(12))
    assert found.distances[:, 0].max() < 5e-3
    assert found.distances[:, 1].min() > 20 * found.distances[:, 0].max()


def test_a_run_and_its_bundle_say_which_photo_each_row_is(bundle: Path, run: Path, nearby: Nearby) -> None:
    bank = Bank.read(bundle / BANK_FILE)
    manifest = load_manifest(bundle)
    assert bank == Bank.read(run / BANK_FILE) == load_run(run).bank
    assert [manifest.classes[index] for index in bank.class_indices] == [photo.label for photo in nearby.own]
    assert {sha256 for photos in nearby.run.division.training.values() for sha256 in photos} == set(bank.sha256)
    assert json.loads((bundle / BANK_FILE).read_text()).keys() == {"class_indices", "sha256"}
    assert [file_sha256(path) for path in nearby.files()] == list(bank.sha256)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_lower_precisions_name_the_photos_too(
    precision: str, run: Path, nearby: Nearby, strangers: Path, tmp_path: Path
) -> None:
    export_bundle(run, tmp_path / "small", precision=precision, ood={"noise": strangers})  # type: ignore[arg-type]
    images = read(nearby.files()[:12])
    found = answers(tmp_path / "small", images)
    assert found.neighbours is not None
    assert found.distances is not None
    assert found.neighbours.dtype == np.int32
    assert np.mean(found.neighbours[:, 0] == np.arange(12)) >= (1.0 if precision == "fp16" else 0.7)
    named = np.take_along_axis(nearby.distances(images), found.neighbours.astype(np.int64), axis=1)
    np.testing.assert_allclose(found.distances, named, atol=0.01 if precision == "fp16" else 0.15)


def test_a_smaller_bank_and_a_cross_fitted_run(
    options: TrainOptions, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(options.model_copy(update={"cross_fit": 3, "bank_size": 16, "epochs": 3}), tmp_path / "run")
    assert command(["export", str(tmp_path / "run"), "--out", str(tmp_path / "bundle"), "--thumbnails"]) == 0
    assert (
        "thumbnails of the training photos in the bank: 0.0 MB, for whoever has the bundle" in capsys.readouterr().out
    )
    near = Nearby(load_run(tmp_path / "run"), load_photos(photos, options.cache))
    labels = [photo.label for photo in near.own]
    assert sorted(labels.count(label) for label in ("amber", "jade", "plum")) == [5, 5, 6]
    found = answers(tmp_path / "bundle", read(near.files()))
    assert found.neighbours is not None
    assert found.neighbours[:, 0].tolist() == list(range(16))
    copies = Thumbnails(tmp_path / "bundle" / "thumbnails.zip")
    assert all(copies.read(sha256) for sha256 in near.run.bank.sha256)
    copies.close()


def test_thumbnails_are_small_copies_without_metadata(pictured: Path, bundle: Path, nearby: Nearby) -> None:
    manifest = load_manifest(pictured)
    assert manifest.thumbnails == "thumbnails.zip"
    assert load_manifest(bundle).thumbnails is None
    assert not (bundle / "thumbnails.zip").exists()
    copies = Thumbnails(pictured / "thumbnails.zip")
    for photo in nearby.own[::10]:
        data = copies.read(photo.sha256)
        assert data is not None
        with Image.open(io.BytesIO(data)) as small, Image.open(photo.path) as original:
            assert (small.format, small.mode, small.size) == ("JPEG", "RGB", original.size)
            assert not small.getexif()
            difference = np.asarray(small, dtype=float) - np.asarray(original.convert("RGB"), dtype=float)
        assert np.abs(difference).mean() < 8
    copies.close()


def test_thumbnails_need_the_photos(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="say where they are with --data"):
        export_bundle(run, tmp_path / "out", thumbnails=True, data=tmp_path / "nowhere")
    (tmp_path / "other" / "jade").mkdir(parents=True)
    (tmp_path / "other" / "plum").mkdir()
    for number in range(4):
        for label in ("jade", "plum"):
            Image.new("RGB", (40, 40), (number, 9, len(label))).save(tmp_path / "other" / label / f"{number}.png")
    with pytest.raises(InputError, match=r"is not what .* was trained on"):
        export_bundle(run, tmp_path / "out", thumbnails=True, data=tmp_path / "other")
    with pytest.raises(InputError, match="--data also for --thumbnails"):
        export_bundle(run, tmp_path / "out", data=tmp_path / "other")


def test_a_graph_with_other_distances_is_not_exported(bundle: Path, nearby: Nearby) -> None:
    found = answers(bundle, read(nearby.files()[:3]))
    assert found.distances is not None
    require_distances(found.distances, found)
    with pytest.raises(QualityError, match="nearer or farther"):
        require_distances(found.distances + np.float32(2e-4), found)
    with pytest.raises(QualityError, match="nothing was exported"):
        require_distances(found.distances, Outputs(probabilities=found.probabilities, scores=found.scores))


def test_a_run_without_its_bank_is_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    bank = Bank.read(copy / BANK_FILE)
    fewer = Bank(class_indices=bank.class_indices[1:], sha256=bank.sha256[1:])
    (copy / BANK_FILE).write_text(fewer.model_dump_json())
    record = json.loads((copy / RECORD_FILE).read_text())
    record["files"][BANK_FILE] = file_sha256(copy / BANK_FILE)
    (copy / RECORD_FILE).write_text(json.dumps(record))
    with pytest.raises(FormatError, match="not of the bank"):
        load_run(copy)
    (copy / BANK_FILE).unlink()
    with pytest.raises(FormatError, match=r"incomplete: it has no bank\.json"):
        load_run(copy)
