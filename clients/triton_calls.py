"""What the sync and the async Triton client do between their calls of Triton."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from oodguard.clients.calls import TIMEOUT
from oodguard.clients.errors import ServerProblem, ServerUnreachable
from oodguard.clients.images import part_of
from oodguard.core.answers import ModelRef, Prediction, PredictResponse, Timing
from oodguard.core.codes import Code
from oodguard.core.errors import FormatError, ImageError
from oodguard.core.images import ImageLike, listed
from oodguard.core.manifest import INPUT_NAME, PROBABILITIES_NAME, SCORES_NAME, Manifest, Outputs
from oodguard.core.preprocessing import Pixels, load_pixels
from oodguard.core.problems import Problem, problem, summary_of
from oodguard.core.triton import Configuration, failure_of, hashes

ATTEMPTS = 2
MICRO = 1_000_000
TOP_K = 5


@dataclass(frozen=True, slots=True)
class Model:
    """The version that is asked, and what its configuration says of it."""

    version: int
    manifest: Manifest
    max_batch: int


@dataclass(slots=True)
class Job:
    """One call of `predict`: what could be decoded, what could not, and the time it takes."""

    started: float
    files: list[str]
    pixels: list[Pixels]
    places: list[int]
    errors: list[Problem]
    decode: float = 0.0
    inference: float = 0.0


class TritonCalls:
    """What both clients do between their calls of Triton."""

    def __init__(
        self,
        address: str = "localhost:8001",
        *,
        model: str,
        version: int | None = None,
        timeout: float = TIMEOUT,
        tls: bool = False,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
    ) -> None:
        files = {"root_certificates": ca, "certificate_chain": cert, "private_key": key}
        self.arguments = {"ssl": tls, **{name: str(path) for name, path in files.items() if path is not None}}
        self.address = address
        self.name = model
        self._pinned = version
        self.timeout = timeout
        self.model: Model | None = None
        self._where = f"Triton at {address}"

    def candidates(self, configuration: Configuration) -> list[int]:
        """The versions to try, the newest first. Raises `FormatError` where the model is none of ours."""
        numbers = sorted(hashes(configuration.parameters), reverse=True)
        if not numbers:
            raise FormatError(f"{self.name} on {self._where} was not written by oodguard export --triton")
        return [self._pinned] if self._pinned is not None else numbers

    def describe(self, configuration: Configuration, number: int) -> Model:
        """The version `number`. Raises `FormatError` where the configuration contradicts itself, or is silent."""
        manifest = configuration.described(number).manifest
        configuration.version_of(manifest, pinned=number, where=self._where)
        return Model(number, manifest, configuration.max_batch)

    def decode(self, images: ImageLike | Sequence[ImageLike], manifest: Manifest) -> Job:
        """Images to pixels, each with its own error.

        Raises `ServerProblem` when not one can be used, `InputError` when one cannot be read.
        """
        job = Job(time.monotonic(), [], [], [], [])
        for index, image in enumerate(listed(images)):
            file, data, _ = part_of(image, index)
            job.files.append(file)
            try:
                job.pixels.append(load_pixels(data, manifest.preprocessing))
                job.places.append(index)
            except ImageError as error:
                job.errors.append(problem(Code(error.code), str(error), index=index, file=file))
        if not job.pixels:
            raise ServerProblem(
                summary_of(tuple(job.errors)) if job.errors else problem(Code.NO_IMAGES, "give an image")
            )
        job.decode = time.monotonic() - job.started
        return job

    def request(self, model: Model, batch: Pixels) -> dict[str, Any]:
        """The arguments of tritonclient's `infer` for one batch."""
        tensor = InferInput(INPUT_NAME, batch.shape, "UINT8")
        tensor.set_data_from_numpy(batch)
        return {
            "model_name": self.name,
            "model_version": str(model.version),
            "inputs": [tensor],
            "outputs": [InferRequestedOutput(name) for name in (PROBABILITIES_NAME, SCORES_NAME)],
            "timeout": round(self.timeout * MICRO),
            "client_timeout": self.timeout,
        }

    def judge(
        self, model: Model, job: Job, answers: Sequence[Any], accept: float | None, top_k: int | None
    ) -> PredictResponse:
        """The answer, from Triton's answers for the batches, in order."""
        judging = time.monotonic()
        tables = [np.concatenate([a.as_numpy(name) for a in answers]) for name in (PROBABILITIES_NAME, SCORES_NAME)]
        manifest = model.manifest
        accept = manifest.default_accept if accept is None else accept
        try:
            verdicts = manifest.judge(
                Outputs(probabilities=tables[0], scores=tables[1]),
                accept=accept,
                top_k=TOP_K if top_k is None else top_k,
            )
        except ValueError as error:
            raise ServerProblem(problem(Code.BAD_PARAMETER, str(error))) from None
        ended = time.monotonic()
        return PredictResponse(
            model=ModelRef(name=manifest.name, version=manifest.version),
            accept=accept,
            predictions=tuple(
                Prediction.of(verdict, index=index, file=job.files[index])
                for index, verdict in zip(job.places, verdicts, strict=True)
            ),
            errors=tuple(job.errors),
            timing_ms=Timing.of(
                read=0.0,
                decode=job.decode,
                queue=0.0,
                inference=job.inference,
                judge=ended - judging,
                total=ended - job.started,
            ),
        )

    def error(self, error: InferenceServerException) -> Exception:
        """The client's error for one of tritonclient's."""
        message = " ".join(str(error.message() or "").split())
        failure = failure_of(error.status() or "", message)
        if failure is Code.NOT_READY:
            return ServerUnreachable(f"{self._where} cannot be asked ({message})")
        return ServerProblem(problem(failure, f"{self._where}: {message}"))

    def forget(self, error: InferenceServerException, attempt: int) -> None:
        """Give up with the client's error, or forget the version: it may have been replaced a moment ago."""
        found = self.error(error)
        if attempt + 1 == ATTEMPTS or not isinstance(found, ServerUnreachable):
            raise found from None
        self.model = None


def parts(pixels: Sequence[Pixels], size: int) -> Iterator[Pixels]:
    """Batches of at most `size` images."""
    for start in range(0, len(pixels), size):
        yield np.stack(pixels[start : start + size])
