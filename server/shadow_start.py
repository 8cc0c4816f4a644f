"""How the shadow's process starts: it steps back before it loads anything, for threads inherit what they start with.

`python -m oodguard.server.shadow_start PLAN DESCRIPTOR`, which only `server/shadow.py` calls.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

LOWEST_PRIORITY = 19
FIRST_TO_GO = "1000"


def step_back() -> None:
    """Let the server have the processor whenever it wants it, and the memory when there is too little for both."""
    # Ctrl-C reaches every process of a terminal; this one ends when the server closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(LOWEST_PRIORITY)
    if hasattr(os, "SCHED_IDLE"):
        # A thread of the server that wakes up waits for the slice of any other thread to end, but not for these.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)


def main(plan: str, descriptor: str) -> None:
    """Judge until the server closes its end of the socket."""
    step_back()
    from oodguard.server.shadow_judge import judge_all
    from oodguard.server.shadow_pipe import ShadowPlan

    with contextlib.suppress(EOFError, ConnectionError):
        judge_all(ShadowPlan.model_validate_json(plan), socket.socket(fileno=int(descriptor)))
    # Nothing is to be kept, and a thread that hangs inside the engine must not keep the process.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
