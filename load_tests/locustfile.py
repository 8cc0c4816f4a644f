"""Locust's entry: options, users, the shape, and what happens at the end.

locust -f load_tests/locustfile.py --host http://localhost:8000                  (with locust's page)
locust -f load_tests/locustfile.py --host http://localhost:8000 --headless --shape spike --people 40 --seconds 60
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from locust import events
from locust.runners import MasterRunner, WorkerRunner

from oodguard.core.errors import InputError, OodguardError
from oodguard.load_tests.mix import MixOptions, add_mix
from oodguard.load_tests.saturation import Parts
from oodguard.load_tests.shapes import SHAPES
from oodguard.load_tests.summary import Summary
from oodguard.load_tests.thresholds import THRESHOLDS, add_thresholds, check
from oodguard.load_tests.users import TALLIES, WATCHERS, ChosenShape, ImageUser, target

__all__ = ["ChosenShape", "ImageUser"]
MESSAGE = "oodguard"
SHOWN = ("host", "shape", "people", "seconds", "think", *MixOptions.model_fields, "triton_model")
CLOCK = {"began": 0.0, "ended": 0.0}
PARTS = Parts()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _declare(parser: Any, **_: object) -> None:
    parser.add_argument("--shape", choices=SHAPES, default="steady", help="How the number of users changes.")
    parser.add_argument("--people", type=int, default=10, help="Maximum of users at once.")
    parser.add_argument("--seconds", type=float, default=60.0, help="Length of the test.")
    parser.add_argument("--think", type=float, default=0.2, help="Mean of a user's seconds between requests.")
    parser.add_argument("--key", default="", help="API key of the gateway.", is_secret=True)
    parser.add_argument("--triton-model", default="", help="Call this model of a Triton at --host, not a gateway.")
    parser.add_argument("--results", default="", help="Folder for summary.html, summary.md and summary.csv.")
    add_mix(parser)
    add_thresholds(parser)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _begin(environment: Any, runner: Any, **_: object) -> None:
    options = environment.parsed_options
    # The last requests are answered before the counts are compared.
    environment.stop_timeout = environment.stop_timeout or ImageUser.network_timeout
    if isinstance(runner, WorkerRunner):
        environment.events.report_to_master.add_listener(lambda client_id, data: data.update({MESSAGE: TALLIES.take()}))
        return
    if isinstance(runner, MasterRunner):
        environment.events.worker_report.add_listener(lambda client_id, data: TALLIES.receive(data[MESSAGE]))
    environment.events.test_start.add_listener(_started)
    environment.events.test_stopping.add_listener(lambda environment: CLOCK.update(ended=time.monotonic()))
    WATCHERS[:] = [lambda users: PARTS.note(users, **_look(environment.host))]
    environment.events.quitting.add_listener(_finish)
    try:
        if options.people < 1 or options.seconds <= 0:
            raise InputError("--people must be at least 1 and --seconds above 0")
        if environment.host and options.headless:
            target(environment.host, options)
    except OodguardError as error:
        logging.error("%s", error)
        raise SystemExit(error.exit_code) from None


def _look(host: str | None) -> dict[str, Any]:
    """All counts so far, when, and what the processors did, where the server runs on them."""
    times = psutil.cpu_times()
    worked = sum(times) - times.idle - getattr(times, "iowait", 0.0)
    return {
        "total": TALLIES.total,
        "now": time.monotonic(),
        "processors": (worked, sum(times)) if _is_here(host) else None,
    }


def _is_here(host: str | None) -> bool:
    name = (urlsplit(host or "").hostname or "").lower()
    return name in ("localhost", "::1") or name.startswith("127.")


def _started(environment: Any) -> None:
    # Its own counts alone: locust's page can run several tests, one after the other.
    TALLIES.kinds.clear()
    PARTS.found.clear()
    CLOCK.update(began=time.monotonic(), ended=0.0)


def _finish(environment: Any, **_: object) -> None:
    options = environment.parsed_options
    # Waiting for the last answers is not part of the test.
    seconds = min(max((CLOCK["ended"] or time.monotonic()) - CLOCK["began"], 1e-9), options.seconds)
    checks = check(options, TALLIES.total, seconds)
    given = {name: getattr(options, name) for name in (*SHOWN, *(threshold.name for threshold in THRESHOLDS))}
    machine = "this machine" if _is_here(environment.host) else str(environment.host)
    shown = {k: v for k, v in given.items() if v not in (None, "")}
    parts = PARTS.end(**_look(environment.host)).found
    summary = Summary(TALLIES, seconds, checks, shown, parts=parts, machine=machine)
    print(f"\n{summary.markdown()}", flush=True)
    # Locust's own tables would only repeat it.
    logging.getLogger("locust.stats_logger").disabled = True
    environment.process_exit_code = 0 if summary.kept else 1
    try:
        if options.results:
            summary.write(Path(options.results))
    except OodguardError as error:
        logging.error("%s", error)
        environment.process_exit_code = error.exit_code
