"""The workers of a server: each is started, watched, and started again where it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from oodguard.core import errors
from oodguard.core.errors import EnvironmentProblem, OodguardError
from oodguard.server.errors import ReloadRefused
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics
from oodguard.server.workers.messages import ModelNews, Order, WorkerReport
from oodguard.server.workers.process import SILENT, WorkerProcess, how_ended

# Starts in a row that fail before the service ends.
TRIES = 5
# Seconds before the second start in a row; doubled before each further one.
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 30.0
# A worker that has served for so long begins a new row.
SOUND = 30.0
# Seconds between two looks for workers that hang.
LOOK = 0.5
# A bundle that changes while the workers load it is loaded again.
ROUNDS = 3


class Crew:
    """Keeps a worker running for each of the stores of counts, until `end`.

    ```python
    crew = Crew(settings, metrics, stores=stores, guard=guard, dead_after=30.0)
    await crew.start(grpc=None)     # all of them take connections
    await crew.reload()     # all of them serve another release, or none
    ```

    A worker that ends by itself is replaced, after a pause that grows while that goes on; one that hangs is ended
    first. What it had not answered is lost, and nothing else.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        metrics: Metrics,
        *,
        stores: Sequence[int],
        guard: int,
        dead_after: float,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._stores = stores
        self._guard = guard
        self._grpc: tuple[str, int] | None = None
        self._dead_after = dead_after
        self.count = len(stores)
        self._workers: dict[int, WorkerProcess] = {}
        self._keeping: list[asyncio.Task[None]] = []
        self._reloading = asyncio.Lock()
        self._codes: list[int] = []
        self._over: asyncio.Future[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self._begun = False
        self._ending = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self.serves: ModelNews | None = None

    @property
    def workers(self) -> list[WorkerProcess]:
        """The workers that live, by number."""
        return [self._workers[number] for number in sorted(self._workers)]

    @property
    def failed(self) -> asyncio.Future[None]:
        """Done, with the reason as its error, where the service cannot go on."""
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
        return self._over

    async def start(self, *, grpc: tuple[str, int] | None) -> None:
        """Start every worker; return when all take connections. Raises what keeps one from starting."""
        over = self.failed
        self._grpc = grpc
        self._keeping = [asyncio.create_task(self._keep(number)) for number in range(1, self.count + 1)]
        self._keeping.append(asyncio.create_task(self._watch()))
        while not (len(self._workers) == self.count and all(one.started for one in self.workers)):
            if over.done():
                over.result()
            await self.change()
        self._begun = True

    async def change(self) -> None:
        """Wait until a worker tells something, starts or ends, or the service cannot go on."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await asyncio.wait({waiting, self.failed}, return_when=asyncio.FIRST_COMPLETED)

    def _changed(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    async def _keep(self, number: int) -> None:
        """Run worker after worker under one number."""
        tries = 0
        while True:
            began = time.monotonic()
            try:
                worker, end = await WorkerProcess.begin(
                    number,
                    self._settings,
                    stores=self._stores,
                    guard=self._guard,
                    grpc=self._grpc,
                    heard=self._heard,
                )
            except EnvironmentProblem as error:
                self._fail(error)
                return
            self._workers[number] = worker
            self._changed()
            code = await end
            served = worker.served
            del self._workers[number]
            self._codes.append(code)
            self._changed()
            if self._ending.is_set():
                return
            if worker.refused is not None and not self._begun:
                self._fail(_known(worker.refused))
                return
            tries = 0 if served and time.monotonic() - began > SOUND else tries + 1
            reason = worker.refused.text if worker.refused else how_ended(code)
            # Where the others serve on, a bundle that cannot be loaded now is no reason to end them.
            others = worker.refused is not None and any(one.started for one in self.workers)
            if tries >= TRIES and not served and not others:
                self._fail(
                    EnvironmentProblem(
                        f"worker {number} {reason} {tries} times in a row while it started; see the lines before this "
                        "one, and start the server with --workers 1 to see more"
                    )
                )
                return
            pause = min(FIRST_PAUSE * 2.0 ** (tries - 1), LONGEST_PAUSE) if tries else 0.0
            log.error("worker %d %s; another one starts in %g s", number, reason, pause)
            self._metrics.worker_restarts.inc()
            await asyncio.sleep(pause)
            if self._ending.is_set():
                return

    def _fail(self, error: OodguardError) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    def _heard(self, worker: WorkerProcess, report: WorkerReport) -> None:
        if report.kind == "model" and self.serves is None:
            self.serves = report.model
        elif report.kind == "started" and self._begun and worker.model != self.serves:
            # It has loaded what is in the folder now; the others follow, or it is told to wait.
            self._catching_up = asyncio.create_task(self._catch_up())
        self._changed()

    async def _catch_up(self) -> None:
        try:
            await self.reload()
        except ReloadRefused as error:
            log.error("the workers serve different releases until the bundle can be loaded: %s", error)

    async def _watch(self) -> None:
        """End workers that hang: their own process starts another one."""
        while True:
            await asyncio.sleep(LOOK)
            for worker in self.workers:
                dead = worker.state.dead if worker.state is not None else None
                if worker.started and worker.silence > max(SILENT, self._dead_after):
                    dead = f"it has not answered for {worker.silence:.0f} s"
                if dead is not None and not self._ending.is_set():
                    log.critical("worker %d hangs and is ended: %s", worker.number, dead)
                    worker.kill()
            self._changed()

    def order(self, order: Order) -> None:
        """Give an order to every worker."""
        for worker in self.workers:
            worker.order(order)

    async def reload(self) -> ModelNews:
        """Have every worker load the bundle folder, and then all of them swap, or none.

        Raises `ReloadRefused` when one of them cannot serve it; all serve on with what they had.
        """
        async with self._reloading:
            try:
                news = await self._reload()
            except ReloadRefused as error:
                self._metrics.reloads["refused"].inc()
                log.error("bundle refused, the old one serves on: %s", error)
                raise
            self._metrics.reloads["swapped"].inc()
            log.warning("now serving %s version %s with %d workers", news.name, news.version, len(self._workers))
            return news

    async def _reload(self) -> ModelNews:
        for _ in range(ROUNDS):
            asked = {worker: worker.prepare() for worker in self.workers if worker.started}
            if not asked:
                raise ReloadRefused("no worker serves at the moment; try again")
            told = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
            # One that has ended since is replaced by one that loads the folder by itself.
            left = {worker: report for worker, report in told.items() if worker.started}
            refusal = next((report.text for report in left.values() if report.text is not None), None)
            prints = {report.fingerprint for report in left.values()}
            if refusal is None and len(prints) == 1:
                return await self._commit(list(left))
            for worker in left:
                worker.order(Order(kind="abort"))
            if refusal is not None:
                raise ReloadRefused(refusal)
        raise ReloadRefused("the bundle changes while it is loaded; write it beside its place and rename it")

    async def _commit(self, workers: list[WorkerProcess]) -> ModelNews:
        before = {worker: worker.models for worker in workers}
        for worker in workers:
            worker.order(Order(kind="commit"))
        while any(worker.started and worker.models == before[worker] for worker in workers):
            await self.change()
            if self.failed.done():
                break
        news = next((worker.model for worker in workers if worker.started and worker.model is not None), None)
        if news is None:
            raise ReloadRefused("every worker ended while it took the new bundle")
        self.serves = news
        return news

    async def end(self, seconds: float) -> int:
        """Wait for the workers to end, as they were ordered to; the exit code of the whole. Those that have not ended
        after so many seconds are ended.
        """
        self._ending.set()
        self._codes.clear()
        keeping = self._keeping[: self.count]
        _, late = await asyncio.wait(keeping, timeout=seconds) if keeping else (set(), set())
        for worker in self.workers:
            log.error("worker %d has not ended in %g s, and is ended", worker.number, seconds)
            worker.kill()
        if late:
            await asyncio.wait(late, timeout=SILENT)
        for task in self._keeping:
            task.cancel()
        return max((0 if code == 0 else 1 for code in self._codes), default=0)

    def kill(self) -> None:
        """End every worker at once."""
        self._ending.set()
        for worker in self.workers:
            worker.kill()


def _known(report: WorkerReport) -> OodguardError:
    """The error that kept a worker from starting, as it would have been raised here."""
    kind: Any = getattr(errors, report.error or "", None)
    text = report.text or "the worker cannot start"
    if isinstance(kind, type) and issubclass(kind, OodguardError) and kind is not errors.ImageError:
        return kind(text)
    return OodguardError(text)
