from __future__ import annotations

import numpy as np

from oodguard.evaluation.confusion import confusion_counts, confusion_order, confusions, recalls

CLASSES = ("apple", "leek", "pear", "plum")
TARGETS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
LABELS = np.array([0, 2, 2, 1, 1, 1, 0, 2, 2])


def test_counts_have_true_classes_as_rows() -> None:
    counts = confusion_counts(TARGETS, LABELS, 4)
    assert counts.tolist() == [[1, 1, 2, 0], [0, 2, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]


def test_confusions_by_number_then_name() -> None:
    found = confusions(confusion_counts(TARGETS, LABELS, 4), CLASSES)
    assert [(c.true, c.predicted, c.images, c.of) for c in found] == [
        ("apple", "pear", 2, 4),
        ("apple", "leek", 1, 4),
        ("pear", "apple", 1, 3),
    ]
    assert len(confusions(confusion_counts(TARGETS, LABELS, 4), CLASSES, most=2)) == 2


def test_recall_of_every_class_with_test_images() -> None:
    found = recalls(confusion_counts(TARGETS, LABELS, 4), CLASSES)
    assert {name: (share.share, share.of) for name, share in found.items()} == {
        "apple": (0.25, 4),
        "leek": (1.0, 2),
        "pear": (2 / 3, 3),
    }


def test_confused_classes_stand_side_by_side() -> None:
    counts = np.diag([10, 10, 10, 10, 10, 10])
    counts[0, 4] = counts[4, 0] = 8
    counts[1, 5] = counts[5, 1] = 6
    order = confusion_order(counts)
    assert sorted(order) == list(range(6))
    assert abs(order.index(0) - order.index(4)) == 1
    assert abs(order.index(1) - order.index(5)) == 1
    assert confusion_order(counts[:2, :2]) == [0, 1]
