"""A second bundle that judges a share of the traffic beside the server: how often would it answer otherwise?"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

from oodguard.core.answers import ModelRef
from oodguard.core.frozen import Frozen
from oodguard.core.manifest import MANIFEST_FILE
from oodguard.core.targets import named
from oodguard.core.verdict import Verdict
from oodguard.server.arrival import fingerprint
from oodguard.server.backlog import Backlog
from oodguard.server.engines.registry import DEFAULT, LOCAL
from oodguard.server.errors import ReloadRefused
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics
from oodguard.server.settings import ServeSettings
from oodguard.server.shadow_pipe import ShadowPlan
from oodguard.server.shadow_process import Drawn, ShadowFailed, ShadowProcess

# Images that may wait for the shadow, and how many it gets at once.
WAITING = 64
BATCH = 4
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


ShadowState = Literal["starting", "judging", "failed"]


class ShadowReport(Frozen):
    """How the shadow does: whether it judges, which model it has, and why it has failed."""

    state: ShadowState
    share: float
    model: ModelRef | None = None
    problem: str | None = None


class Shadow:
    """Judges a share of the answered images with a second bundle, in a process of the lowest priority.

    ```python
    shadow = Shadow(settings, metrics)
    shadow.start()
    shadow.offer(data, verdict, asked={})
    ```

    A thread talks to the process, so requests never wait. What does not fit into the backlog is dropped and counted; a
    process that dies is started again, after ever longer pauses. Raises `EnvironmentProblem` where the engine that the
    shadow would run on is not installed.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics, *, seed: int | None = None) -> None:
        assert settings.shadow is not None
        engine = settings.engine if settings.engine in LOCAL else DEFAULT
        LOCAL[engine].loader()
        self._plan = ShadowPlan(
            bundle=settings.shadow.absolute(),
            engine=engine,
            asked=named(**settings.asked),
            limits=settings.limits,
            trust=settings.trust and settings.trust.absolute(),
        )
        self._metrics = metrics
        self._share = settings.shadow_share
        self._random = random.Random(seed)
        self._backlog = Backlog(images=WAITING, size=settings.shadow_max_bytes)
        self._waiting: deque[Drawn] = deque()
        self._reloads: deque[Future[str | None]] = deque()
        self._woken = threading.Condition()
        self._closing = False
        # The thread alone changes what follows.
        self._processes: list[ShadowProcess] = []
        self._pause = SHORTEST_PAUSE
        self._retry_at: float | None = None
        self.report = ShadowReport(state="starting", share=self._share)
        self.fingerprint = fingerprint(self.bundle / MANIFEST_FILE)
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        metrics.shadow_share.set(self._share)

    @property
    def bundle(self) -> Path:
        """Where the bundle is."""
        return self._plan.bundle

    def start(self) -> None:
        """Start the process and go on in a thread."""
        self._thread.start()

    def offer(self, data: bytes, verdict: Verdict, *, asked: Mapping[str, float], source: str | None = None) -> None:
        """Have an answered image judged, if it is drawn. `asked`: the targets of its request, beside its source.

        Never waits or raises.
        """
        if self._random.random() >= self._share:
            return
        if self.report.state != "judging" or not self._backlog.enter(len(data)):
            self._metrics.shadow_images["dropped"].inc()
            return
        with self._woken:
            self._waiting.append(Drawn(data, verdict, asked, source))
            self._woken.notify()

    async def reload(self) -> None:
        """Load the shadow's bundle again. Raises `ReloadRefused` where it cannot judge; the old one then judges on."""
        asked: Future[str | None] = Future()
        with self._woken:
            if self._closing:
                raise ReloadRefused("the server ends")
            self._reloads.append(asked)
            self._woken.notify()
        problem = await asyncio.wrap_future(asked)
        if problem:
            raise ReloadRefused(problem)

    def _wake(self) -> None:
        with self._woken:
            self._woken.notify()

    def _run(self) -> None:
        self._open()
        while True:
            with self._woken:
                while not (self._closing or self._reloads or self._waiting or self._due() or self._is_dead):
                    self._woken.wait(None if self._retry_at is None else max(0.0, self._retry_at - time.monotonic()))
                if self._closing:
                    break
                reloads = [asked for asked in self._reloads if asked.set_running_or_notify_cancel()]
                self._reloads.clear()
                drawn = self._take()
            if self._is_dead:
                self._fail(self._end().end())
            if reloads or self._due():
                self._open()
            for asked in reloads:
                asked.set_result(self.report.problem)
            if drawn:
                self._compare(drawn)
        for process in self._processes:
            process.close()

    @property
    def _is_dead(self) -> bool:
        return bool(self._processes) and self._processes[0].ended

    def _end(self) -> ShadowProcess:
        """Do without the process."""
        process = self._processes.pop()
        process.close()
        return process

    def _due(self) -> bool:
        return self._retry_at is not None and time.monotonic() >= self._retry_at

    def _take(self) -> list[Drawn]:
        """The next images that one request may hold: those with the same targets and source."""
        found = [self._waiting.popleft()] if self._waiting else []
        while self._waiting and len(found) < BATCH and self._waiting[0].kind == found[0].kind:
            found.append(self._waiting.popleft())
        return found

    def _open(self) -> None:
        """Start a process beside the one there is, and put it in its place when it is ready to judge."""
        old, before = list(self._processes), self.fingerprint
        # Read before the process reads the manifest: where the bundle is replaced in between, it is loaded once more.
        self.fingerprint = fingerprint(self.bundle / MANIFEST_FILE)
        new = None
        try:
            new = ShadowProcess(self._plan, on_end=self._wake)
            self._processes.append(new)
            if self._closing:
                raise ShadowFailed("the server ends", final=True)
            model = new.hello()
        except ShadowFailed as error:
            self.fingerprint = before if old else None
            if new is not None:
                self._processes.remove(new)
                new.close()
            if not self._closing:
                self._refuse(error, judges_on=bool(old))
            return
        self._processes = [new]
        for process in old:
            process.close()
            self._metrics.shadow_reloads["swapped"].inc()
        self._retry_at, self._pause = None, SHORTEST_PAUSE
        self.report = ShadowReport(state="judging", share=self._share, model=model)
        self._metrics.shadow(model)
        log.warning("the shadow judges with %s version %s", model.name, model.version)

    def _refuse(self, error: ShadowFailed, *, judges_on: bool) -> None:
        if not judges_on:
            self._fail(error)
            return
        self._metrics.shadow_reloads["refused"].inc()
        self.report = self.report.model_copy(update={"problem": str(error)})
        log.error("shadow bundle refused, the old one judges on: %s", error)

    def _fail(self, error: ShadowFailed) -> None:
        self._metrics.shadow(None)
        self.report = ShadowReport(state="failed", share=self._share, problem=str(error))
        log.error("the shadow judges nothing (answers go on): %s", error)
        # A bundle that was refused is loaded again when it changes.
        self._retry_at = None if error.final else time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _compare(self, drawn: list[Drawn]) -> None:
        try:
            found = self._processes[0].judge(drawn) if self._processes else None
        except ShadowFailed as error:
            self._end()
            found = None
            if not self._closing:
                self._fail(error)
        finally:
            for one in drawn:
                self._backlog.leave(len(one.data))
        if found is None:
            self._metrics.shadow_images["failed"].inc(len(drawn))
            return
        self._metrics.shadow_inference_seconds.observe(found.inference)
        for one, verdict in zip(drawn, found.verdicts, strict=True):
            if verdict is None:
                self._metrics.shadow_images["failed"].inc()
            else:
                self._metrics.compare(one.verdict, verdict)

    def close(self) -> None:
        """End the process; what waits is given up."""
        with self._woken:
            self._closing = True
            self._woken.notify()
        for process in list(self._processes):
            process.kill()
        if self._thread.is_alive():
            self._thread.join()
        for asked in self._reloads:
            asked.cancel()
