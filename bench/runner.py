"""The comparison: every method in every arena of a suite, for every seed; finished trials are not repeated."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from lightning_fabric import Fabric

from oodguard.bench.arena import BenchSetting, Suite
from oodguard.bench.methods.catalogue import chosen
from oodguard.bench.results.files import RESULTS_FILE, write_text
from oodguard.bench.results.records import Results
from oodguard.bench.trial import Finished, Session, run_trial
from oodguard.training.progress import Reporter, Silent
from oodguard.training.run import versions


def run_bench(
    suite: Suite,
    setting: BenchSetting,
    out: Path,
    *,
    methods: Sequence[str],
    seeds: int,
    compute: Fabric,
    command: str,
    report: Reporter,
) -> Results:
    """Compare methods (all of them where `methods` is empty) and write `results.json`; returns what it wrote.

    ```python
    run_bench(suite, BenchSetting(data=Path("data"), cache=Path("cache")), Path("results"), methods=("ldr", "fused"),
              seeds=3, compute=start_compute(), command="oodguard bench ...", report=Silent())
    ```

    A trial that `out` holds under the same key (data, options, method) is read, not repeated. A method that needs
    outliers is skipped, with a note, in an arena without them. Raises `InputError` for an unknown method or missing
    data, `EnvironmentProblem` where `out` cannot be written.
    """
    report = report if compute.is_global_zero else Silent()
    wanted = chosen(methods)
    plans = [plan for seed in range(seeds) for plan in suite.plans(setting, seed)]
    finished: list[Finished] = []
    for number, plan in enumerate(plans):
        session = Session(plan, out, compute, report)
        for place, method in enumerate(wanted, 1):
            trial = run_trial(session, method)
            report.progress("methods", number * len(wanted) + place, len(plans) * len(wanted))
            if trial is not None:
                finished.append(trial)
        results = Results(
            suite=suite.name,
            quick=setting.quick,
            command=command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=f"{platform.machine()}, {os.cpu_count()} CPUs, {compute.device.type}",
            versions={"oodguard": importlib.metadata.version("oodguard"), **versions()},
            seeds=tuple(range(seeds)),
            trials=tuple(one.trial for one in finished),
            records=tuple(record for one in finished for record in one.records),
        )
        if compute.is_global_zero:
            write_text(out / RESULTS_FILE, results.model_dump_json(indent=1))
    return results
