"""Every post-hoc score of a trained classifier by name: what is fitted on its own images, and then scores others.

To add one, write a module of this folder and list it here; a test fails for a module that nothing lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from oodguard.bench.baselines import cadref, fdbd, kl_matching, nci, nnguide, pnml, relation, she
from oodguard.bench.baselines.ash import ash_b, ash_p, ash_s
from oodguard.bench.baselines.class_gaussians import class_gaussians
from oodguard.bench.baselines.gen import gen
from oodguard.bench.baselines.post_hoc import Embedded, Fit, LearnedClassifier, Score
from oodguard.bench.baselines.react import clipped, fit_clip
from oodguard.bench.baselines.scale import scaled
from oodguard.bench.baselines.softmax import max_logit, max_softmax
from oodguard.bench.baselines.vim import Vim
from oodguard.bench.baselines.vra import fit_bounds, rectified
from oodguard.training.heads.scores import energy


def _of_logits(function: Callable[[Tensor], Tensor]) -> Fit:
    """A score of the logits alone."""
    return lambda learned: lambda images: function(images.logits)


def _shaped(shape: Callable[[Tensor], Tensor]) -> Fit:
    """The energy of the last layer over embeddings of another shape."""
    return lambda learned: lambda images: energy(learned.logits(shape(images.embeddings)))


def _temperature(learned: LearnedClassifier) -> Score:
    return lambda images: max_softmax(images.logits / learned.temperature)


def _react(learned: LearnedClassifier) -> Score:
    clip = fit_clip(learned.training.embeddings)
    return _shaped(lambda embeddings: clipped(embeddings, clip))(learned)


def _vra(learned: LearnedClassifier) -> Score:
    bounds = fit_bounds(learned.training.embeddings)
    return _shaped(lambda embeddings: rectified(embeddings, bounds))(learned)


def _vim(learned: LearnedClassifier) -> Score:
    fitted = Vim.fit(learned.training.embeddings, learned.head)

    def score(images: Embedded) -> Tensor:
        return fitted.score(images.embeddings, images.logits)

    return score


# Scores of logits `[B, C]` that have nothing to fit.
OF_LOGITS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "max_softmax": max_softmax,
    "max_logit": max_logit,
    "energy": energy,
    "gen": gen,
}

POST_HOC: Mapping[str, Fit] = {
    **{name: _of_logits(function) for name, function in OF_LOGITS.items()},
    "temperature": _temperature,
    "kl_matching": kl_matching.fit,
    "react": _react,
    "vra": _vra,
    "ash_p": _shaped(ash_p),
    "ash_b": _shaped(ash_b),
    "ash_s": _shaped(ash_s),
    "scale": _shaped(scaled),
    "she": she.fit,
    "fdbd": fdbd.fit,
    "nci": nci.fit,
    "cadref": cadref.fit,
    "pnml": pnml.fit,
    "nnguide": nnguide.fit,
    "relation": relation.fit,
    "vim": _vim,
    "mahalanobis_full": class_gaussians(unit=False, relative=False),
    "mahalanobis_relative": class_gaussians(unit=False, relative=True),
    "mahalanobis_pp": class_gaussians(unit=True, relative=False),
    "mahalanobis_pp_relative": class_gaussians(unit=True, relative=True),
}
