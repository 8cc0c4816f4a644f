from __future__ import annotations

import numpy as np
import torch
from scipy.special import logsumexp, softmax
from sklearn.covariance import EmpiricalCovariance
from torch import nn

from oodguard.bench.baselines.vim import Vim


def test_against_the_published_recipe_in_numpy() -> None:
    torch.manual_seed(0)
    head = nn.Linear(12, 4)
    spread = torch.linspace(3, 0.1, 12)
    inside, x = 1 + torch.randn(300, 12) * spread, torch.randn(25, 12)
    weight, bias = head.weight.detach().double().numpy(), head.bias.detach().double().numpy()
    origin = -np.linalg.pinv(weight) @ bias
    covariance = EmpiricalCovariance(assume_centered=True).fit(inside.double().numpy() - origin).covariance_
    values, vectors = np.linalg.eig(covariance)
    null_space = vectors[:, np.argsort(-values)[6:]]
    norms = np.linalg.norm((inside.double().numpy() - origin) @ null_space, axis=1)
    alpha = (inside.double().numpy() @ weight.T + bias).max(1).mean() / norms.mean()
    virtual = alpha * np.linalg.norm((x.double().numpy() - origin) @ null_space, axis=1)
    logits = x.double().numpy() @ weight.T + bias

    fitted = Vim.fit(inside, head)
    found = fitted.score(x, torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(found, virtual - logsumexp(logits, axis=1), rtol=1e-4, atol=1e-5)
    # The source's score is a monotone function of ours.
    source = softmax(np.concatenate([logits, virtual[:, None]], axis=1), axis=1)[:, -1]
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), source, rtol=1e-4)


def test_a_direction_that_training_never_used_is_flagged() -> None:
    torch.manual_seed(0)
    inside = torch.cat([torch.randn(200, 4), 0.01 * torch.randn(200, 4)], 1)
    head = nn.Linear(8, 3)
    fitted = Vim.fit(inside, head)
    x = torch.zeros(1, 8)
    x[0, 6] = 3.0
    with torch.no_grad():
        assert fitted.score(x, head(x)) > fitted.score(inside, head(inside)).max()
