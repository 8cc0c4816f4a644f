from __future__ import annotations

from pathlib import Path

import numpy as np

from oodguard.core.grey_levels import GreyLevels
from oodguard.training.photos.faults import fault_lines, photo_faults
from oodguard.training.photos.labelled import Photo, Photos
from oodguard.training.record import Duplicates, PhotoFaults
from tests.training.photos.test_label_suspects import drawn, wronged


def test_counts_copies_and_labels_of_known_photos() -> None:
    features, truth = drawn(100)
    labels = wronged(truth, np.array([7]))
    shas = [str(row) for row in range(100)]
    shas[10] = shas[5]  # both of class 0
    features[10] = features[5]
    shas[21] = shas[4]  # of classes 1 and 4
    features[21] = features[4]
    pool = [Photo(Path(f"{c}/{i}.jpg"), str(c), sha) for i, (c, sha) in enumerate(zip(labels, shas, strict=True))]
    photos = Photos(pool=tuple(pool), test=(), left_out={"copy": 2, "label": 1})
    found = photo_faults(photos, pool, features, labels)
    assert (found.smallest, found.largest) == (19, 21)
    assert (found.copies, found.copies_across) == (1, 1)
    assert f"{labels[7]}/7.jpg" in found.first_labels
    assert found.labels == len(found.first_labels) < 8
    assert found.left_out == {"copy": 2, "label": 1}


def test_the_three_lines() -> None:
    clean = PhotoFaults(smallest=45, largest=1420, copies=0, copies_across=0, labels=0)
    assert fault_lines(clean, Path("photos"), unreadable=0) == (
        "photos: 45 to 1,420 in a class, 0 unreadable",
        "copies: 0 files are in their class twice, 0 in two classes",
        "labels: none looks wrong",
    )
    faulty = clean.model_copy(
        update={"copies": 15, "labels": 60, "first_labels": ("a/\x1b.jpg",), "left_out": {"copy": 2, "label": 1}}
    )
    first, second, third = fault_lines(faulty, Path("photos"), unreadable=4)
    assert first == "photos: 45 to 1,420 in a class, 4 unreadable; --exclude left out 3 (2 copy, 1 label)"
    assert second.startswith("copies: 15 files")
    assert third == "labels: 60 look wrong, the first: a/\\x1b.jpg; see them: oodguard check photos"


def test_what_makes_figures_false_has_a_line_of_its_own() -> None:
    faulty = PhotoFaults(
        smallest=4,
        largest=9,
        copies=0,
        copies_across=0,
        labels=0,
        duplicates=Duplicates(
            action="report", leaked=1, contested=0, contested_files=0, first_leaked=(("a/1.jpg", "test/a/\x1b.jpg"),)
        ),
        grey_levels=GreyLevels(images=60, levels=11, lowest=0, highest=10),
    )
    *_, leaks, grey = fault_lines(faulty, Path("photos"), unreadable=0)
    assert leaks == (
        "leaks: 1 photo to learn from is among the test photos, too (a/1.jpg is test/a/\\x1b.jpg): accuracy on test "
        "photos is too high by that; give --on-duplicate drop"
    )
    assert grey.startswith("warning: 60 images looked at have 11 grey levels together, from 0 to 10 of 0 to 255: ")
