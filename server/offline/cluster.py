"""Scores the same parts on Ray Data: each worker holds a scorer; this process lists, keeps and writes.

A part travels as one row, its items as compressed lines and its result as an Arrow stream, so that Ray cannot split it
into other batches. The workers read the bundle and the images under the same paths as this process.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
import zlib
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from oodguard.core.allowance import cores
from oodguard.core.errors import EnvironmentProblem, OodguardError
from oodguard.server.offline.items import Item
from oodguard.server.offline.ledger import Ledger
from oodguard.server.offline.scorer import Scorer, ScoreTally, Spec

LOCAL = "local"
LOG_FILE = "ray.log"
LOCAL_STORE_BYTES = 256 * 1024 * 1024
# Set before Ray is imported: no usage reports, and no choice of GPUs by Ray.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class PartScorer:
    """The state of a Ray worker: a scorer, made for the first part."""

    def __init__(self, spec: str) -> None:
        self._spec = Spec.model_validate_json(spec)
        self._scorer: Scorer | None = None

    def __call__(self, parts: pa.Table) -> pa.Table:
        """Return the rows of every part; an error that ends the run travels as a sentence, not as a traceback."""
        rows = [self._answer(row["part"], row["items"]) for row in parts.to_pylist()]
        return pa.Table.from_pylist(
            rows, schema=pa.schema([("part", pa.int64()), ("rows", pa.binary()), ("problem", pa.string())])
        )

    def _answer(self, number: int, items: bytes) -> dict[str, Any]:
        done: list[pa.Table] = []
        try:
            self._scorer = self._scorer or Scorer(self._spec)
            lines = zlib.decompress(items).splitlines()
            self._scorer.run(
                [(number, [Item.of(line) for line in lines])],
                keep=lambda _, rows: done.append(rows),
                scored=lambda _: None,
            )
        except OodguardError as error:
            return {"part": number, "problem": str(error)}
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, done[0].schema) as stream:
            stream.write_table(done[0])
        return {"part": number, "rows": sink.getvalue().to_pybytes()}


def run_on_ray(
    spec: Spec,
    ledger: Ledger,
    pending: Container[int],
    scored: Callable[[ScoreTally], None],
    *,
    address: str,
    workers: int | None,
) -> tuple[float, str]:
    """Score the pending parts on Ray at `address`; return the seconds and what ran the graph.

    Raises `EnvironmentProblem`.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(f"--ray needs {error.name}: pip install 'oodguard[ray]'") from None
    with _apart(ledger.folder / LOG_FILE):
        try:
            return _run(ray, spec, ledger, pending, scored, address, workers)
        except (ray.exceptions.RayError, ray.data.exceptions.SystemException, ConnectionError) as error:
            raise EnvironmentProblem(f"Ray failed ({_last_line(error)}); see {ledger.folder / LOG_FILE}") from None
        finally:
            ray.shutdown()


def _run(
    ray: Any,
    spec: Spec,
    ledger: Ledger,
    pending: Container[int],
    scored: Callable[[ScoreTally], None],
    address: str,
    workers: int | None,
) -> tuple[float, str]:
    plan = spec.plan
    share = plan.sessions * plan.threads
    gpus = int(spec.device == "cuda")
    _connect(ray, address, workers or max(1, cores() // share), share)
    resources = ray.cluster_resources()
    room = int(resources.get("CPU", 0)) // share
    if gpus:
        room = min(room, int(resources.get("GPU", 0)))
    workers = workers or max(1, room)
    if workers > room:
        needs = f"{share} cores" + (" and a GPU" if gpus else "")
        raise EnvironmentProblem(f"this Ray has room for {room} workers of {needs} each; {workers} are asked for")
    started = time.monotonic()
    compute = {"compute": ray.data.ActorPoolStrategy(size=workers), "num_cpus": share, "num_gpus": gpus}
    for number, rows in _results(ray, spec, ledger, pending, compute):
        ledger.keep(number, rows)
        scored(_tally(rows))
    return time.monotonic() - started, (
        f"{plan.engine} on Ray, {workers} workers of {plan.sessions} x {plan.threads} threads, batch {plan.max_batch}"
    )


@contextmanager
def _apart(log: Path) -> Iterator[None]:
    """Send Ray's own messages to a file: its C++ part writes to descriptor 2, whatever its settings say."""
    sys.stderr.flush()
    with log.open("ab") as stream, os.fdopen(os.dup(2), "w") as terminal:
        os.dup2(stream.fileno(), 2)
        before, sys.stderr = sys.stderr, terminal
        # Handlers made from now on write to `sys.stderr`, where these loggers must not write.
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            terminal.flush()
            os.dup2(terminal.fileno(), 2)
            sys.stderr = before


def _connect(ray: Any, address: str, workers: int, share: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "CRITICAL"}
    try:
        if address == LOCAL:
            ray.init(
                address=LOCAL,
                num_cpus=workers * share,
                object_store_memory=LOCAL_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
        else:
            host, colon, port = address.rpartition(":")
            if colon:
                # Ray itself would try for over a minute.
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise EnvironmentProblem(f"no Ray answers at {address} ({_last_line(error)})") from None


def _results(
    ray: Any, spec: Spec, ledger: Ledger, pending: Container[int], compute: dict[str, Any]
) -> Iterator[tuple[int, pa.Table]]:
    """Yield finished parts as they come."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    work = [
        {"part": number, "items": zlib.compress(b"".join(item.line() for item in items))}
        for number, items in ledger.items(pending)
    ]
    answers = ray.data.from_items(work, override_num_blocks=len(work)).map_batches(
        PartScorer,
        fn_constructor_args=(spec.model_dump_json(),),
        batch_size=1,
        batch_format="pyarrow",
        **compute,
    )
    for batch in answers.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            if row["problem"] is not None:
                raise EnvironmentProblem(f"a Ray worker cannot go on: {row['problem']}")
            with pa.ipc.open_stream(row["rows"]) as stream:
                yield row["part"], stream.read_all()


def _tally(rows: pa.Table) -> ScoreTally:
    counts = pa.compute.value_counts(rows["error_code"]).to_pylist()
    return ScoreTally(
        images=rows.num_rows,
        flagged=pa.compute.sum(rows["is_ood"]).as_py() or 0,
        errors={count["values"]: count["counts"] for count in counts if count["values"] is not None},
    )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
