#!/usr/bin/env bash
# quantile(x, k / n, method="inverted_cdf") is not always the k-th smallest of n values: rounding picks the next one.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import math

import numpy as np

print("numpy", np.__version__)
wrong, conformal, total = [], [], 0
for n in range(2, 200):
    values = np.arange(1, n + 1)
    levels = np.arange(1, n + 1) / n
    found = np.quantile(values, levels, method="inverted_cdf")
    wrong += [(n, k, int(found[k - 1])) for k in range(1, n + 1) if found[k - 1] != k]
    total += n
    k = math.ceil((n + 1) * 8 / 10)  # the rank of split conformal prediction at 80 %
    if k <= n and found[k - 1] != k:
        conformal.append((n, k, int(found[k - 1])))
print(f"{len(wrong)} of {total} (n, k) give the (k+1)-th, for example (n, k, got) {wrong[:3]}; at the conformal rank for 80 %: {conformal}")
assert 0.01 < len(wrong) / total < 0.05 and (25, 7, 8) in wrong and (35, 29, 30) in conformal and all(got == k + 1 for _, k, got in wrong)
share = np.mean(np.arange(1, 26) <= np.quantile(np.arange(1, 26), 7 / 25, method="inverted_cdf"))
print("share of 25 values at or below their 7/25 quantile:", share)
assert share == 8 / 25
PY
