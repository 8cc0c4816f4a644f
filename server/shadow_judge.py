"""What the shadow's process does: it judges images with a second bundle until the server has no more of them."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from oodguard.core.answers import ModelRef
from oodguard.core.errors import ImageError, OodguardError
from oodguard.core.manifest import load_manifest
from oodguard.core.signature import Trust
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


def open_judge(plan: ShadowPlan) -> BatchJudge:
    """The bundle, verified, on one thread of the CPU. Raises `OodguardError`."""
    manifest = load_manifest(plan.bundle, trust=Trust.read(plan.trust) if plan.trust else None)
    manifest.thresholds(manifest.targets.but(**plan.asked))
    engine = EnginePlan(engine=plan.engine, sessions=1, threads=1, max_batch=1)
    return BatchJudge.open(plan.bundle, manifest, engine, limits=plan.limits, device="cpu", workers=1)


def answer(
    judge: BatchJudge, images: Sequence[bytes], asked: dict[str, float], source: str | None = None
) -> ShadowAnswer:
    """The verdicts on some images, by these targets and the bundle's own."""
    try:
        targets = judge.manifest.targets.but(**asked)
        work = judge.batch(images, read=lambda image: image, targets=targets, top_k=1, source=source)
        judged = judge.submit(work).result()
    except (OodguardError, ValueError):
        # A target that this calibration cannot promise or a source that the bundle has not, among others: in the
        # server's place it would be refused.
        return ShadowAnswer(verdicts=(None,) * len(images), inference=0.0)
    verdicts = tuple(
        None
        if isinstance(one, ImageError)
        else ShadowVerdict(label=one.label, is_ood=one.is_ood, decision=one.decision)
        for one in judged.outcomes
    )
    return ShadowAnswer(verdicts=verdicts, inference=judged.inference)


def judge_all(plan: ShadowPlan, channel: socket.socket) -> None:
    """Say hello and answer; `EOFError` or `ConnectionError` when the server has closed its end."""
    try:
        judge = open_judge(plan)
    except (OodguardError, ValueError) as error:
        send(channel, ShadowHello(problem=str(error)))
        return
    manifest = judge.manifest
    send(channel, ShadowHello(model=ModelRef(name=manifest.name, version=manifest.version)))
    while True:
        request = receive(channel, ShadowRequest)
        images = [receive_bytes(channel, size) for size in request.sizes]
        send(channel, answer(judge, images, {**plan.asked, **request.asked}, request.source))
