"""How a worker starts: `python -m oodguard.server.workers.start PLAN`, PLAN a descriptor; only the fleet calls it."""

from __future__ import annotations

import sys

from oodguard.server.workers.messages import WorkerPlan
from oodguard.server.workers.worker import serve


def main(descriptor: str) -> int:
    """Serve by the plan that lies behind a descriptor: it holds key hashes, which no list of processes may show."""
    with open(int(descriptor), encoding="utf-8") as plan:
        return serve(WorkerPlan.model_validate_json(plan.read()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
