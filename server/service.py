"""The logic behind every route, free of HTTP: decode, batch, judge; one bad image never costs its batch-mates."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from oodguard.core.answers import Prediction, PredictResponse, Timing
from oodguard.core.errors import ImageError, OodguardError
from oodguard.core.preprocessing import Pixels, load_pixels
from oodguard.core.problems import Problem, problem
from oodguard.core.verdict import Verdict
from oodguard.server.admission import Admission
from oodguard.server.batcher import Watch
from oodguard.server.engines.base import Engine
from oodguard.server.errors import DeadlineMissed, EngineUnavailable, ReloadRefused, RequestError
from oodguard.server.keys import KeyRing
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics
from oodguard.server.model import ServedModel
from oodguard.server.places import place_of
from oodguard.server.sampling import Sampler
from oodguard.server.settings import ServeSettings
from oodguard.server.stages import Outcome, Seconds, Stages
from oodguard.server.tracing import CURRENT, Tracing


@dataclass(frozen=True, slots=True)
class Payload:
    """One image as it arrived: its bytes, or why there are none, and the name it was sent under."""

    data: bytes
    file: str | None = None
    error: ImageError | None = None


class GuardService:
    """Answers requests with the current model; replaces the model while serving.

    ```python
    answer = await service.predict([Payload(data)], deadline=time.monotonic() + 10, accept=0.99)
    ```
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics, *, engine: Engine | None = None) -> None:
        self.settings = settings
        self.metrics = metrics
        self.admission = Admission(max_images=settings.max_queue, max_bytes=settings.max_queue_bytes)
        self.keys = KeyRing.load(file=settings.key_file, hashes=settings.key_hashes)
        self.draining = False
        place = place_of(settings.sample_dir, settings.sample_store)
        self.sampler = (
            Sampler(place, rate=settings.sample_rate, max_bytes=settings.sample_max_bytes, metrics=metrics)
            if place is not None
            else None
        )
        self.tracing = (
            Tracing(settings.traces_endpoint, share=settings.traces_share) if settings.traces_endpoint else None
        )
        self.workers = ThreadPoolExecutor(settings.decode_workers, thread_name_prefix="decode")
        self._limits = settings.limits
        self._defect: str | None = "the golden images have not been checked yet"
        self._stalled: str | None = None
        self._reloading = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.model = ServedModel.load(settings, self._watch(), engine=engine)
        metrics.settings(settings)
        metrics.model(self.model.manifest, self.accept(None, self.model))
        metrics.queue_images.set_function(lambda: self.admission.images)
        metrics.ready.set_function(lambda: float(self.not_ready is None))

    def _watch(self) -> Watch:
        return Watch(
            batch=self.metrics.batch_images.observe,
            expired=self.metrics.expired.inc,
            engine_error=self.metrics.engine_errors.inc,
            unavailable=self._fail,
            stalled=self._stall,
            recovered=self._recover,
        )

    async def start(self) -> None:
        """Check the golden images; ready only if they are answered as the manifest says."""
        defect = await self.model.defect()
        if defect:
            log.error("not ready: %s", defect)
        # What is away comes back by itself, and says so.
        self._defect = None if self.model.remote else defect

    # Answering

    async def predict(
        self,
        payloads: Sequence[Payload],
        *,
        deadline: float,
        accept: float | None = None,
        top_k: int | None = None,
        read: float = 0.0,
    ) -> PredictResponse:
        """Verdicts for the images that can be used, problems for the others, both by index.

        `deadline` is a time of `time.monotonic`; `read` the seconds the request took to arrive. Raises `RequestError`
        for an `accept` the calibration cannot promise, `DeadlineMissed`, and `EngineError` when inference fails.
        """
        started = time.monotonic()
        with self.model.lease() as model:
            accept = self.accept(accept, model)
            outcomes = await self._all([self._image(model, payload, deadline) for payload in payloads], deadline)
            judging = time.monotonic()
            predictions: list[Prediction] = []
            errors: list[Problem] = []
            for index, (payload, (outcome, _)) in enumerate(zip(payloads, outcomes, strict=True)):
                if isinstance(outcome, ImageError):
                    self.metrics.rejected[outcome.code].inc()
                    errors.append(problem(outcome.code, str(outcome), index=index, file=payload.file))
                    continue
                verdict = model.manifest.verdict(
                    outcome.measured, outcome.row, accept=accept, top_k=top_k or self.settings.top_k
                )
                # Built from a verdict that was validated a moment ago.
                predictions.append(Prediction.model_construct(index=index, file=payload.file, **dict(verdict)))
                self.answered(payload.data, verdict, model=model, accept=accept)
        ended = time.monotonic()
        self.admission.answered(len(payloads))
        stages = Stages(outcomes, read=read, started=started, judging=judging, ended=ended)
        read, decode, queued, ran, judged = self.record(stages, model)
        # As above: every part was made here, and validating it again would cost as much as writing the answer.
        return PredictResponse.model_construct(
            model=model.ref,
            accept=accept,
            predictions=tuple(predictions),
            errors=tuple(errors),
            timing_ms=Timing.model_construct(
                read=_ms(read),
                decode=_ms(decode),
                queue=_ms(queued),
                inference=_ms(ran),
                judge=_ms(judged),
                total=_ms(read + ended - started),
            ),
        )

    def answered(self, data: bytes, verdict: Verdict, *, model: ServedModel, accept: float) -> None:
        """Count one answered image, and keep it where flagged images are sampled; pixels come without `data`."""
        self.metrics.answer(verdict)
        if self.sampler is not None and data:
            self.sampler.offer(data, verdict, model=model.ref, accept=accept)

    def record(self, stages: Stages, model: ServedModel) -> Seconds:
        """Observe the stages of a request that has just been judged; their seconds."""
        seconds = stages.seconds
        for histogram, value in zip(self.metrics.stage.values(), seconds, strict=True):
            histogram.observe(value)
        trace = CURRENT.get()
        if trace is not None:
            trace.stages(stages, model.ref)
        return seconds

    async def measure(
        self, model: ServedModel, images: Sequence[Payload | Pixels], *, deadline: float
    ) -> list[Outcome]:
        """Outcomes of a leased model for encoded images or for pixels, in order; no threshold is applied.

        Whoever judges them says so to `record`.
        """
        outcomes = await self._all([self._image(model, image, deadline) for image in images], deadline)
        self.admission.answered(len(images))
        return outcomes

    async def _all(self, work: list[Coroutine[None, None, Outcome]], deadline: float) -> list[Outcome]:
        """Run to the end, or to the first failure or the deadline; what is unfinished then is withdrawn."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                if len(work) == 1:
                    return [await work[0]]
                tasks = [asyncio.ensure_future(one) for one in work]
                try:
                    return await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()
        except TimeoutError:
            raise DeadlineMissed("the request was not answered within its time") from None

    async def _image(self, model: ServedModel, image: Payload | Pixels, deadline: float) -> Outcome:
        """One image's answer or its own error, and the seconds its decoding took."""
        started = time.monotonic()
        if isinstance(image, Payload):
            if image.error is not None:
                return image.error, 0.0
            try:
                pixels = await asyncio.get_running_loop().run_in_executor(
                    self.workers, load_pixels, image.data, model.manifest.preprocessing, self._limits
                )
            except ImageError as error:
                return error, time.monotonic() - started
        else:
            pixels = image
        seconds = time.monotonic() - started
        return await model.batcher.submit(pixels, deadline=deadline), seconds

    def accept(self, asked: float | None, model: ServedModel) -> float:
        """The target acceptance to judge by. Raises `RequestError` for one the model's calibration cannot promise."""
        accept = asked if asked is not None else self.settings.accept or model.manifest.default_accept
        try:
            model.manifest.thresholds(accept)
        except ValueError as error:
            raise RequestError("bad_parameter", str(error)) from None
        return accept

    # Health

    @property
    def not_ready(self) -> str | None:
        """Why no new traffic should be sent here; None when it may be."""
        shutting_down = "shutting down" if self.draining else None
        return self._defect or self._stalled or shutting_down or self.model.unreachable

    @property
    def dead(self) -> str | None:
        """Why the process should be restarted; None when it need not be."""
        seconds = self.model.batcher.oldest_run
        return f"an inference has been running for {seconds:.0f} s" if seconds > self.settings.dead_after else None

    @property
    def broken(self) -> str | None:
        """Why no request can be answered; None when they can. A slow inference is no reason yet: it may end."""
        return self._defect or self.dead or self.model.unreachable

    def require_able(self) -> None:
        """Raise `EngineUnavailable` when no request can be answered."""
        if self.broken:
            raise EngineUnavailable(self.broken)

    def _fail(self, reason: str) -> None:
        self._defect = reason
        log.error("not ready: %s", reason)

    def _stall(self, seconds: float) -> None:
        self._stalled = f"an inference has been running for more than {seconds:g} s"
        log.error("not ready: %s", self._stalled)

    def _recover(self) -> None:
        self._stalled = None
        log.warning("ready again: the slow inference has ended")

    # Replacing the model

    async def reload(self) -> ServedModel:
        """Load the bundle folder again beside the running model, verify and warm it, then swap.

        Raises `ReloadRefused` when the new bundle cannot serve; the old one goes on. Requests that started on the old
        model end on it.
        """
        async with self._reloading:
            try:
                # The batcher belongs to the loop, the loading does not.
                new = await ServedModel.load_beside(self.settings, self._watch())
                accept = self.accept(None, new)
                defect = await new.defect()
                if defect:
                    await new.engine.close()
                    raise ReloadRefused(defect)
            except OodguardError as error:
                self.metrics.reloads["refused"].inc()
                log.error("bundle refused, the old one serves on: %s", error)
                raise ReloadRefused(str(error)) from None
            old, self.model = self.model, new
            self._defect = self._stalled = None
            self.metrics.model(new.manifest, accept)
            self.metrics.reloads["swapped"].inc()
            log.warning("now serving %s version %s", new.manifest.name, new.manifest.version)
            task = asyncio.create_task(self._retire(old))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
            return new

    def reload_keys(self) -> None:
        """Read the key file again. Raises `ReloadRefused`; the old keys stay valid then."""
        try:
            self.keys = KeyRing.load(file=self.settings.key_file, hashes=self.settings.key_hashes)
        except OodguardError as error:
            log.error("key file refused, the old keys stay valid: %s", error)
            raise ReloadRefused(str(error)) from None

    async def _retire(self, old: ServedModel) -> None:
        await old.retire(self.settings.max_request_timeout)
        del old
        gc.collect()
        _give_memory_back()

    async def close(self) -> None:
        """Stop the decoders and the engine."""
        self.workers.shutdown(wait=False, cancel_futures=True)
        if self.sampler is not None:
            await asyncio.to_thread(self.sampler.close)
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)
        await asyncio.gather(*self._retiring)
        await self.model.engine.close()


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def _give_memory_back() -> None:
    """Ask glibc to return freed pages: it would otherwise keep most of the replaced model's memory."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
