"""Labels that look wrong: what two classifiers say of each photo without having seen it, or a copy of it.

Both work on the frozen feature, which saw no label of the set. Logistic regression on its first principal components
predicts each part of the photos from the others (copies together, so that a wrongly labelled photo has no copy that
vouches for it); a vote of the nearest photos, weighed by nearness, knows what no hyperplane separates. Their
probabilities are joined by a geometric mean. A photo is suspect by how much more likely another class is than its own:

    score = max_k p_k / (max_k p_k + p_label), from 0.5

docs/CHECK.md has what that finds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# From this score up a label is suspect: another class is four times as likely.
SUSPECT = 0.8
FOLDS = 5
COMPONENTS = 128
NEIGHBOURS = 20
# Weight of a neighbour: exp(SHARPNESS * cosine).
SHARPNESS = 20.0
# What the vote gives every class, so that none is impossible.
FLOOR = 0.01
_ROWS = 1024


@dataclass(frozen=True)
class LabelOpinion:
    """What photos are taken for by classifiers that did not see them, `[N, C]` probabilities, and their labels `[N]`.

    nearest: for each photo the row of the nearest photo of the class that it is taken for, which is no copy of it.
    """

    probabilities: Floats
    labels: Integers
    nearest: Integers

    @property
    def taken_for(self) -> Integers:
        """The most likely class of each photo, `[N]`."""
        found: Integers = self.probabilities.argmax(1)
        return found

    @property
    def scores(self) -> Floats:
        """How suspect each label is, `[N]`: 0.5 where no class is more likely than the label, up to 1."""
        own = self.probabilities[np.arange(len(self.labels)), self.labels]
        most = self.probabilities.max(1)
        found: Floats = most / np.maximum(most + own, 1e-12)
        return found

    @property
    def suspects(self) -> Integers:
        """Rows of suspect labels, the most suspect first."""
        scores = self.scores
        order = np.argsort(-scores, kind="stable")
        return order[scores[order] >= SUSPECT]


def label_opinion(
    features: npt.NDArray[np.float32], labels: Integers, groups: Integers, *, seed: int = 0
) -> LabelOpinion | None:
    """The opinion on N photos with frozen features `[N, D]` and labels `[N]` that number C classes from 0.

    groups `[N]`: photos of one group are copies of each other. None where a class has fewer than two groups, or there
    is one class. Deterministic for a seed.
    """
    classes = int(labels.max(initial=0)) + 1
    sizes = [len(np.unique(groups[labels == c])) for c in range(classes)]
    if classes < 2 or min(sizes) < 2:
        return None
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    vote, nearest = _vote(unit, labels, groups, classes)
    joint = np.sqrt(_regression(unit, labels, groups, classes, seed) * vote)
    joint /= joint.sum(1, keepdims=True)
    return LabelOpinion(
        probabilities=joint,
        labels=labels,
        nearest=nearest[np.arange(len(labels)), joint.argmax(1)],
    )


def _regression(unit: npt.NDArray[np.float32], labels: Integers, groups: Integers, classes: int, seed: int) -> Floats:
    """Out-of-fold probabilities `[N, C]` by logistic regression."""
    width = min(COMPONENTS, *unit.shape)
    reduced = PCA(width, svd_solver="randomized", random_state=seed).fit_transform(unit)
    reduced /= max(float(np.sqrt(np.square(reduced).sum(1).mean())), 1e-12)
    found = np.full((len(labels), classes), FLOOR / classes)
    folds = min(FOLDS, min(len(np.unique(groups[labels == c])) for c in range(classes)))
    for rest, part in StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(reduced, labels, groups):
        known = np.unique(labels[rest])
        if len(known) < 2:
            continue
        model = LogisticRegression(max_iter=200, tol=1e-3).fit(reduced[rest], labels[rest])
        found[np.ix_(part, known)] = model.predict_proba(reduced[part])
    return np.asarray(np.clip(found, 1e-9, None), dtype=np.float64)


def _vote(unit: npt.NDArray[np.float32], labels: Integers, groups: Integers, classes: int) -> tuple[Floats, Integers]:
    """The vote `[N, C]` of the nearest photos that are no copies, and the nearest of each class, `[N, C]` rows."""
    count = min(NEIGHBOURS, len(unit) - 1)
    votes = np.zeros((len(unit), classes))
    nearest = np.zeros((len(unit), classes), dtype=np.int64)
    members = [np.flatnonzero(labels == c) for c in range(classes)]
    for start in range(0, len(unit), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(unit)))
        likeness = unit[rows] @ unit.T
        likeness[groups[rows, None] == groups[None, :]] = -1.0
        near = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        cosines = np.take_along_axis(likeness, near, axis=1).astype(np.float64)
        weights = np.exp(SHARPNESS * (cosines - cosines.max(1, keepdims=True)))
        for c in range(classes):
            votes[rows, c] = (weights * (labels[near] == c)).sum(1) / weights.sum(1)
            nearest[rows, c] = members[c][likeness[:, members[c]].argmax(1)]
    return (votes + FLOOR) / (1.0 + classes * FLOOR), nearest
