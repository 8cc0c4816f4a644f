"""A command that gets something else says what that is, and what to do."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from oodguard.cli.artefacts import Artefact, recognise
from oodguard.cli.inputs import expect, nearest
from oodguard.cli.main import run as run_command
from oodguard.core.errors import InputError
from tests.conftest import COLOURS, draw

SIDECAR = {"label": "jade", "probability": 0.4, "ood_score": 9, "threshold": 8, "percentile": 100}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of everything, called as people call it."""
    for part in ("train", "test"):
        for label in ("amber", "jade"):
            (tmp_path / "photos" / part / label).mkdir(parents=True)
            draw(COLOURS[label], 1).save(tmp_path / "photos" / part / label / "000.jpg")
    image = tmp_path / "photos" / "test" / "jade" / "000.jpg"
    for folder in ("runs/photos", "bundles/photos/golden", "models/photos", "loose", "flagged", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    for place in ("photo.jpg", "loose/photo.jpg", "flagged/1.jpg", "bundles/photos/golden/0.jpg"):
        shutil.copyfile(image, tmp_path / place)
    for name, text in {
        "runs/photos/run.json": json.dumps({"options": {"data": str(tmp_path / "photos")}}),
        "bundles/photos/manifest.json": "{}", "bundles/photos/model.onnx": "", "models/photos/config.pbtxt": "",
        "flagged/1.json": json.dumps(SIDECAR), "classifier.onnx": "", "checkpoint.pth": "", "movie.mp4": "",
        "notes.txt": "photo.jpg\n", "week.csv": "path,label,ood_score\n", "week.parquet": "",
        "labels.csv": "path,label\n",
        "suspects.csv": "path,class,kind\n", "list.csv": "path\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(image, "jade/000.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("runs/photos", Artefact.RUN),
        ("runs", Artefact.RUNS),
        ("bundles/photos", Artefact.BUNDLE),
        ("bundles", Artefact.BUNDLES),
        ("bundles/photos/model.onnx", Artefact.PART),
        ("runs/photos/run.json", Artefact.PART),
        ("bundles/photos/golden", Artefact.IMAGES),
        ("models", Artefact.TRITON),
        ("photos", Artefact.PHOTOS),
        ("photos/test", Artefact.PHOTOS),
        ("photos/test/jade", Artefact.IMAGES),
        ("loose", Artefact.IMAGES),
        ("flagged", Artefact.SAMPLES),
        ("empty", Artefact.FOLDER),
        ("photo.jpg", Artefact.IMAGE),
        ("photos.zip", Artefact.ARCHIVE),
        ("week.csv", Artefact.RESULTS),
        ("labels.csv", Artefact.TABLE),
        ("week.parquet", Artefact.RESULTS),
        ("suspects.csv", Artefact.SUSPECTS),
        ("list.csv", Artefact.SUSPECTS),
        ("notes.txt", Artefact.LIST),
        ("classifier.onnx", Artefact.GRAPH),
        ("checkpoint.pth", Artefact.CHECKPOINT),
        ("movie.mp4", Artefact.FILE),
        ("https://example.com/photo.jpg", Artefact.ADDRESS),
        ("absent", Artefact.ABSENT),
    ],
)
def test_everything_is_known_for_what_it_is(home: Path, name: str, kind: Artefact) -> None:
    assert recognise(Path(name)) is kind


RUN_WAY = "runs/photos is a run; export it first: oodguard export runs/photos --out bundles/photos"
BUNDLE_WAY = "bundles/photos is a bundle; name the run that it was exported from: runs/photos"
PHOTOS_WAY = (
    "photos is a folder of labelled photos; train a guard on them first: oodguard train --data photos --out runs/photos"
)
NO_PHOTOS = "name a folder of labelled photos with one sub-folder per class"
NO_RESULTS = "name a file that oodguard score or oodguard predict --csv wrote"
GRAPH_WAY = "put a guard around it first: oodguard wrap classifier.onnx --data PHOTOS --out runs/classifier"


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("serve runs/photos", RUN_WAY),
        ("serve runs", "runs is a folder of runs; name one of those in it: runs/photos"),
        ("serve bundles", "bundles is a folder of bundles; name one of those in it: bundles/photos"),
        ("serve photos", PHOTOS_WAY),
        ("serve classifier.onnx", f"classifier.onnx is an ONNX graph; {GRAPH_WAY}"),
        ("serve bundles/photos/manifest.json", "manifest.json is a file of bundles/photos; name the folder: bundles"),
        ("serve bundle/photos", "bundle/photos does not exist; did you mean bundles/photos?"),
        ("serve photo.jpg", "photo.jpg is an image; name a bundle: the folder that oodguard export wrote"),
        ("serve", "name the bundle to serve: the folder that oodguard export wrote, as in oodguard serve"),
        ("serve bundles/photos --shadow runs/photos", f"--shadow: {RUN_WAY}"),
        ("tune runs/photos", RUN_WAY),
        ("evaluate bundles/photos", BUNDLE_WAY),
        ("evaluate photos.zip", "photos.zip is an archive; train a guard on them first: oodguard train --data"),
        ("evaluate runs/photo", "runs/photo does not exist; did you mean runs/photos?"),
        ("evaluate absent", "absent does not exist; name a run: the folder that oodguard train wrote"),
        ("evaluate runs/photos --ood strangers", "--ood takes name=folder, as in --ood packages=other/packages"),
        ("evaluate runs/photos --ood x=bundles/photos", "--ood x: bundles/photos is a bundle; name images"),
        ("diagnose bundles/photos", BUNDLE_WAY),
        ("export bundles/photos --out b", BUNDLE_WAY),
        ("export photos --out b", PHOTOS_WAY),
        ("export runs/photos --out photos", "--out: photos is a folder of labelled photos already, and nothing of it"),
        ("compare bundles/photos photos --test photos", PHOTOS_WAY),
        ("compare bundles/photos bundles/photos --test runs/photos", "--test: runs/photos is a run; "),
        ("train --data bundles/photos --out r", f"--data: bundles/photos is a bundle; {NO_PHOTOS}"),
        ("train --data phots --out r", "--data: phots does not exist; did you mean photos?"),
        ("train --data loose --out r", f"--data: loose has no folders in it; {NO_PHOTOS}"),
        ("train --data photo.jpg --out r", f"--data: photo.jpg is an image; {NO_PHOTOS}"),
        ("train --data https://a.b/c.zip --out r", "is an address, and nothing is fetched from a network; download"),
        ("train --data suspects.csv --out r", "is a list of suspects; name the photos, and give the list as --exclude"),
        ("train --data flagged --out r", "is a folder of flagged images; say what they are first: oodguard review"),
        (
            "train --data photos --out loose",
            "--out: loose is a folder of images already, and nothing of it is replaced",
        ),
        (
            "train --data photos --out r --exclude photos",
            "--exclude: photos is a folder of labelled photos; name a list",
        ),
        ("train --data photos --out r --parent bundles/photos", f"--parent: {BUNDLE_WAY}"),
        ("check photos.txt", "photos.txt does not exist; did you mean photos?"),
        ("wrap runs/photos --data photos --out r", "runs/photos is a run; it has its guard already; export it: "),
        ("wrap bundles/photos --data photos --out r", "it has its guard already; serve it: oodguard serve bundles"),
        ("wrap checkpoint.pth --data photos --out r", "is a checkpoint; say which timm model it is of with --backbone"),
        ("predict bundles/photos", "bundles/photos is a bundle; name images, or a folder of them"),
        (
            "predict photos.zip",
            "unpack it, or judge it without a server: oodguard score BUNDLE photos.zip --out photos",
        ),
        ("predict week.parquet", "oodguard drift week.parquet --bundle BUNDLE says what is in it"),
        ("score runs/photos loose --out r.csv", RUN_WAY),
        ("score bundles/photos runs/photos --out r.csv", "runs/photos is a run; name images, or a folder of them"),
        (
            "drift flagged --bundle bundles/photos",
            "judge them first: oodguard score BUNDLE flagged --out flagged.parquet",
        ),
        ("drift runs/photos --bundle bundles/photos", f"runs/photos is a run; {NO_RESULTS}"),
        ("drift week.parquet --bundle photos", f"--bundle: {PHOTOS_WAY}"),
        ("review runs/photos", "runs/photos is a run; name the folder that oodguard serve --sample-dir fills"),
        ("review flaged", "flaged does not exist; did you mean flagged?"),
        ("recalibrate runs/photos --images photos", RUN_WAY),
        ("recalibrate bundles/photos --images runs/photos", "--images: runs/photos is a run; name images"),
        ("releases bundles/photos", "name the folder that holds it and its later versions: bundles"),
        ("releases runs", "runs is a folder of runs; name a folder that holds bundles, one in each of its folders"),
        ("bench runs/photos --out o", "runs/photos is a run; "),
    ],
)
def test_a_command_says_what_it_got_and_what_to_do(
    capsys: pytest.CaptureFixture[str], home: Path, typed: str, sentence: str
) -> None:
    before = sorted(home.iterdir())
    code = run_command(typed.split())
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert sorted(home.iterdir()) == before


def test_what_train_and_export_write_is_known(run: Path, bundle: Path, photos: Path, strangers: Path) -> None:
    found = [recognise(path) for path in (run, bundle, photos, photos / "train", strangers)]
    assert found == [Artefact.RUN, Artefact.BUNDLE, Artefact.PHOTOS, Artefact.PHOTOS, Artefact.IMAGES]


def test_a_run_is_asked_where_its_photos_are(home: Path) -> None:
    with pytest.raises(InputError) as caught:
        expect(Path("runs/photos"), Artefact.PHOTOS, flag="--data")
    assert str(caught.value) == f"--data: runs/photos is a run; the photos it was trained on are in {home / 'photos'}"


def test_what_readers_know_better_is_left_to_them(home: Path) -> None:
    for name in ("photos", "photos/test", "photos.zip", "models"):
        expect(Path(name), Artefact.PHOTOS)
    for name in ("photo.jpg", "loose", "photos", "flagged", "movie.mp4"):
        expect(Path(name), Artefact.IMAGES)
    expect(Path("bundles/photos"), Artefact.RUN, Artefact.BUNDLE)


@pytest.mark.parametrize(
    ("typed", "there"),
    [
        ("bundle/photo", "bundles/photos"),
        ("runs/fotos", "runs/photos"),
        ("photos/test/jad", "photos/test/jade"),
        ("zebra", None),
        ("bundles/zebra", None),
    ],
)
def test_the_nearest_path_is_one_that_exists(home: Path, typed: str, there: str | None) -> None:
    assert nearest(Path(typed)) == (None if there is None else Path(there))
    assert there is None or Path(there).exists()
