from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oodguard.core.preprocessing import open_image, to_pixels
from oodguard.evaluation.evaluation import Evaluation
from oodguard.evaluation.evidence import FUSED, Evidence, gather, options_of, prepare
from oodguard.evaluation.shifted import chosen, part, row_of, shift_table
from oodguard.evaluation.shifts import Shift, exposed
from oodguard.training.metrics import share, share_change
from oodguard.training.photos.labelled import Photo, load_photos
from oodguard.training.progress import Silent
from oodguard.training.run import load_run


def test_the_same_photos_are_chosen_in_every_run() -> None:
    photos = [Photo(path=Path(f"{i}"), label="ab"[i % 2], sha256=f"{(7 * i) % 10:064x}") for i in range(10)]
    # a: rows 0, 2, 4, 6, 8 have 0, 4, 8, 2, 6; b: rows 1, 3, 5, 7, 9 have 7, 1, 5, 9, 3.
    assert chosen(photos, 2).tolist() == [0, 3, 6, 9]
    assert chosen(photos, 9).tolist() == list(range(10))
    again = chosen(photos[::-1], 2)
    assert {photos[::-1][row].sha256 for row in again} == {photos[row].sha256 for row in (0, 3, 6, 9)}


def test_a_part_keeps_rows_together(evidence: Evidence) -> None:
    rows = np.array([5, 17, 100])
    found = part(evidence.test, rows)
    assert [photo.path for photo in found.photos] == [evidence.test.photos[row].path for row in rows]
    np.testing.assert_array_equal(found.answers.votes, evidence.test.answers.votes[:, rows])
    np.testing.assert_array_equal(found.values[FUSED], evidence.test.values[FUSED][rows])
    np.testing.assert_array_equal(found.answers.fused(evidence.record.calibration), evidence.test.values[FUSED][rows])


def test_a_row_compares_the_same_photos(evidence: Evidence, found: Evaluation) -> None:
    rows = np.arange(40)
    before, after = part(evidence.test, rows), part(evidence.ood['near "<script>"'], rows)
    row = row_of("dim", "a lamp", before, after, evidence.targets[rows], evidence, found.thresholds)
    flags = [m.values[FUSED] > found.thresholds[FUSED] for m in (before, after)]
    assert row.flagged == share(flags[1])
    assert row.change == share_change(*flags)
    assert 0 < row.change.change == row.flagged.share - flags[0].mean()
    assert row.accuracy.share == np.mean(after.answers.probabilities.argmax(1) == evidence.targets[rows])
    assert row.accuracy_change.change < 0
    right = after.answers.probabilities.argmax(1) == evidence.targets[rows]
    assert row.right_flagged == share(flags[1][right])
    assert set(row.over) == {name.value for name in evidence.record.calibration.names}
    assert row.over["knn"] == np.mean(after.values["knn"] > found.thresholds["knn"])
    assert row.decided.flagged == flags[1].sum()
    back = row_of("light", "", after, before, evidence.targets[rows], evidence, found.thresholds)
    assert back.change.change == -row.change.change


def test_a_run_is_asked_about_the_changed_photos(run: Path) -> None:
    loaded = load_run(run)
    options = options_of(loaded.record)
    evidence = gather(loaded, load_photos(options.data, options.cache), options, {}, Silent(), baselines=False)
    same = Shift("nothing", "nobody", lambda image: image)
    dark = Shift("night", "nobody", lambda image: exposed(image, 0.02))
    table = shift_table(loaded, options, evidence, accept=0.9, report=Silent(), shifts=(same, dark), per_class=4)
    assert (table.per_class, table.classes, table.unshifted.flagged.of) == (4, 3, 12)
    nothing, night = table.shifts
    assert nothing.flagged == table.unshifted.flagged
    assert nothing.change.change == 0.0
    assert nothing.over == pytest.approx(table.unshifted.over)
    assert night.flagged.share == 1.0
    assert night.change.low > 0.5


def test_the_trunk_sees_the_changed_photo_through_the_same_preprocessing(run: Path, tmp_path: Path) -> None:
    loaded = load_run(run)
    options = options_of(loaded.record)
    backbone, extractor = prepare(loaded, options.model_copy(update={"cache": tmp_path}))
    photo = load_photos(options.data, options.cache).test[0]
    half = Shift("half", "nobody", lambda image: exposed(image, 0.5))
    seen: list[np.ndarray] = []

    class Kept:
        name = "kept"

        def __call__(self, pixels: np.ndarray, identity: str) -> np.ndarray:
            seen.append(pixels)
            return pixels

    changed = replace(extractor, arrival=half, alteration=Kept()).extract([photo])
    whole = open_image(photo.path.read_bytes())
    np.testing.assert_array_equal(seen[0], to_pixels(exposed(whole, 0.5), backbone.preprocessing))
    plain = extractor.extract([photo])
    assert not np.array_equal(changed, plain)
    # Neither answers for the other out of the cache.
    np.testing.assert_array_equal(extractor.extract([photo]), plain)
    np.testing.assert_array_equal(replace(extractor, arrival=half, alteration=Kept()).extract([photo]), changed)
    assert len(seen) == 1
