"""A run on photos some of which were left out: the record and three lines say so."""

from __future__ import annotations

from pathlib import Path

from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from oodguard.training.progress import Silent
from tests.training.photos.test_check import make_messy


class Lines(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_run_counts_what_was_left_out_and_says_what_is_wrong_with_the_rest(tmp_path: Path, cache: Path) -> None:
    data = make_messy(tmp_path / "photos")
    listed = tmp_path / "suspects.csv"
    listed.write_text(
        "path,kind,keep\njade/wrong-1.png,label,\nplum/wrong-2.png,label,x\namber/05 copy.png,copy,\n"
        "amber/dark.png,dark,\namber/empty.jpg,unreadable,\n",
        encoding="utf-8",
    )
    options = TrainOptions(
        data=data, cache=cache, image_size=64, views=0, fine_tune=False, epochs=2, hidden=16, check_folds=0,
        out_of_fold=0, calibration_fraction=0.33, exclude=listed, exclude_kinds="label,copies,unreadable",
        on_duplicate="report",
    )  # fmt: skip
    report = Lines()
    record = train(options, tmp_path / "run", report=report)
    faults = record.faults
    assert faults is not None
    assert faults.left_out == {"label": 1, "copy": 1, "unreadable": 1}
    assert (faults.smallest, faults.largest, faults.copies, faults.copies_across) == (22, 43, 0, 1)
    assert faults.labels is not None
    assert "plum/03 again.png" in faults.first_labels
    assert faults.labels == len(faults.first_labels) < 6
    splits = record.splits
    assert splits.train + splits.calibration + splits.test == 98 - 2
    assert len(splits.unreadable) == 3
    lines = [note for note in report.notes if note.startswith(("photos:", "copies:", "labels:"))]
    assert lines == [
        "labels: 1 of 102 photos (1.0%) are left out because their label looks wrong; where labels are good these are "
        "the photos that are hard, so look at them in check.html and write into keep beside good ones",
        "photos: 22 to 43 in a class, 3 unreadable; --exclude left out 3 (1 label, 1 copy, 1 unreadable)",
        "copies: 0 files are in their class twice, 1 in two classes",
        f"labels: {faults.labels} look wrong, the first: {faults.first_labels[0]}; see them: oodguard check {data}",
    ]
