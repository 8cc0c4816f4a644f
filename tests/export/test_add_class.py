"""A class from a few photos: the row is the minimum it is said to be, the old rows stay, and the gate keeps watch."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

import oodguard
from oodguard.core.bank import BANK_FILE, Bank
from oodguard.core.classifier import ClassifierRecord
from oodguard.core.errors import FormatError, InputError, QualityError
from oodguard.core.files import file_sha256
from oodguard.core.manifest import GRAPH_FILE, MANIFEST_FILE, load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.core.scores import ScoreName
from oodguard.core.thumbnails import THUMBNAILS_FILE, Thumbnails
from oodguard.export.add_class import ClassAdded, add_class
from oodguard.export.added_bundle import NewBundle, write_bundle
from oodguard.export.bundle import export_bundle
from oodguard.export.class_photos import OpenedGraph
from oodguard.export.graph import run_graph, session
from oodguard.export.head_parts import HeadParts, rewritten
from oodguard.export.new_class import WIDENED, new_row
from oodguard.export.standalone_parity import StandaloneOutputs
from oodguard.training.photos.labelled import load_unlabelled
from oodguard.training.progress import Silent
from oodguard.training.run import load_run
from tests.conftest import COLOURS, draw

pytestmark = pytest.mark.usefixtures("one_thread")

SLATE = (61, 107, 153)


def drawn(folder: Path, colour: tuple[int, int, int], count: int, *, seed: int) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        draw(colour, seed + index).save(folder / f"{index:02d}.jpg", quality=90)
    return folder


@pytest.fixture(scope="module")
def slate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of a class that the shared guard does not know."""
    return drawn(tmp_path_factory.mktemp("new") / "slate", SLATE, 20, seed=9_000)


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with everything that a bundle may have."""
    out = tmp_path_factory.mktemp("whole") / "discs"
    export_bundle(run, out, version="7", thumbnails=True, with_standalone=True)
    return out


@pytest.fixture(scope="module")
def added(whole: Path, slate: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ClassAdded:
    """That bundle with the class, its thresholds set anew."""
    return add_class(whole, "slate", slate, out=tmp_path_factory.mktemp("added") / "discs-8", data=photos)


def test_the_row_of_a_new_class_is_the_minimum_of_its_objective() -> None:
    rng = np.random.default_rng(0)
    weights, biases = rng.normal(0, 0.3, (6, 4)).astype(np.float32), rng.normal(0, 0.2, 4).astype(np.float32)
    known = np.maximum(rng.normal(0.4, 1, (80, 6)), 0).astype(np.float32)
    new = np.maximum(rng.normal(0.9, 1, (10, 6)), 0).astype(np.float32)
    row = new_row(known, new, weights, biases, smoothing=0.1)

    def loss(tried: np.ndarray) -> float:
        """Cross-entropy over all five classes, old rows fixed: an old photo's old class, a new photo's new one."""
        total = 0.0
        for hidden, goal, share in ((known, 0.1 / 5, 1.0), (new, 0.9 + 0.1 / 5, 80 / 4 / 10)):
            old = hidden @ weights.astype(np.float64) + biases
            mine = hidden @ tried[:-1] + tried[-1]
            both = log_softmax(np.stack([logsumexp(old, axis=1), mine], axis=1), axis=1)
            total -= share * (both[:, 1] * goal + both[:, 0] * (1 - goal)).sum()
        rows = np.vstack([weights, biases]).astype(np.float64)
        wide = WIDENED**2 * np.append(np.full(6, rows[:-1].var(1).mean()), rows[-1].var())
        return float(total + (np.square(tried - rows.mean(1)) / wide).sum() / 2)

    found = minimize(loss, np.zeros(7), method="BFGS", options={"gtol": 1e-7})
    assert row == pytest.approx(found.x, abs=1e-3)
    assert loss(row) <= found.fun + 1e-8


def test_the_heads_of_a_graph_are_those_of_its_run(run: Path, bundle: Path) -> None:
    model, trained = onnx.load(bundle / GRAPH_FILE), load_run(run)
    heads, manifest = HeadParts.read(model), load_manifest(bundle)
    assert (heads.classes, heads.neighbours, len(heads.bank)) == (3, 5, len(trained.bank))
    assert heads.bank == pytest.approx(trained.heads.density.bank.numpy())
    assert heads.class_means == pytest.approx(trained.heads.density.class_means.numpy(), rel=1e-4, abs=1e-4)
    images = np.stack(
        [load_pixels((bundle / one.path).read_bytes(), manifest.preprocessing) for one in manifest.golden]
    )
    rows, _ = OpenedGraph(model, manifest.preprocessing).run(images)
    answers = heads.answers(rows, manifest.score_names)
    probabilities, scores = trained.predict(images)
    assert answers.probabilities == pytest.approx(probabilities, abs=1e-5)
    assert manifest.calibration.score_errors(scores, answers.scores).max() < 1e-4
    nothing = onnx.helper.make_model(onnx.helper.make_graph([], "nothing", [], []))
    with pytest.raises(FormatError, match="not those that this oodguard exports"):
        HeadParts.read(nothing)


def test_a_class_of_twenty_photos_is_known_from_then_on_and_costs_the_others_little(
    added: ClassAdded, whole: Path, photos: Path, tmp_path: Path
) -> None:
    assert added.before.share >= 0.7
    assert (added.right.of, added.passing.of) == (20, 20)
    assert added.passing.share >= 0.75
    assert added.measured
    assert added.accuracy.before.of == 45
    assert added.accuracy.change.change >= -0.05
    assert added.accepted is not None
    assert added.accepted.after.share >= 0.85
    others = drawn(tmp_path / "slate", SLATE, 12, seed=20_000)
    guards = [oodguard.load(folder) for folder in (whole, added.out)]
    try:
        before, after = (guard.predict(sorted(others.iterdir())).predictions for guard in guards)
        known = guards[1].predict(sorted((photos / "test" / "jade").iterdir())).predictions
    finally:
        for guard in guards:
            guard.close()
    assert sum(one.is_ood for one in before) >= 7
    assert sum(one.label == "slate" and not one.is_ood for one in after) >= 9
    assert sum(one.label == "jade" for one in known) >= 14


def test_the_new_bundle_follows_the_old_one_and_names_its_photos(
    added: ClassAdded, whole: Path, slate: Path, photos: Path
) -> None:
    old, new = load_manifest(whole), load_manifest(added.out)
    assert new == added.manifest
    assert new.standalone is not None
    for file in (new.graph, new.standalone.graph):
        was, said = (
            {one.key: one.value for one in onnx.load(folder / file).metadata_props} for folder in (whole, added.out)
        )
        assert (said["oodguard.name"], said["oodguard.version"], said["oodguard.precision"]) == ("discs", "8", "fp32")
        assert said["oodguard.run"] == was["oodguard.run"]
    assert (new.version, new.classes, new.name) == ("8", (*old.classes, "slate"), old.name)
    assert new.follows is not None
    assert new.follows.sha256 == file_sha256(whole / MANIFEST_FILE)
    banks = [Bank.read(folder / BANK_FILE) for folder in (whole, added.out)]
    shas = [photo.sha256 for photo in load_unlabelled(slate)]
    assert banks[1].class_indices == (*banks[0].class_indices, *[3] * 20)
    assert list(banks[1].sha256) == [*banks[0].sha256, *shas]
    (record,) = new.added
    assert (record.name, record.photos, record.from_version) == ("slate", 20, "7")
    assert record.max_error < 1e-4
    assert [one.path for one in new.golden if one.label == "slate"][-1].startswith("golden/8-")
    # The calibration photos of the run are those of train/ that are not in the bank.
    trained = {photo.sha256 for photo in load_unlabelled(photos / "train")} - set(banks[0].sha256)
    assert record.calibrated == added.calibrated == new.recalibrations[-1].images == len(trained)
    assert new.calibration.samples == len(trained)
    answering = new.calibration.answering
    assert answering is not None
    assert answering.offsets[-1] == 0.0
    scale = np.array(new.calibration.curves[ScoreName.PDS].values) / old.calibration.curves[ScoreName.PDS].values
    assert scale == pytest.approx(3 / 4)
    pictures = Thumbnails(added.out / THUMBNAILS_FILE)
    try:
        assert all(pictures.read(sha256) for sha256 in banks[1].sha256)
    finally:
        pictures.close()
    image = load_pixels((slate / "00.jpg").read_bytes(), new.preprocessing)[None]
    answer = StandaloneOutputs.run((added.out / new.standalone.graph).read_bytes(), {"images": image})
    assert int(answer.label[0]) == 3


def test_the_logits_of_the_old_classes_are_the_same(added: ClassAdded, whole: Path) -> None:
    before, after = (HeadParts.read(onnx.load(folder / GRAPH_FILE)) for folder in (whole, added.out))
    assert after.classes == 4
    for name in ("w2", "b2", "anchored_w2", "anchored_b2"):
        assert (getattr(after, name)[..., :3] == getattr(before, name)).all(), name
    for name in ("ice_centres", "class_means", "bank", "bank_residual"):
        assert (getattr(after, name)[: len(getattr(before, name))] == getattr(before, name)).all(), name
    # A training photo of the class is its own nearest neighbour.
    manifest = added.manifest
    path = next(added.out / one.path for one in manifest.golden if "golden/8-" in one.path)
    found = run_graph(
        session((added.out / GRAPH_FILE).read_bytes()), load_pixels(path.read_bytes(), manifest.preprocessing)[None]
    )
    assert found.neighbours is not None
    assert found.distances is not None
    assert Bank.read(added.out / BANK_FILE).sha256[found.neighbours[0, 0]] == file_sha256(path)
    assert found.distances[0, 0] == pytest.approx(0.0, abs=1e-3)


def test_without_old_photos_thresholds_stay_and_nothing_is_promised(bundle: Path, tmp_path: Path) -> None:
    cerise = drawn(tmp_path / "cerise", (204, 20, 112), 20, seed=9_000)
    found = add_class(bundle, "cerise", cerise, out=tmp_path / "discs-8")
    old, new = load_manifest(bundle), found.manifest
    assert (found.measured, found.accepted, found.calibrated) == (False, None, 0)
    assert new.added[-1].calibrated is None
    assert new.calibration.curve == old.calibration.curve
    assert new.recalibrations == ()
    assert found.accuracy.before.of == len(Bank.read(bundle / BANK_FILE))
    assert found.accuracy.before.share > 0.95


def test_a_rounded_graph_gets_the_class_too(run: Path, photos: Path, tmp_path: Path) -> None:
    export_bundle(run, tmp_path / "small", precision="int8", data=photos, name="discs")
    cerise = drawn(tmp_path / "cerise", (204, 20, 112), 20, seed=9_000)
    found = add_class(tmp_path / "small", "cerise", cerise, out=tmp_path / "small-2", data=photos)
    assert (found.manifest.precision, found.manifest.version) == ("int8", "2")
    assert found.passing.share >= 0.6
    assert found.manifest.parity == load_manifest(tmp_path / "small").parity


def test_what_cannot_be_added_is_refused_in_one_sentence(
    run: Path, bundle: Path, photos: Path, strangers: Path, slate: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    few = shutil.copytree(slate, tmp_path / "few", ignore=shutil.ignore_patterns("*[1-9].jpg"))
    for index in range(12):
        shutil.copyfile(slate / "00.jpg", few / f"again-{index}.jpg")
    (few / "torn.jpg").write_bytes(b"<html>")
    more_jade = drawn(tmp_path / "more", COLOURS["jade"], 20, seed=30_000)
    seen = shutil.copytree(slate, tmp_path / "seen")
    shutil.copyfile(load_unlabelled(photos / "train" / "plum")[0].path, seen / "x.jpg")
    in_bank = set(Bank.read(bundle / BANK_FILE).sha256)
    trained = next(one for one in load_unlabelled(photos / "train" / "plum") if one.sha256 in in_bank)
    shutil.copyfile(trained.path, seen / "x.jpg")
    for name, folder, kind, words in (
        ("jade", slate, InputError, "knows jade already; to give it more photos"),
        ("a/b", slate, InputError, "a class is called as its folder is"),
        ("few", few, InputError, "has 2 different photos that can be read, and few needs at least 10"),
        ("green", more_jade, InputError, "photos of green are jade to the bundle, and lie among its photos"),
        ("seen", seen, InputError, "is a photo that plum was trained on"),
        ("noise", strangers, QualityError, "of 12 photos of noise, each judged without itself, would be accepted"),
    ):
        with pytest.raises(kind, match=words):
            add_class(bundle, name, folder, out=out)
    with pytest.raises(InputError, match="is a run, and a class is added to a bundle; export it first: oodg"):
        add_class(run, "slate", slate, out=out)
    with pytest.raises(InputError, match=r"--data takes the labelled photos .* does not exist"):
        add_class(bundle, "slate", slate, out=out, data=tmp_path / "nowhere")
    assert list(tmp_path.glob("out*")) == []
    out.mkdir()
    with pytest.raises(InputError, match="exists; choose another --out"):
        add_class(bundle, "slate", slate, out=out)


def test_a_graph_that_does_not_answer_as_its_definition_is_never_written(
    added: ClassAdded, whole: Path, slate: Path, tmp_path: Path
) -> None:
    old, model = load_manifest(whole), onnx.load(whole / GRAPH_FILE)
    heads = HeadParts.read(onnx.load(added.out / GRAPH_FILE))
    wrong = replace(heads, b2=heads.b2 + np.array([0, 0, 0, 0.01], dtype=np.float32))
    assert added.manifest.follows is not None
    new = NewBundle(
        old=old,
        follows=added.manifest.follows,
        version="8",
        graph=rewritten(model, HeadParts.read(model), wrong),
        heads=heads,
        calibration=added.manifest.calibration,
        sources={},
        recalibrations=(),
        bank=Bank.read(added.out / BANK_FILE),
        added=added.manifest.added[-1],
        photos=load_unlabelled(slate),
    )
    with pytest.raises(QualityError, match="differ from PyTorch's"):
        write_bundle(new, whole, tmp_path / "out", report=Silent())
    assert list(tmp_path.iterdir()) == []
    right = replace(new, graph=rewritten(model, HeadParts.read(model), heads))
    assert write_bundle(right, whole, tmp_path / "out", report=Silent()).classes[-1] == "slate"


def test_classes_are_added_one_after_the_other(added: ClassAdded, photos: Path, tmp_path: Path) -> None:
    cerise = drawn(tmp_path / "cerise", (204, 20, 112), 20, seed=9_000)
    found = add_class(added.out, "cerise", cerise, out=tmp_path / "discs-9", data=photos)
    assert found.manifest.classes == (*added.manifest.classes, "cerise")
    assert [one.name for one in found.manifest.added] == ["slate", "cerise"]
    assert HeadParts.read(onnx.load(tmp_path / "discs-9" / GRAPH_FILE)).classes == 5


def test_a_bundle_around_somebody_elses_classifier_keeps_its_labels(bundle: Path, slate: Path, tmp_path: Path) -> None:
    around = shutil.copytree(bundle, tmp_path / "around")
    record = ClassifierRecord(
        file="theirs.onnx",
        sha256="0" * 64,
        producer="",
        opset=18,
        input="x",
        layout="NHWC",
        dtype="uint8",
        batch="dynamic",
        output="p",
        activation="softmax",
        logits="l",
        feature="f",
        width=1280,
    )
    manifest = load_manifest(bundle).model_copy(update={"classifier": record})
    (around / MANIFEST_FILE).write_text(manifest.model_dump_json(), encoding="utf-8")
    with pytest.raises(InputError, match=r"around theirs.onnx, whose labels .* teach that classifier .* wrap it again"):
        add_class(around, "slate", slate, out=tmp_path / "out")
