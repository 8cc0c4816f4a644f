"""The gRPC port of several workers."""

from __future__ import annotations

import signal
import time
from typing import Any

import grpc
import pytest

from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.process import EnvironmentProblem, wait_until
from tests.server.test_rpc_end import load


def test_all_workers_answer_on_one_grpc_port_and_end_without_a_lost_call(server: Any, golden: list[bytes]) -> None:
    running = server("--workers", "2", "--grpc-port", "0", "--drain-delay", "1")
    with load(running.rpc, golden[0], 6) as answers:
        wait_until(lambda: len(answers) > 12)
        assert running.count("oodguard_requests", "status")["200",] > 12
        running.process.send_signal(signal.SIGTERM)
        before = len(answers)
        wait_until(lambda: len(answers) > before)
        assert running.process.wait(20) == 0
    assert set(answers) == {"7", grpc.StatusCode.UNAVAILABLE}
    assert answers.index(grpc.StatusCode.UNAVAILABLE) > before


def test_calls_of_a_killed_worker_fail_alone(server: Any, golden: list[bytes]) -> None:
    running = server("--workers", "2", "--grpc-port", "0")
    with load(running.rpc, golden[0], 4) as answers:
        wait_until(lambda: len(answers) > 12)
        running.tree()[1].kill()
        wait_until(lambda: running.sample("oodguard_worker_restarts_total") == 1)
        time.sleep(1)
    # A channel waits a second before it connects again, and refuses calls until then.
    assert answers[-1] == "7"
    assert set(answers) <= {"7", grpc.StatusCode.UNAVAILABLE}
    assert answers.count("7") > 12


def test_a_second_server_cannot_join_the_port(server: Any, bundle: Any) -> None:
    running = server("--workers", "2", "--grpc-port", "0")
    port = running.rpc.rpartition(":")[2]
    with pytest.raises(EnvironmentProblem, match="choose another with --grpc-port"):
        Gateway(bundle, "--workers", "2", "--grpc-port", port).start()
