#!/usr/bin/env bash
# One NaN makes mean, sum and std None, while min, max and the count go on as if it were not there.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check ray[data]==2.60.0 numpy==2.4.6 pandas==3.1.1 pyarrow==26.0.1 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import logging
import os
import warnings

os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
warnings.simplefilter("ignore")
import ray
import ray.data

print("ray", ray.__version__)
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.disable(logging.CRITICAL)
for last in (4.0, float("nan"), None):
    data = ray.data.from_items([{"score": score} for score in (1.0, 2.0, 3.0, last)])
    seen = {name: getattr(data, name)("score") for name in ("mean", "sum", "std", "min", "max")}
    seen = {name: value if value is None else round(float(value), 3) for name, value in seen.items()}
    print(f"scores 1, 2, 3 and {last}: {seen}, rows {data.count()}")
    if last is None:
        assert seen == {"mean": 2.0, "sum": 6.0, "std": 1.0, "min": 1.0, "max": 3.0}
    elif last != last:
        assert seen == {"mean": None, "sum": None, "std": None, "min": 1.0, "max": 3.0}
ray.shutdown()
PY
