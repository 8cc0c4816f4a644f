"""All heads of a guard over one feature, and their training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from oodguard.core.collusion import CollusionReport
from oodguard.core.errors import QualityError
from oodguard.core.scores import CERTIFIED, SCORES, WRAPPED, ScoreName
from oodguard.training.compute import cpu_threads, start_compute
from oodguard.training.heads import greg, scores
from oodguard.training.heads.anchoring import AnchoredHead, anchored_loss
from oodguard.training.heads.certificate import fit_certified
from oodguard.training.heads.collusion import diagnose
from oodguard.training.heads.density import Density, density_width
from oodguard.training.heads.ensemble_loss import EnsembleLoss, class_shares
from oodguard.training.heads.ice import IceHead, ice_loss, mixed_outliers
from oodguard.training.heads.ldr import Ensemble
from oodguard.training.heads.rows import Rows
from oodguard.training.loop import EpochReport, Objective, Schedule, fit
from oodguard.training.options import TrainOptions
from oodguard.training.record import HeadShapes

ICE_WIDTH = 64
# Of the features' length: what lies closer together is rounding.
MIN_SPREAD = 1e-6
# w of ICE's own terms. Mixtures of photos are outliers that lie near; with the 0.1 of real ones the score inverts.
ICE_WEIGHT = 3.0


class GuardHeads(nn.Module):
    """Rows `[B, R]` to the ensemble's logits `[M, B, C]` and every score `[B, S]`, in the order of `shapes.scores`.

    A row is a feature `[D]`, with the logits and probabilities of the wrapped classifier behind it where there is one.
    Features are standardised (centred per coordinate, one scale) before the trained heads; feature density works on
    the raw features.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, shapes: HeadShapes) -> None:
        super().__init__()
        self.shapes = shapes
        self.rows = Rows(shapes.width, shapes.own_classes)
        width, classes = shapes.width, shapes.classes
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.ensemble = Ensemble(members=shapes.members, width=width, hidden=shapes.hidden, classes=classes)
        self.anchored = AnchoredHead(width=width, hidden=shapes.hidden, classes=classes, anchors=shapes.anchors)
        self.ice = IceHead(width=width, ice_width=shapes.ice_width, classes=classes)
        self.linear = nn.Linear(width, classes) if shapes.certified else None
        self.density = Density(
            width=width,
            density_width=shapes.density_width,
            classes=classes,
            bank=shapes.bank,
            collapsed=shapes.own_classes > 0,
        )

    def standardise(self, features: Tensor) -> Tensor:
        """`(x - centre) / scale`."""
        return (features - self.centre) / self.scale

    def members(self, rows: Tensor) -> Tensor:
        """Ensemble logits `[M, B, C]` alone."""
        found: Tensor = self.ensemble(self.standardise(self.rows.feature(rows)))
        return found

    def probabilities(self, rows: Tensor, logits: Tensor) -> Tensor:
        """The wrapped classifier's own, `[B, C]`; where there is none, the mean of the members' with these `logits`."""
        return self.rows.probabilities(rows) if self.shapes.own_classes else logits.softmax(-1).mean(0)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Ensemble logits `[M, B, C]` and scores `[B, S]`."""
        feature = self.rows.feature(rows)
        x = self.standardise(feature)
        to_bank, to_means = self.density(feature)
        linear = None if self.linear is None else self.linear(x)
        own = self.rows.logits(rows) if self.shapes.own_classes else None
        return self.score(self.ensemble(x), self.anchored(x), self.ice(x), to_bank, to_means, linear=linear, own=own)

    def cover(self, classes: tuple[int, ...]) -> None:
        """Say which classes of a wrapped classifier these heads know, in their order."""
        self.shapes = self.shapes.model_copy(update={"covered": classes})

    @property
    def lipschitz(self) -> dict[ScoreName, float]:
        """How much a score can change per unit of distance between raw features, where that is known exactly."""
        if self.linear is None:
            return {}
        return {CERTIFIED.name: float(greg.lipschitz(self.linear.weight.detach()) / self.scale)}

    def score(
        self,
        logits: Tensor,
        anchored: Tensor,
        heights: Tensor,
        to_bank: Tensor,
        to_means: Tensor,
        *,
        linear: Tensor | None = None,
        own: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits and all scores from the heads' raw outputs; the exported graph ends in this very function.

        linear: logits of the certified head. own: logits of the wrapped classifier.
        """
        computed = {
            ScoreName.PDS: scores.pds(logits),
            ScoreName.AMP: scores.amp(anchored),
            ScoreName.ENERGY: scores.average_energy(logits),
            ScoreName.ENSEMBLE_ENTROPY: scores.ensemble_entropy(logits),
            ScoreName.ONE_MINUS_BMA: scores.one_minus_bma(logits),
            ScoreName.ICE: scores.ice(heights),
            ScoreName.KNN: scores.knn(to_bank, self.shapes.neighbours),
            ScoreName.MAHALANOBIS: scores.mahalanobis(to_means),
        }
        if linear is not None:
            computed[ScoreName.LINEAR_ENERGY] = scores.energy(linear)
        if own is not None:
            energy, entropy, one_minus_msp = scores.classifier_scores(own)
            computed[ScoreName.CLASSIFIER_ENERGY] = energy
            computed[ScoreName.CLASSIFIER_ENTROPY] = entropy
            computed[ScoreName.CLASSIFIER_ONE_MINUS_MSP] = one_minus_msp
        columns = torch.cat([computed[name] for name in self.shapes.scores])
        # A stack, in three nodes of the graph in place of one for each score.
        return logits, columns.view(len(self.shapes.scores), -1).T


def head_shapes(options: TrainOptions, *, rows: Rows, classes: int, images: int) -> HeadShapes:
    """The sizes of a guard's heads for `images` training images."""
    width = rows.width
    specs = (*SCORES, *((CERTIFIED,) if options.certificate else ()), *(WRAPPED if rows.own_classes else ()))
    return HeadShapes(
        classes=classes,
        width=width,
        hidden=options.hidden,
        members=options.members,
        anchors=options.anchors,
        ice_width=min(ICE_WIDTH, width),
        density_width=density_width(width, images),
        bank=min(options.bank_size, images),
        neighbours=min(options.neighbours, images),
        certified=options.certificate,
        own_classes=rows.own_classes,
        scores=tuple(spec.name for spec in specs),
    )


def fit_heads(
    features: Tensor,
    targets: Tensor,
    options: TrainOptions,
    *,
    classes: int,
    rows: Rows | None = None,
    outliers: Tensor | None = None,
    compute: Fabric | None = None,
    progress: Callable[[EpochReport], None] | None = None,
) -> GuardHeads:
    """Train every head over cached features of all views, `[V, N, R]`; view 0 is the plain one.

    rows: what a row of them holds; None: a feature alone.

    Each epoch is one pass over the images, each in a random view. Outlier features `[O, R]`, where given, are pushed
    away by the ICE head. Deterministic for a seed. Raises `QualityError` when the loss stops being finite.
    """
    compute = compute or start_compute(1)
    torch.manual_seed(options.seed)
    count = features.shape[1]
    rows = rows or Rows(features.shape[2])
    heads = GuardHeads(head_shapes(options, rows=rows, classes=classes, images=count))
    features = rows.feature(features)
    plain = features[0]
    heads.centre.copy_(plain.mean(0))
    if float((plain - heads.centre).norm()) <= MIN_SPREAD * float(plain.norm()):
        raise QualityError(
            "the backbone gives all photos the same feature, as far as float32 tells; give it trained weights with "
            "--weights"
        )
    heads.scale.copy_((plain - heads.centre).square().mean().sqrt().clamp_min(1e-6))
    heads.density.fit(plain, targets)
    x = heads.standardise(features)
    extra = None if outliers is None else heads.standardise(rows.feature(outliers))
    heads.ice.initialise(x[0], targets)
    heads.anchored.anchors.copy_(x[0][torch.randperm(count)[torch.arange(options.anchors) % count]])
    schedule = Schedule(
        epochs=options.epochs, batch=options.batch_size, lr=options.lr, weight_decay=options.weight_decay
    )
    with cpu_threads(1):
        fit(
            compute,
            GuardObjective(heads, x, targets, extra, options),
            schedule,
            count=count,
            what="head training",
            progress=progress,
        )
        if heads.linear is not None:
            # After the others, whose numbers it must not change.
            fit_certified(heads.linear, x, targets, extra, compute=compute, lr=options.lr, batch=options.batch_size)
    return heads.cpu().eval()


@torch.no_grad()
def diagnose_heads(heads: GuardHeads, held: tuple[Tensor, Tensor], training: tuple[Tensor, Tensor]) -> CollusionReport:
    """The report of a guard's ensemble, from features `[N, D]` and classes `[N]` of held-out and training images."""
    found = [(heads.members(features), targets) for features, targets in (held, training)]
    return diagnose(*found[0], training=found[1])


class GuardObjective(Objective):
    """The sum of the heads' losses on standardised features of all views, `[V, N, D]`."""

    def __init__(
        self, heads: GuardHeads, features: Tensor, targets: Tensor, outliers: Tensor | None, options: TrainOptions
    ) -> None:
        super().__init__()
        self.heads = heads
        self.options = options
        # Data, not state: every process has its own, and none of it is broadcast.
        self._data = (features, targets, outliers)
        self._prior = class_shares(targets, heads.shapes.classes)
        self._ensemble_loss = EnsembleLoss(
            kind=options.ensemble,
            members=options.members,
            active=options.active,
            weight=options.disagreement,
            beta=options.beta,
            floor=options.alpha_floor,
            label_smoothing=options.label_smoothing,
        )

    def forward(self, rows: Tensor, step: int) -> Tensor:
        """Each of `rows` in one random view, its anchor in another."""
        features, targets, outliers = self._data
        heads, options = self.heads, self.options
        where = heads.centre.device
        view = torch.randint(len(features), (2, len(rows)))
        x, other_view = features[view[0], rows].to(where), features[view[1], rows].to(where)
        y = targets[rows].to(where)
        chosen = None
        if outliers is not None:
            chosen = outliers[torch.randint(len(outliers), (max(len(x) // 2, 1),))].to(where)
        loss = self._ensemble_loss(heads.ensemble, x, y, outliers=chosen, prior=self._prior.to(where))
        loss = loss + anchored_loss(
            heads.anchored, x, other_view, y, step=step, label_smoothing=options.label_smoothing
        )
        outside = mixed_outliers(x, y)
        if chosen is not None:
            outside = torch.cat([outside, chosen])
        return loss + ice_loss(heads.ice(x), y, heads.ice(outside), weight=ICE_WEIGHT)

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, object]]:
        """Weights of ensemble and anchored head decay; biases, and all of ICE, do not."""
        ensemble, anchored = self.heads.ensemble, self.heads.anchored
        decayed = [
            *ensemble.weight1,
            *ensemble.weight2,
            anchored.weight_anchor,
            anchored.weight_residual,
            anchored.weight2,
        ]
        return self.groups(decayed, schedule)
