"""The common parts of the sync and the async Triton client: everything between their calls of Triton."""

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
from oodguard.clients.images import content_of
from oodguard.core.answers import ModelRef, PredictResponse, Timing
from oodguard.core.codes import Code
from oodguard.core.errors import FormatError, ImageError
from oodguard.core.explainer import Explainer
from oodguard.core.images import ImageLike, listed, picture_of
from oodguard.core.manifest import INPUT_NAME, PROBABILITIES_NAME, SCORES_NAME, Manifest
from oodguard.core.preprocessing import Pixels
from oodguard.core.problems import problem, summary_of
from oodguard.core.quality import Picture
from oodguard.core.targets import Asked, Targets
from oodguard.core.triton import Configuration, failure_of, hashes
from oodguard.core.verdict import DEFAULT_TOP_K, Outputs, Verdict

ATTEMPTS = 2
MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Model:
    """The version of the model that the client asks, from Triton's configuration."""

    version: int
    explainer: Explainer
    max_batch: int

    @property
    def manifest(self) -> Manifest:
        """The version's manifest."""
        return self.explainer.manifest


@dataclass(slots=True)
class Job:
    """One call of `predict`: its images as pictures, or why an image cannot be used, and the seconds spent so far."""

    started: float
    files: list[str]
    images: list[Picture | ImageError]
    decode: float = 0.0
    inference: float = 0.0

    def batches(self, size: int) -> Iterator[Pixels]:
        """The usable images in batches of at most `size`."""
        pictures = self.pictures
        for start in range(0, len(pictures), size):
            yield np.stack([picture.pixels for picture in pictures[start : start + size]])

    @property
    def pictures(self) -> list[Picture]:
        """The usable images, in order."""
        return [image for image in self.images if not isinstance(image, ImageError)]


class TritonCalls:
    """Everything that both clients do between their calls of Triton."""

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
        """The versions to try, newest first. Raises `FormatError` for a model that oodguard did not write."""
        numbers = sorted(hashes(configuration.parameters), reverse=True)
        if not numbers:
            raise FormatError(
                f"{self.name} on {self._where} was not written by oodguard export --triton; name another model"
            )
        return [self._pinned] if self._pinned is not None else numbers

    def describe(self, configuration: Configuration, number: int) -> Model:
        """Version `number`. Raises `FormatError` if the configuration contradicts itself or does not describe it."""
        found = configuration.described(number)
        configuration.version_of(found.manifest, pinned=number, where=self._where)
        return Model(number, found.explainer, configuration.max_batch)

    def decode(self, images: ImageLike | Sequence[ImageLike], manifest: Manifest) -> Job:
        """Images to pictures. Raises `ImageError` for a file that cannot be read and for what is not an image."""
        job = Job(time.monotonic(), [], [])
        for index, image in enumerate(listed(images)):
            file, content = content_of(image, index)
            job.files.append(file)
            try:
                job.images.append(picture_of(content, manifest.preprocessing))
            except ImageError as error:
                job.images.append(error)
        job.decode = time.monotonic() - job.started
        return job

    def requests(self, model: Model, job: Job, explain: bool) -> Iterator[dict[str, Any]]:
        """The arguments of tritonclient's `infer` for each batch; only `explain` needs all outputs."""
        for batch in job.batches(model.max_batch):
            tensor = InferInput(INPUT_NAME, batch.shape, "UINT8")
            tensor.set_data_from_numpy(batch)
            yield {
                "model_name": self.name,
                "model_version": str(model.version),
                "inputs": [tensor],
                "outputs": [InferRequestedOutput(name) for name in outputs_of(model.manifest, explain)],
                "timeout": round(self.timeout * MICRO),
                "client_timeout": self.timeout,
            }

    def judge(
        self,
        model: Model,
        job: Job,
        replies: Sequence[Any],
        asked: Asked,
        top_k: int | None,
        source: str | None,
        explain: bool,
    ) -> PredictResponse:
        """The answer, from Triton's replies for the batches, in order.

        Raises `ServerProblem` when no image can be used, and for a target or a `top_k` out of range or an
        unknown `source`.
        """
        judging = time.monotonic()
        manifest = model.manifest
        targets = _targets(manifest, asked)
        top_k = DEFAULT_TOP_K if top_k is None else top_k
        verdicts = iter(
            _verdicts(model.explainer, job.pictures, replies, targets, top_k, source, explain) if replies else ()
        )
        outcomes = [image if isinstance(image, ImageError) else next(verdicts) for image in job.images]
        ended = time.monotonic()
        answer = PredictResponse.of(
            outcomes,
            job.files,
            model=ModelRef(name=manifest.name, version=manifest.version),
            targets=targets,
            source=source,
            timing=Timing.of(
                read=0.0,
                decode=job.decode,
                queue=0.0,
                inference=job.inference,
                judge=ended - judging,
                total=ended - job.started,
            ),
        )
        if not answer.predictions:
            no_images = problem(Code.NO_IMAGES, "give at least one image")
            raise ServerProblem(summary_of(answer.errors) if answer.errors else no_images)
        return answer

    def error(self, error: InferenceServerException) -> Exception:
        """The client's error for one of tritonclient's."""
        message = " ".join(str(error.message() or "").split())
        failure = failure_of(error.status() or "", message)
        if failure is Code.NOT_READY:
            return ServerUnreachable(
                f"{self._where} cannot run {self.name} ({message}); check the address and the model"
            )
        return ServerProblem(problem(failure, f"{self._where}: {message}"))

    def forget(self, error: InferenceServerException, attempt: int) -> None:
        """Forget the version, which another may have replaced; raise the client's error after the last attempt."""
        found = self.error(error)
        if attempt == ATTEMPTS or not isinstance(found, ServerUnreachable):
            raise found from None
        self.model = None


def _targets(manifest: Manifest, asked: Asked) -> Targets:
    try:
        return manifest.targets.but(**asked)
    except ValueError as error:
        raise ServerProblem(problem(Code.BAD_PARAMETER, str(error))) from None


def outputs_of(manifest: Manifest, explain: bool) -> tuple[str, ...]:
    """The graph's outputs that an answer needs."""
    return manifest.output_names if explain else (PROBABILITIES_NAME, SCORES_NAME)


def _verdicts(
    explainer: Explainer,
    pictures: Sequence[Picture],
    replies: Sequence[Any],
    targets: Targets,
    top_k: int,
    source: str | None,
    explain: bool,
) -> list[Verdict]:
    manifest = explainer.manifest
    found = {
        name: np.concatenate([reply.as_numpy(name) for reply in replies]) for name in outputs_of(manifest, explain)
    }
    measured = manifest.measure(Outputs(**found), source=source)
    try:
        traits = [picture.traits for picture in pictures]
        verdicts = manifest.verdicts(measured, targets=targets, top_k=top_k, source=source, traits=traits)
    except ValueError as error:
        raise ServerProblem(problem(Code.BAD_PARAMETER, str(error))) from None
    if not explain:
        return verdicts
    return [
        verdict.model_copy(update={"explanation": explainer.explain(measured, row)})
        for row, verdict in enumerate(verdicts)
    ]
