"""The logic behind `/predict`, free of HTTP: decode, infer, judge; one bad image never costs its batch-mates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oodguard.export.contract import Manifest, Outputs
from oodguard.server.contract import ModelRef, Prediction, PredictResponse, Problem, Timing
from oodguard.server.engines.base import Engine
from oodguard.server.errors import EngineError, EngineTimeout, EngineUnavailable, RequestError, problem
from oodguard.server.metrics import Metrics
from oodguard.server.settings import ServeSettings
from oodguard.training.errors import ImageError, QualityError
from oodguard.training.preprocess import Pixels, load_pixels


@dataclass(frozen=True)
class Payload:
    """One image as it arrived: its bytes, or why there are none, and the name it was sent under."""

    data: bytes
    file: str | None = None
    error: ImageError | None = None


class GuardService:
    """Answers requests with one bundle and one engine.

    ```python
    answer = await service.predict([Payload(data)], accept=0.99)
    ```
    """

    def __init__(
        self, bundle: Path, manifest: Manifest, engine: Engine, settings: ServeSettings, metrics: Metrics
    ) -> None:
        self.manifest = manifest
        self.engine = engine
        self.settings = settings
        self.metrics = metrics
        self._bundle = bundle
        self._decoders = ThreadPoolExecutor(settings.decode_workers, thread_name_prefix="decode")
        self._not_ready: str | None = "the golden images have not been checked yet"

    async def predict(
        self, payloads: Sequence[Payload], *, accept: float | None = None, top_k: int | None = None
    ) -> PredictResponse:
        """Verdicts for the images that can be used, problems for the others, both by index.

        Raises `RequestError` for an `accept` the calibration cannot promise, `EngineError` when inference fails.
        """
        started = time.monotonic()
        accept = self._accept(accept)
        decoded = await asyncio.gather(*(self._decode(payload) for payload in payloads))
        decode_done = time.monotonic()
        errors: list[Problem] = []
        good: list[tuple[int, Pixels]] = []
        for index, (payload, result) in enumerate(zip(payloads, decoded, strict=True)):
            if isinstance(result, ImageError):
                self.metrics.rejected.labels(result.code).inc()
                errors.append(problem(result.code, str(result), index=index, file=payload.file))
            else:
                good.append((index, result))
        predictions: list[Prediction] = []
        infer_seconds = judge_seconds = 0.0
        if good:
            outputs = await self._infer(np.stack([pixels for _, pixels in good]))
            infer_seconds = time.monotonic() - decode_done
            judge_started = time.monotonic()
            try:
                verdicts = self.manifest.judge(outputs, accept=accept, top_k=top_k or self.settings.top_k)
            except QualityError as error:
                self.metrics.engine_errors.inc()
                raise EngineError(str(error)) from None
            for (index, _), verdict in zip(good, verdicts, strict=True):
                predictions.append(Prediction(index=index, file=payloads[index].file, **dict(verdict)))
                self.metrics.predictions.labels(verdict.label, str(verdict.is_ood).lower()).inc()
            judge_seconds = time.monotonic() - judge_started
        timing = Timing(
            decode=1e3 * (decode_done - started),
            inference=1e3 * infer_seconds,
            judge=1e3 * judge_seconds,
            total=1e3 * (time.monotonic() - started),
        )
        for stage, value in (("decode", timing.decode), ("inference", timing.inference), ("judge", timing.judge)):
            self.metrics.stage_seconds.labels(stage).observe(value / 1e3)
        return PredictResponse(
            model=ModelRef(name=self.manifest.name, version=self.manifest.version),
            accept=accept,
            predictions=tuple(predictions),
            errors=tuple(errors),
            timing_ms=timing,
        )

    def _accept(self, asked: float | None) -> float:
        accept = asked if asked is not None else self.settings.accept or self.manifest.default_accept
        try:
            self.manifest.fusion.curve.threshold(accept)
        except ValueError as error:
            raise RequestError("bad_parameter", str(error)) from None
        return accept

    async def _decode(self, payload: Payload) -> Pixels | ImageError:
        if payload.error is not None:
            return payload.error
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._decoders, load_pixels, payload.data, self.manifest.preprocessing, self.settings.limits
            )
        except ImageError as error:
            return error

    async def _infer(self, images: np.ndarray) -> Outputs:
        size = self.settings.max_batch
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            self.metrics.batch_images.observe(len(batch))
            try:
                parts.append(await asyncio.wait_for(self.engine.infer(batch), self.settings.inference_timeout))
            except TimeoutError:
                self.metrics.engine_errors.inc()
                raise EngineTimeout(f"inference took longer than {self.settings.inference_timeout:g} s") from None
            except EngineUnavailable as error:
                self.mark_not_ready(str(error))
                raise
            except EngineError:
                self.metrics.engine_errors.inc()
                raise
        return Outputs(
            probabilities=np.concatenate([part.probabilities for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
        )

    async def check(self) -> None:
        """Answer the golden images and compare with the manifest; ready only if they agree."""
        golden = self.manifest.golden
        try:
            images = [load_pixels((self._bundle / g.path).read_bytes(), self.manifest.preprocessing) for g in golden]
            outputs = await self._infer(np.stack(images))
            verdicts = self.manifest.judge(outputs)
        except (ImageError, QualityError, EngineError, OSError) as error:
            self.mark_not_ready(f"the golden images could not be answered ({error})")
            return
        errors = self.manifest.score_errors([g.scores for g in golden], outputs.scores)
        tolerance = self.manifest.parity.tolerance
        wrong = [g.path for g, v in zip(golden, verdicts, strict=True) if (g.label, g.is_ood) != (v.label, v.is_ood)]
        if wrong:
            self.mark_not_ready(f"the verdict on {wrong[0]} is not the one in the manifest")
        elif float(errors.max()) > tolerance:
            self.mark_not_ready(
                f"scores of the golden images differ from the manifest's by {errors.max():.1e} (allowed {tolerance:g})"
            )
        else:
            self._not_ready = None
            self.metrics.ready.set(1)

    def mark_not_ready(self, reason: str) -> None:
        """Turn readiness red."""
        self._not_ready = reason
        self.metrics.ready.set(0)

    @property
    def not_ready(self) -> str | None:
        """Why the service is not ready; None when it is."""
        return self._not_ready

    async def close(self) -> None:
        """Stop the decoders and the engine."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        await self.engine.close()
