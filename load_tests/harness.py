"""What every script here shares: images and the bundle, percentiles, the report, and how a script ends."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from oodguard.core.errors import InputError, OodguardError
from oodguard.core.formats import IMAGE_SUFFIXES
from oodguard.core.manifest import Manifest, load_manifest

INTERRUPTED = 130
QUIET_CORES = 0.1

console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` percent of `values` do not exceed; NaN of none.

    ```python
    percentile([1.0, 2.0, 3.0, 4.0], 50)  # 2.0
    ```
    """
    if not 0 < share <= 100:
        raise ValueError(f"share must be above 0 and at most 100; got {share}")
    if not values:
        return float("nan")
    return float(np.percentile(values, share, method="inverted_cdf"))


def read_images(folder: Path, *, count: int) -> list[bytes]:
    """`count` images spread evenly over everything below `folder`, or all there are; a file is one image."""
    found = folder.rglob("*") if folder.is_dir() else [folder] if folder.is_file() else []
    paths = sorted(p for p in found if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise InputError(f"no images under {folder}; name a folder of images")
    return [path.read_bytes() for path in paths[:: max(len(paths) // count, 1)][:count]]


def read_bundle(folder: Path) -> Manifest:
    """The verified manifest of a bundle. Raises `InputError`."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; export a bundle there with oodguard export")
    return load_manifest(folder)


class OtherPrograms:
    """What other programs use of the processor from now on: numbers of a machine that is not quiet mean little."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._used = _others_seconds()

    def report(self) -> dict[str, object]:
        """The cores that they used on average, for the report; prints a warning if that is more than a little."""
        used = max(_others_seconds() - self._used, 0.0) / (time.monotonic() - self._began)
        if used > QUIET_CORES:
            console.print(
                f"warning: other programs used {used:.1f} of {cores()} cores meanwhile; repeat on a quiet machine",
                style="yellow",
            )
        return {"other_programs_cores": round(used, 2)}


def _others_seconds() -> float:
    times = psutil.cpu_times()
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
    me = psutil.Process()
    own = 0.0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            own += sum(process.cpu_times()[:4])
    return float(busy - own)


def machine() -> dict[str, str | int]:
    """What the numbers were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": cores(),
        "python": platform.python_version(),
        **{name: found for name in ("onnxruntime", "pillow") if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    # A machine that only makes load has no ONNX Runtime.
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def report_table(title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, object]]) -> Table:
    """A table of `rows`: `columns` maps a key of the rows to its heading."""
    table = Table(title=title, title_justify="left")
    for heading in columns.values():
        table.add_column(heading, justify="right", overflow="fold", min_width=min(len(heading), 7))
    for row in rows:
        table.add_row(*("" if row.get(key) is None else str(row[key]) for key in columns))
    return table


def write_report(path: Path | None, *, options: Mapping[str, object], rows: Sequence[Mapping[str, object]]) -> None:
    """Write a benchmark's rows as JSON, with the machine and the options they were measured with."""
    if path is None:
        return
    report = {
        "machine": machine(),
        "options": {k: str(v) for k, v in options.items()},
        "rows": [_finite(row) for row in rows],
    }
    try:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror})") from None


def _finite(row: Mapping[str, object]) -> dict[str, object]:
    # JSON knows neither NaN (no request was accepted) nor infinity (it never recovered).
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`: an error is one sentence and an exit code; Ctrl-C and SIGTERM end every process."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        main()
    except OodguardError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; every process was ended", file=sys.stderr)
        sys.exit(INTERRUPTED)
