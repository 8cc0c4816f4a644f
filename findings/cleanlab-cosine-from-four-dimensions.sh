#!/usr/bin/env bash
# From four features on, the OOD score is a cosine distance: how large a feature is no longer counts.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 scikit-learn==1.9.1 cleanlab==2.9.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md

import numpy as np
from cleanlab.outlier import OutOfDistribution

print("cleanlab", md.version("cleanlab"))
features = np.abs(np.random.default_rng(0).normal(size=(200, 16)))  # as after a ReLU and a mean
for columns, expected in ((16, True), (4, True), (3, False)):
    train = features[:, :columns]
    detector = OutOfDistribution()
    detector.fit_score(features=train, verbose=False)
    usual = detector.score(features=train)
    huge = float(detector.score(features=1e6 * train.mean(0, keepdims=True))[0])
    share = float((usual < huge).mean())
    metric = detector.params["knn"].metric
    print(f"{columns} features, {getattr(metric, '__name__', metric)}: a feature a million times too large scores {huge:.3f} (1 is typical), more than {share:.0%} of the training data")
    assert (share > 0.5) == expected and (huge == 0) != expected
PY
