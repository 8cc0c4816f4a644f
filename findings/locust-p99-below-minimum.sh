#!/usr/bin/env bash
# Percentiles come from rounded times: p99 can be below the fastest request, and everything under half a millisecond is 0.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check locust==2.47.0 gevent==26.9.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md

import gevent.monkey

gevent.monkey.patch_all()
from locust.stats import RequestStats

print("locust", md.version("locust"))


def summary(times):
    stats = RequestStats()
    for time in times:
        stats.log_request("GET", "/", time, 0)
    entry = stats.get("/", "GET")
    return entry.min_response_time, entry.get_response_time_percentile(0.99), entry.median_response_time


for text, times, expected in (
    ("100 requests of 1049 ms", [1049.0] * 100, (1049.0, 1000, 1049.0)),
    ("100 requests of 0.4 ms", [0.4] * 100, (0.4, 0, 0.4)),
    ("1000 requests of 1051 ms", [1051.0] * 1000, (1051.0, 1100, 1051.0)),
):
    seen = summary(times)
    print(f"{text}: minimum {seen[0]}, p99 {seen[1]}, median {seen[2]}")
    assert seen == expected

stats = RequestStats()
for time in [1.0] * 9 + [400.0]:
    stats.log_request("GET", "/", time, 0)
p90 = stats.get("/", "GET").get_response_time_percentile(0.9)
print("nine requests of 1 ms and one of 400 ms: p90", p90)
assert p90 == 400
PY
