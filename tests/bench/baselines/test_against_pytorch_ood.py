"""The post-hoc scores against another library's, on the same logits and features. Each difference is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytorch_ood import detector as theirs
from torch import Tensor, nn

from oodguard.bench.baselines import ash, scale
from oodguard.bench.baselines.catalogue import POST_HOC
from oodguard.bench.baselines.class_gaussians import class_gaussians
from oodguard.bench.baselines.gen import gen
from oodguard.bench.baselines.post_hoc import Embedded, Fit, LearnedClassifier
from oodguard.training.heads.scores import energy

CLASSES, WIDTH, IMAGES = 6, 20, 400


class Case:
    """A classifier of ReLU embeddings, trained well enough that every class is predicted right somewhere."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.targets = torch.arange(IMAGES) % CLASSES
        centres = 2.0 * torch.randn(CLASSES, WIDTH, generator=generator)
        self.head = nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            self.head.weight.copy_(centres / 4.0)
            self.head.bias.copy_(0.1 * torch.randn(CLASSES, generator=generator))
        noise = torch.randn(IMAGES, WIDTH, generator=generator)
        self.training = self.embedded((centres[self.targets] + noise).relu())
        self.calibration = self.embedded((centres[self.targets[:90]] + noise[-90:].flip(0)).relu())
        # Of the classes, between them, and of none.
        known = (centres[self.targets[:40]] + noise[200:240]).relu()
        strange = 3.0 * torch.randn(60, WIDTH, generator=generator).relu()
        between = (centres[:2].mean(0) + noise[:30]).relu()
        self.images = self.embedded(torch.cat([known, between, strange]))

    @torch.no_grad()
    def embedded(self, embeddings: Tensor) -> Embedded:
        return Embedded(embeddings=embeddings, logits=self.head(embeddings), features=embeddings)

    @property
    def learned(self) -> LearnedClassifier:
        return LearnedClassifier(
            head=self.head,
            training=self.training,
            targets=self.targets,
            calibration=self.calibration,
            calibration_targets=self.targets[:90],
        )

    @torch.no_grad()
    def ours(self, fit: str | Fit) -> Tensor:
        score = (POST_HOC[fit] if isinstance(fit, str) else fit)(self.learned)
        return score(self.images)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def as_maps(embeddings: Tensor) -> Tensor:
    """Their shaping works on maps: of one pixel each."""
    return embeddings[:, :, None, None]


def close(ours: Tensor, other: Tensor, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    assert ours.std() > 1e-3, "a score that does not tell images apart proves nothing"
    torch.testing.assert_close(ours, other.float(), rtol=rtol, atol=atol)


def test_scores_of_logits(case: Case) -> None:
    logits = case.images.logits
    # Theirs is 1 - max p with the sign of max p.
    close(case.ours("max_softmax"), 1.0 + theirs.MaxSoftmax.score(logits))
    close(case.ours("max_logit"), theirs.MaxLogit.score(logits))
    close(case.ours("energy"), theirs.EnergyBased.score(logits))


def test_gen_is_a_sum_where_theirs_is_a_mean(case: Case) -> None:
    # Theirs clamps p to [1e-7, 1 - 1e-7], whose 0.1-th power is 0.2.
    logits = 0.2 * case.images.logits
    assert logits.softmax(-1).amin() > 1e-6
    close(gen(logits), CLASSES * theirs.GEN(None).predict_logits(logits))


def test_kl_matching(case: Case) -> None:
    other = theirs.KLMatching(None).fit_logits(case.calibration.logits, case.targets[:90])
    close(case.ours("kl_matching"), other.predict_logits(case.images.logits))


def test_react_and_vim(case: Case) -> None:
    react = theirs.ReAct(None, lambda maps: case.head(maps.flatten(1)), percentile=0.9)  # type: ignore[arg-type]
    react.fit_feature_maps(as_maps(case.training.embeddings), case.targets)
    close(case.ours("react"), react.predict_feature_maps(as_maps(case.images.embeddings)))


def test_vra_cuts_what_theirs_lifts(case: Case) -> None:
    """The paper sets low activations to 0, as we do; theirs lifts them to the threshold, which is each coordinate's."""
    ours = case.ours("vra")
    low, high = (torch.quantile(case.training.embeddings, share) for share in (0.6, 0.95))
    h = case.images.embeddings
    close(ours, energy(case.head(torch.where(h < low, torch.zeros_like(h), h.minimum(high)))).detach())
    other = theirs.VRA(None, lambda maps: case.head(maps.flatten(1)), 0.0, 0.95)  # type: ignore[arg-type]
    other.fit_feature_maps(as_maps(case.training.embeddings), case.targets)
    assert torch.corrcoef(torch.stack([ours, other.predict_feature_maps(as_maps(h))]))[0, 1] > 0.8


@pytest.mark.parametrize(
    ("shape", "variant"), [(ash.ash_p, "ash-p"), (ash.ash_b, "ash-b"), (ash.ash_s, "ash-s"), (scale.scaled, "scale")]
)
@pytest.mark.parametrize("pruned", [0.65, 0.9])
def test_shaping(case: Case, shape: Callable[[Tensor, float], Tensor], variant: str, pruned: float) -> None:
    def head(maps: Tensor) -> Tensor:
        return case.head(maps.flatten(1))

    other = (
        theirs.SCALE(None, head, percentile=pruned)  # type: ignore[arg-type]
        if variant == "scale"
        else theirs.ASH(None, head, variant=variant, percentile=pruned)  # type: ignore[arg-type]
    )
    with torch.no_grad():
        ours = energy(case.head(shape(case.images.embeddings, pruned)))
        close(ours, other.predict_feature_maps(as_maps(case.images.embeddings)))


def test_she(case: Case) -> None:
    other = theirs.SHE(nn.Identity(), case.head).fit_features(case.training.embeddings, case.targets)
    close(case.ours("she"), other.predict_features(case.images.embeddings))


def test_fdbd(case: Case) -> None:
    other = theirs.fDBD(nn.Identity(), case.head).fit_features(case.training.embeddings)
    close(case.ours("fdbd"), other.predict_features(case.images.embeddings))


def test_nci(case: Case) -> None:
    other = theirs.NCI(nn.Identity(), case.head).fit_features(case.training.embeddings)
    close(case.ours("nci"), other.predict_features(case.images.embeddings))


def test_pnml(case: Case) -> None:
    other = theirs.PNML(nn.Identity(), case.head).fit_features(case.training.embeddings, case.targets)
    with torch.no_grad():
        close(case.ours("pnml"), other.predict_features(case.images.embeddings), rtol=1e-3)


def test_nnguide(case: Case) -> None:
    other = theirs.NNGuide(nn.Identity(), case.head).fit_features(case.training.embeddings, case.targets)
    close(case.ours("nnguide"), other.predict_features(case.images.embeddings))


@pytest.mark.parametrize("unit", [False, True])
def test_distances_to_class_gaussians(case: Case, unit: bool) -> None:
    """Theirs divides no covariance by N, halves the square, and adds 1e-6; ours shrinks, which is off here."""
    training, images = (
        nn.functional.normalize(x.embeddings) if unit else x.embeddings for x in (case.training, case.images)
    )
    plain = theirs.Mahalanobis(None).fit_features(training, case.targets)
    ours = case.ours(class_gaussians(unit=unit, relative=False, shrinkage=0.0))
    close(ours, (2.0 * IMAGES * plain.predict_features(images)).sqrt(), rtol=1e-3)
    relative = theirs.RMD(None).fit_features(training, case.targets)
    ours = case.ours(class_gaussians(unit=unit, relative=True, shrinkage=0.0))
    close(ours, IMAGES * relative.predict_features(images), rtol=1e-3, atol=1e-2)
