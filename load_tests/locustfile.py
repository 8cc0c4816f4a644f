"""Locust's entry: options, users, the shape, and what happens at the end.

locust -f load_tests/locustfile.py --host http://localhost:8000                  (with locust's page)
locust -f load_tests/locustfile.py --host http://localhost:8000 --headless --shape spike --people 40 --seconds 60
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from locust import events
from locust.runners import MasterRunner, WorkerRunner

from oodguard.core.errors import InputError, OodguardError
from oodguard.load_tests.mix import MixOptions, add_mix
from oodguard.load_tests.shapes import SHAPES
from oodguard.load_tests.summary import Summary
from oodguard.load_tests.thresholds import THRESHOLDS, add_thresholds, check
from oodguard.load_tests.users import TALLIES, ChosenShape, ImageUser, target

__all__ = ["ChosenShape", "ImageUser"]
MESSAGE = "oodguard"
SHOWN = ("host", "shape", "people", "seconds", "think", *MixOptions.model_fields, "triton_model")
CLOCK = {"began": 0.0, "ended": 0.0}


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
    environment.events.quitting.add_listener(_finish)
    try:
        if options.people < 1 or options.seconds <= 0:
            raise InputError("--people must be at least 1 and --seconds above 0")
        if environment.host and options.headless:
            target(environment.host, options)
    except OodguardError as error:
        logging.error("%s", error)
        raise SystemExit(error.exit_code) from None


def _started(environment: Any) -> None:
    # Its own counts alone: locust's page can run several tests, one after the other.
    TALLIES.kinds.clear()
    CLOCK.update(began=time.monotonic(), ended=0.0)


def _finish(environment: Any, **_: object) -> None:
    options = environment.parsed_options
    # Waiting for the last answers is not part of the test.
    seconds = min(max((CLOCK["ended"] or time.monotonic()) - CLOCK["began"], 1e-9), options.seconds)
    checks = check(options, TALLIES.total, seconds)
    given = {name: getattr(options, name) for name in (*SHOWN, *(threshold.name for threshold in THRESHOLDS))}
    summary = Summary(TALLIES, seconds, checks, {k: v for k, v in given.items() if v not in (None, "")})
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
