from __future__ import annotations

import numpy as np
import pytest

from oodguard.training.photos.label_suspects import SUSPECT, label_opinion

CLASSES = 5


def drawn(count: int = 400, *, seed: int = 0, spread: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Features around a direction for each class, and the true classes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, 32))
    truth = np.arange(count) % CLASSES
    return (centres[truth] + spread * rng.normal(size=(count, 32))).astype(np.float32), truth


def wronged(truth: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    labels = truth.copy()
    labels[wrong] = (labels[wrong] + 1 + wrong % (CLASSES - 1)) % CLASSES
    return labels


@pytest.mark.parametrize("seed", range(3))
def test_wrong_labels_come_first_with_their_true_class(seed: int) -> None:
    features, truth = drawn(seed=seed)
    wrong = np.random.default_rng(seed).choice(len(truth), 12, replace=False)
    found = label_opinion(features, wronged(truth, wrong), np.arange(len(truth)))
    assert found is not None
    assert len(set(wrong) & set(found.suspects[:14].tolist())) >= 11
    assert np.mean(found.taken_for[wrong] == truth[wrong]) > 0.9
    assert len(found.suspects) < 3 * len(wrong)


def test_the_score_is_half_where_the_label_is_the_most_likely_class() -> None:
    features, truth = drawn()
    found = label_opinion(features, truth, np.arange(len(truth)))
    assert found is not None
    own = found.probabilities[np.arange(len(truth)), truth]
    agreed = found.taken_for == truth
    assert agreed.mean() > 0.95
    np.testing.assert_allclose(found.scores[agreed], 0.5)
    np.testing.assert_allclose(found.probabilities.sum(1), 1.0)
    most = found.probabilities.max(1)
    np.testing.assert_allclose(found.scores, most / (most + own))
    assert (found.scores[found.suspects] >= SUSPECT).all()
    assert (np.diff(found.scores[found.suspects]) <= 0).all()


def test_copies_do_not_vouch_for_each_other() -> None:
    """Ten copies of one photo under a wrong label: together in one part, none of them can say that it is right."""
    features, truth = drawn(200)
    copies = np.repeat(features[:1], 10, axis=0)
    labels = np.concatenate([truth, np.full(10, (truth[0] + 1) % CLASSES)])
    everything = np.concatenate([features, copies])
    alone = np.arange(len(labels))
    together = alone.copy()
    together[200:] = 0
    trusting, careful = (label_opinion(everything, labels, groups) for groups in (alone, together))
    assert trusting is not None
    assert careful is not None
    assert trusting.taken_for[205] == labels[205]
    assert careful.taken_for[205] == truth[0]
    assert careful.scores[205] > 0.95


def test_the_nearest_of_the_other_class_is_no_copy() -> None:
    features, truth = drawn(100)
    labels = wronged(truth, np.array([3]))
    groups = np.arange(100)
    features[8] = features[3]  # the same picture under its own label
    groups[8] = 3
    found = label_opinion(features, labels, groups)
    assert found is not None
    nearest = int(found.nearest[3])
    assert labels[nearest] == truth[3]
    assert nearest != 8


def test_nothing_is_said_where_a_class_is_one_picture() -> None:
    features, truth = drawn(20)
    groups = np.arange(20)
    groups[truth == 2] = 2
    assert label_opinion(features, truth, groups) is None
    assert label_opinion(features, np.zeros(20, dtype=np.int64), np.arange(20)) is None


def test_the_same_seed_gives_the_same_opinion() -> None:
    features, truth = drawn(100)
    first, second = (label_opinion(features, truth, np.arange(100), seed=4) for _ in range(2))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
