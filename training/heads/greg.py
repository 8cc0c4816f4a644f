"""GReg and GReg+: gradient regularisation of the energy score, and energy-based sampling of outliers.

Paper: GReg. With E = -logsumexp f (higher = OOD) and the margins of the energy loss,

    L = CE + 0.1 L_S + w_g L_g                                                                       (Sec. 4.1)
    L_g = mean_in ||1[E(x) <= m_in] grad E(x)|| + mean_aux ||1[E(x) >= m_aux] grad E(x)||             (3)

The gradient is with respect to the input, or to the features of a network whose backbone is frozen. Only samples that
already lie on their side are smoothed: the energy loss moves the others.

Deviation: w_g multiplies the sum of the two group means, as Eq. 3 is written; the authors' code takes one mean over
all rows, which is half of that for equal groups. Norms of rows that the indicator removes are skipped rather than
multiplied by 0: the gradient of a norm is not finite at 0.

Certificate (Eq. 4): for a score with Lipschitz constant L and threshold g, every x' within (g - S(x)) / L of x gets
x's verdict. For the energy of a linear head f = W z + b, grad_z E = -W^T softmax(f), a convex combination of rows of W,
so that L = max_c ||w_c|| exactly (the bound is reached where one class takes all the mass).
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional

from oodguard.training.heads import scores
from oodguard.training.heads.energy import Margins

WEIGHT = 1.0
CANDIDATES = 6


def gradient_norms(energies: Tensor, inputs: Tensor) -> Tensor:
    """`||grad_x E||_2` for every image, `[B]`, differentiable; each energy may depend on its own input alone."""
    (gradient,) = torch.autograd.grad(energies.sum(), inputs, create_graph=True)
    norms: Tensor = gradient.flatten(1).norm(dim=1)
    return norms


def linear_gradient_norms(logits: Tensor, weight: Tensor) -> Tensor:
    """`||grad_z E||_2 = ||W^T softmax(f)||` of a linear head, `[B]`, in closed form: logits `[B, C]`, W `[C, D]`."""
    norms: Tensor = (logits.softmax(-1) @ weight).norm(dim=1)
    return norms


def gradient_loss(inside: Tensor, outside: Tensor, norms_in: Tensor, norms_out: Tensor, margins: Margins) -> Tensor:
    """Eq. 3 of energies and gradient norms `[N]`, `[O]`: a scalar; samples on the wrong side contribute 0."""
    settled_in, settled_out = inside <= margins.inside, outside >= margins.outside
    return _share(norms_in, settled_in) + _share(norms_out, settled_out)


def _share(norms: Tensor, settled: Tensor) -> Tensor:
    return norms[settled].sum() / len(norms) if settled.any() else norms.new_zeros(())


def lipschitz(weight: Tensor) -> Tensor:
    """The exact Lipschitz constant of `E(W z + b)` in z: `max_c ||w_c||_2`, for W `[C, D]`."""
    largest: Tensor = weight.norm(dim=1).amax()
    return largest


@torch.no_grad()
def cluster_sample(embeddings: Tensor, logits: Tensor, clusters: int, *, seed: int) -> Tensor:
    """GReg+, Algorithm 1: which of the candidate outliers to train on, as sorted indices.

    k-means on L2-normalised embeddings `[O, D]`; from each cluster the outlier of the lowest and the one of the
    highest energy (one and the same in a cluster of one). Both feed both losses: their indicators decide.
    """
    unit = functional.normalize(embeddings).cpu().numpy()
    clusters = min(clusters, len(np.unique(unit, axis=0)))
    labels = torch.from_numpy(KMeans(clusters, n_init=1, max_iter=10, random_state=seed).fit_predict(unit))
    energies = scores.energy(logits).cpu()
    chosen = set()
    for cluster in range(clusters):
        members = (labels == cluster).nonzero().flatten()
        if len(members):
            chosen |= {int(members[energies[members].argmin()]), int(members[energies[members].argmax()])}
    return torch.tensor(sorted(chosen), dtype=torch.long)
