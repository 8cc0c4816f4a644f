"""The shadow's process: judges images with a second bundle, where it can neither hold up nor break the server.

`python -m oodguard.server.shadow_judge PLAN DESCRIPTOR`, which only `server/shadow.py` calls.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from oodguard.core.answers import ModelRef
from oodguard.core.errors import ImageError, OodguardError
from oodguard.core.manifest import load_manifest
from oodguard.server.batch_judge import BatchJudge
from oodguard.server.shadow_pipe import (
    ShadowAnswer,
    ShadowHello,
    ShadowPlan,
    ShadowRequest,
    ShadowVerdict,
    receive,
    receive_bytes,
    send,
)
from oodguard.server.tuning import EnginePlan

LOWEST_PRIORITY = 19
FIRST_TO_GO = "1000"


def step_back() -> None:
    """Let the server have the processor whenever it wants it, and the memory when there is too little for both."""
    # Ctrl-C reaches every process of a terminal; this one ends when the server closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(LOWEST_PRIORITY)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)


def open_judge(plan: ShadowPlan) -> BatchJudge:
    """The bundle, verified, on one thread of the CPU. Raises `OodguardError`."""
    manifest = load_manifest(plan.bundle)
    manifest.thresholds(plan.accept or manifest.default_accept)
    engine = EnginePlan(engine=plan.engine, sessions=1, threads=1, max_batch=1)
    return BatchJudge.open(plan.bundle, manifest, engine, limits=plan.limits, device="cpu", workers=1)


def answer(judge: BatchJudge, images: Sequence[bytes], accept: float) -> ShadowAnswer:
    """The verdicts on some images."""
    try:
        judged = judge.submit(judge.batch(images, read=lambda image: image, accept=accept, top_k=1)).result()
    except (OodguardError, ValueError):
        # An acceptance that this calibration cannot promise, among others: in the server's place it would be refused.
        return ShadowAnswer(verdicts=(None,) * len(images), inference=0.0)
    verdicts = tuple(
        None if isinstance(one, ImageError) else ShadowVerdict(label=one.label, is_ood=one.is_ood)
        for one in judged.outcomes
    )
    return ShadowAnswer(verdicts=verdicts, inference=judged.inference)


def main(plan: ShadowPlan, channel: socket.socket) -> None:
    """Answer until the server closes its end."""
    try:
        judge = open_judge(plan)
    except (OodguardError, ValueError) as error:
        send(channel, ShadowHello(problem=str(error)))
        return
    manifest = judge.manifest
    send(channel, ShadowHello(model=ModelRef(name=manifest.name, version=manifest.version)))
    default = plan.accept or manifest.default_accept
    while True:
        request = receive(channel, ShadowRequest)
        images = [receive_bytes(channel, size) for size in request.sizes]
        send(channel, answer(judge, images, default if request.accept is None else request.accept))


if __name__ == "__main__":
    step_back()
    with contextlib.suppress(EOFError, ConnectionError):
        main(ShadowPlan.model_validate_json(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
    # Nothing is to be kept, and a thread that hangs inside the engine must not keep the process.
    os._exit(0)
