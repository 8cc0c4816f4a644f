"""`add_class`: one more class for a bundle from a few photos, on its own feature, without training."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from sklearn.model_selection import GroupKFold

import oodguard
from oodguard.core.added import AddedClass
from oodguard.core.bank import BANK_FILE, Bank
from oodguard.core.calibration import MIN_CALIBRATION, Calibration
from oodguard.core.errors import InputError, QualityError
from oodguard.core.files import file_sha256
from oodguard.core.lineage import next_version, versions_beside
from oodguard.core.manifest import MANIFEST_FILE, Manifest, load_manifest, reference_of
from oodguard.core.preprocessing import Pixels, load_pixels
from oodguard.core.provenance import NAME, Recalibration
from oodguard.core.scores import CERTIFIED, ScoreName
from oodguard.core.text import readable, visible
from oodguard.core.verdict import Outputs
from oodguard.evaluation.paired import PairedShare
from oodguard.export.added_bundle import NewBundle, write_bundle
from oodguard.export.class_calibration import movement, with_class_calibrated
from oodguard.export.class_photos import NewPhotos, OpenedGraph, Seen, new_photos, old_photos
from oodguard.export.head_parts import FeatureRows, HeadParts, rewritten
from oodguard.export.new_class import with_class
from oodguard.training.metrics import Share, share
from oodguard.training.options import FolderOptions
from oodguard.training.photos.division import label_numbers
from oodguard.training.photos.labelled import Photo
from oodguard.training.photos.split import near_duplicate_groups
from oodguard.training.progress import Reporter, Silent
from oodguard.training.record import RECORD_FILE

FOLDS = 5
# Where at least so many new photos are given to one class and accepted, it may be theirs.
MOSTLY = 0.5
LONGEST_NAME = 100


@dataclass(frozen=True)
class ClassAdded:
    """The new bundle, and what adding the class cost.

    right, passing: of the new class's photos, each judged without itself, those that get their label, and those
    accepted with it. before: the share of them that the old bundle flagged. accuracy, accepted: of photos of the old
    classes by the old and by the new bundle. measured: whether these are photos that trained nothing; else they are the
    bank's, which flatters both, and nothing is known of what is accepted. calibrated: on how many photos the thresholds
    were set anew; 0: they stay.
    """

    out: Path
    manifest: Manifest
    photos: NewPhotos
    right: Share
    passing: Share
    before: Share
    measured: bool
    accuracy: PairedShare
    accepted: PairedShare | None
    calibrated: int


def add_class(
    bundle: Path,
    name: str,
    folder: Path,
    *,
    out: Path,
    data: Path | None = None,
    version: str | None = None,
    report: Reporter | None = None,
) -> ClassAdded:
    """Write a bundle that knows one more class: `name`, from the photos in `folder`.

    ```python
    add_class(Path("bundles/photos"), "quince", Path("quince"), out=Path("bundles/photos-2"), data=Path("photos"))
    ```

    data: the labelled photos of the run; those that trained nothing set the thresholds anew and say what the old
    classes lose. The new class sets no threshold: where its photos lie far out, that would let strangers in.

    Raises `InputError` and `FormatError` for what the user can mend, and `QualityError` where the graph does not answer
    as its definition does, or where few of the new photos, each judged without itself, are accepted with their
    label. A bundle appears at `out` complete or not at all.
    """
    with tempfile.TemporaryDirectory(prefix="oodguard-") as cache:
        return _added(bundle, name, folder, Path(cache), out=out, data=data, version=version, report=report or Silent())


def _added(
    bundle: Path,
    name: str,
    folder: Path,
    cache: Path,
    *,
    out: Path,
    data: Path | None,
    version: str | None,
    report: Reporter,
) -> ClassAdded:
    """As `add_class`; cache: where photos are unpacked to."""
    manifest, text = _bundle(bundle, name, out)
    if version is not None and not re.fullmatch(NAME, version):
        raise InputError("--model-version takes letters, digits, dots, hyphens and underscores, at most 64")
    chosen = version or next_version([manifest.version, *versions_beside(out, manifest.name, record=MANIFEST_FILE)])
    bank = Bank.read(bundle / BANK_FILE)
    photos = new_photos(folder, name=name, bank=bank, classes=manifest.classes)
    provenance = manifest.provenance
    known = None
    if data is not None:
        known = old_photos(
            data,
            cache,
            bank=bank,
            classes=manifest.classes,
            trained=provenance.train_images,
            cross_fitted=bool(provenance.options.get("cross_fit")),
            rules=FolderOptions.of(provenance.options).folder_rules,
            out={photo.sha256 for photo in photos.photos},
        )
    model = onnx.load(bundle / manifest.graph)
    work = _Work(manifest, bank, OpenedGraph(model, manifest.preprocessing), HeadParts.read(model), report)
    real = [bundle / one.path for one in manifest.golden if one.exact]
    golden = np.stack([load_pixels(path.read_bytes(), manifest.preprocessing) for path in real])
    work.look(golden, photos, name)
    unseen = work.out_of_fold()
    heads = work.heads(np.arange(len(work.new.photos)))
    calibration, other = manifest.calibration, manifest.sources
    seen = None if known is None else work.see(known.calibration, "photos to set thresholds with")
    test = None if known is None else work.see(known.test, "photos to measure with")
    number = len(manifest.classes)
    given: tuple[Outputs, npt.NDArray[np.int64]] | None = None
    if seen is not None and len(seen.photos) >= MIN_CALIBRATION:
        given = heads.answers(seen.rows, manifest.score_names), label_numbers(seen.photos, manifest.classes)
    moved = work.moved(heads)
    try:
        after = with_class_calibrated(calibration, classes=number, moved=moved, photos=given)
        limits = after.thresholds(manifest.targets.accept, confidence=manifest.targets.confidence)
    except ValueError as error:
        raise InputError(f"{error}; give more photos in --data, or leave it out to keep the thresholds") from None
    sources = {key: with_class_calibrated(one, classes=number, moved=moved, photos=None) for key, one in other.items()}
    is_right = unseen.probabilities.argmax(1) == number
    passes = after.fused(unseen) <= limits.fused
    if (is_right & passes).mean() < MOSTLY:
        passed = int((is_right & passes).sum())
        raise QualityError(
            f"{passed} of {len(passes)} photos of {readable(name)}, each judged without itself, would be accepted with "
            "that label, so nothing was written; give --data, which sets thresholds anew, or more photos, or add them "
            f"to the others in a folder {readable(name)} and train again"
        )
    accept = manifest.targets.accept
    accuracy, accepted = work.old_classes(heads, after, test, accept=accept)
    added = AddedClass(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        oodguard=oodguard.__version__,
        photos=len(work.new.photos),
        right=float(is_right.mean()),
        passing=float((is_right & passes).mean()),
        calibrated=len(given[1]) if given is not None else None,
        max_error=0.0,
        from_version=manifest.version,
        from_sha256=file_sha256(bundle / MANIFEST_FILE),
    )
    recalibrations = manifest.recalibrations
    if given is not None:
        done = Recalibration(
            source=None,
            created=added.created,
            oodguard=added.oodguard,
            images=len(given[1]),
            labelled=True,
            from_version=added.from_version,
            from_sha256=added.from_sha256,
        )
        recalibrations = (*(one for one in recalibrations if one.source is not None), done)
    new = NewBundle(
        old=manifest,
        follows=reference_of(manifest, text),
        version=chosen,
        graph=rewritten(model, work.old, heads),
        heads=heads,
        calibration=after,
        sources=sources,
        recalibrations=recalibrations,
        bank=Bank(
            class_indices=(*bank.class_indices, *(number for _ in work.new.photos)),
            sha256=(*bank.sha256, *(photo.sha256 for photo in work.new.photos)),
        ),
        added=added,
        photos=work.new.photos,
    )
    made = write_bundle(new, bundle, out, report=report)
    was = (
        calibration.fused(work.new.outputs)
        > calibration.thresholds(accept, confidence=manifest.targets.confidence).fused
    )
    return ClassAdded(
        out=out,
        manifest=made,
        photos=photos,
        right=share(is_right),
        passing=share(is_right & passes),
        before=share(was),
        measured=test is not None,
        accuracy=accuracy,
        accepted=accepted,
        calibrated=added.calibrated or 0,
    )


def _bundle(bundle: Path, name: str, out: Path) -> tuple[Manifest, bytes]:
    """The manifest of a bundle that a class can be added to, and its text. Raises `InputError` and `FormatError`."""
    if (bundle / RECORD_FILE).is_file() and not (bundle / MANIFEST_FILE).is_file():
        raise InputError(
            f"{bundle} is a run, and a class is added to a bundle; export it first: oodguard export {bundle} --out "
            f"bundles/{bundle.resolve().name}"
        )
    manifest = load_manifest(bundle)
    if manifest.classifier is not None:
        raise InputError(
            f"{bundle} is around {manifest.classifier.file}, whose labels and probabilities are its own; teach that "
            "classifier the class, and wrap it again with oodguard wrap"
        )
    if CERTIFIED.name in manifest.score_names:
        raise InputError(
            f"{bundle} has a certified head, whose radius holds for the classes that it was trained on; add the photos "
            f"to the others in a folder {readable(name)} and train again"
        )
    if manifest.bank is None:
        raise InputError(f"{bundle} does not name the photos of its bank; export its run again")
    if not name.strip() or visible(name) != name or "/" in name or len(name) > LONGEST_NAME:
        raise InputError(
            f"a class is called as its folder is, in at most {LONGEST_NAME} characters; got {name[:200]!r}"
        )
    if name in manifest.classes:
        raise InputError(
            f"{bundle} knows {name} already; to give it more photos, add them to its folder and train again"
        )
    if out.exists():
        raise InputError(f"{out} exists; choose another --out, such as one beside {bundle}")
    return manifest, (bundle / MANIFEST_FILE).read_bytes()


class _Work:
    """What is known of a bundle and of the new photos while a class is added."""

    new: Seen
    bank_rows: FeatureRows
    groups: npt.NDArray[np.int64]

    def __init__(self, manifest: Manifest, bank: Bank, graph: OpenedGraph, old: HeadParts, report: Reporter) -> None:
        self.manifest, self.bank, self.graph, self.old, self.report = manifest, bank, graph, old, report
        self.smoothing = float(manifest.provenance.options.get("label_smoothing") or 0.0)

    def see(self, photos: tuple[Photo, ...], stage: str) -> Seen:
        """Photos through the graph."""
        return self.graph.see(photos, lambda done, total: self.report.progress(stage, done, total))

    def look(self, golden: Pixels, photos: NewPhotos, name: str) -> None:
        """The new photos through the graph, and the bank's features. Raises `InputError` for photos of an old class."""
        feature = self.graph.run(golden)[0].feature
        self.bank_rows = self.graph.of_bank(self.old, length=float(np.linalg.norm(feature, axis=1).mean()))
        self.new = self.see(photos.photos, "photos of the new class")
        self._require_new(name)
        features = np.concatenate([self.bank_rows.feature, self.new.rows.feature])
        labels = np.append(self.bank.class_indices, np.full(len(self.new.photos), len(self.manifest.classes)))
        self.groups = near_duplicate_groups(features, labels.astype(np.int64))[len(self.bank) :]

    def _require_new(self, name: str) -> None:
        """Refuse photos that the bundle takes for one class and that lie among its photos, not apart from them.

        Where new photos and a class are alike, the nearest other photo of a new one is of that class as often as the
        class has photos: n of n + m - 1, with m new photos. Half of that is taken to be alike.
        """
        outputs, count = self.new.outputs, len(self.new.photos)
        passed = self.manifest.calibration.flagged(outputs, accept=self.manifest.targets.accept) == 0
        given = outputs.probabilities.argmax(1)
        label = int(np.bincount(given).argmax())
        of_class = np.asarray(self.bank.class_indices) == label
        if ((given == label) & passed).mean() < MOSTLY:
            return
        hidden = self.old.hidden(self.new.rows)
        to_class = _distances(hidden.q, self.old.bank[of_class]).min(1)
        among = _distances(hidden.q, hidden.q)
        np.fill_diagonal(among, np.inf)
        expected = of_class.sum() / (of_class.sum() + count - 1)
        if (to_class < among.min(1)).mean() < expected / 2.0:
            return
        known = self.manifest.classes[label]
        raise InputError(
            f"{int(((given == label) & passed).sum())} of the {count} photos of {readable(name)} are {readable(known)} "
            f"to the bundle, and lie among its photos; add them to the folder {readable(known)} and train again"
        )

    def heads(self, chosen: npt.NDArray[np.int64]) -> HeadParts:
        """The heads with the new class from some of its photos."""
        known, new = self.old.hidden(self.bank_rows), self.old.hidden(self.new.rows.rows(chosen))
        return with_class(self.old, known, new, smoothing=self.smoothing)

    def out_of_fold(self) -> Outputs:
        """What heads say of the new photos that were fitted without them; near-duplicates are left out together."""
        count = len(np.unique(self.groups))
        if count < 2:
            raise InputError("all photos show one scene; add photos of the class that were taken elsewhere")
        parts, places = [], []
        splitter = GroupKFold(min(FOLDS, count))
        for done, (rest, held) in enumerate(splitter.split(self.groups, groups=self.groups)):
            parts.append(self.heads(rest).answers(self.new.rows.rows(held), self.manifest.score_names))
            places.append(held)
            self.report.progress("judging new photos without themselves", done + 1, splitter.n_splits)
        order = np.argsort(np.concatenate(places))
        whole = parts[0]
        for part in parts[1:]:
            whole = _joined(whole, part)
        return whole.rows(order)

    def moved(self, heads: HeadParts) -> dict[ScoreName, float]:
        """By how much each score of the bank's photos moves."""
        names = self.manifest.score_names
        return movement(names, self.old.answers(self.bank_rows, names), heads.answers(self.bank_rows, names))

    def old_classes(
        self, heads: HeadParts, after: Calibration, test: Seen | None, *, accept: float
    ) -> tuple[PairedShare, PairedShare | None]:
        """Accuracy and acceptance of the old classes' photos, before and after: of `test`, or of the bank."""
        names, before = self.manifest.score_names, self.manifest.calibration
        rows = self.bank_rows if test is None else test.rows
        targets = np.asarray(self.bank.class_indices)
        if test is not None:
            targets = label_numbers(test.photos, self.manifest.classes)
        then = self.old.answers(rows, names) if test is None else test.outputs
        now = heads.answers(rows, names)
        groups = near_duplicate_groups(rows.feature, targets)
        accuracy = PairedShare.of(
            then.probabilities.argmax(1) == targets, now.probabilities.argmax(1) == targets, groups
        )
        if test is None:
            return accuracy, None
        confidence = self.manifest.targets.confidence

        def passed(by: Calibration, found: Outputs) -> npt.NDArray[np.bool_]:
            return np.asarray(by.fused(found) <= by.thresholds(accept, confidence=confidence).fused)

        return accuracy, PairedShare.of(passed(before, then), passed(after, now), groups)


def _distances(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    difference = left[:, None].astype(np.float64) - right[None]
    return np.asarray(np.square(difference).sum(-1))


def _joined(one: Outputs, other: Outputs) -> Outputs:
    return Outputs(
        probabilities=np.concatenate([one.probabilities, other.probabilities]),
        scores=np.concatenate([one.scores, other.scores]),
    )
