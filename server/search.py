"""`tune`: a short measured search for how to run a bundle's engine on this machine."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from oodguard.core.allowance import cores
from oodguard.core.errors import FormatError, OodguardError
from oodguard.core.manifest import Manifest, load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.server.engines.base import Engine
from oodguard.server.engines.registry import Device, build_engine, require_local
from oodguard.server.errors import EngineError
from oodguard.server.tuning import EnginePlan, TuningRecord, TuningTrial, machine

BATCHES = (1, 2, 4, 8, 16)
# Rates may differ this much by chance. Within it, the plan that answers one image sooner wins, and of two batch sizes
# the larger one, which wakes the event loop less often.
TIE = 0.03


def candidates(engines: tuple[str, ...], available: int) -> list[EnginePlan]:
    """Every way of sharing `available` cores between sessions and threads, with every batch size."""
    splits = sorted(
        {(available // threads, threads) for threads in range(1, available + 1) if available % threads == 0}
    )
    return [
        EnginePlan(engine=engine, sessions=sessions, threads=threads, max_batch=batch)
        for engine, (sessions, threads), batch in itertools.product(engines, splits, BATCHES)
    ]


def search(
    bundle: Path,
    *,
    engines: tuple[str, ...],
    seconds: float = 20.0,
    device: Device = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TuningRecord:
    """Measure every candidate for its share of `seconds`, in rounds, and keep the fastest.

    Each plan is measured with all its slots busy on the bundle's golden images; a round visits all plans, so that a
    disturbance of the machine hits none alone, and the median over the rounds counts. Raises `FormatError` when no
    engine can run the bundle, and `InputError` for an engine that does not exist.
    """
    require_local(engines)
    manifest = load_manifest(bundle)
    images = np.stack([load_pixels((bundle / g.path).read_bytes(), manifest.preprocessing) for g in manifest.golden])
    plans = candidates(engines, cores())
    rounds = 3
    share = seconds / (rounds * len(plans))
    found = asyncio.run(_measure(bundle, manifest, plans, images, rounds, share, device, progress))
    if not found:
        raise FormatError(f"no engine of {', '.join(engines)} can run {bundle}")
    fastest = max(trial.images_per_second for trial in found)
    best = min(
        (trial for trial in found if trial.images_per_second >= (1 - TIE) * fastest),
        key=lambda trial: (trial.single_ms, -trial.max_batch),
    )
    return TuningRecord(
        graph_sha256=manifest.graph_sha256,
        machine=machine(),
        best=EnginePlan(**best.model_dump(include=set(EnginePlan.model_fields))),
        trials=tuple(found),
    )


async def _measure(
    bundle: Path,
    manifest: Manifest,
    plans: list[EnginePlan],
    images: np.ndarray,
    rounds: int,
    share: float,
    device: Device,
    progress: Callable[[int, int], None],
) -> list[TuningTrial]:
    rates: dict[EnginePlan, list[float]] = {}
    alone: dict[EnginePlan, float] = {}
    done = 0
    # One engine serves every batch size of a split; only one is alive at a time.
    for group in _by_engine(plans):
        try:
            engine = build_engine(bundle, manifest, group[0], device=device)
        except OodguardError:
            done += rounds * len(group)
            progress(done, rounds * len(plans))
            continue
        try:
            single = await _single_ms(engine, images[:1])
            for _, plan in itertools.product(range(rounds), group):
                batch = np.resize(images, (plan.max_batch, *images.shape[1:]))
                rates.setdefault(plan, []).append(await _rate(engine, batch, share))
                alone[plan] = single
                done += 1
                progress(done, rounds * len(plans))
        except EngineError:
            for plan in group:
                rates.pop(plan, None)
        finally:
            await engine.close()
    return [
        TuningTrial(**plan.model_dump(), images_per_second=float(np.median(values)), single_ms=alone[plan])
        for plan, values in rates.items()
    ]


def _by_engine(plans: list[EnginePlan]) -> Iterator[list[EnginePlan]]:
    for _, group in itertools.groupby(plans, key=lambda plan: (plan.engine, plan.sessions, plan.threads)):
        yield list(group)


async def _single_ms(engine: Engine, image: np.ndarray) -> float:
    await engine.infer(image)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        await engine.infer(image)
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times))


async def _rate(engine: Engine, batch: np.ndarray, seconds: float) -> float:
    """Images per second with every slot busy for about `seconds`, at least two batches each."""
    started = time.perf_counter()

    async def keep_busy() -> int:
        count = 0
        while count < 2 or time.perf_counter() - started < seconds:
            await engine.infer(batch)
            count += 1
        return count

    counts = await asyncio.gather(*(keep_busy() for _ in range(engine.slots)))
    return sum(counts) * len(batch) / (time.perf_counter() - started)
