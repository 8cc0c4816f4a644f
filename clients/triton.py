"""The client for a Triton that serves our models, without a gateway: sync and async, the HTTP client's answers.

    with TritonClient("localhost:8001", model="photos") as client:
        for prediction in client.predict([Path("photo.jpg")]).predictions:
            print(prediction.label, prediction.is_ood)

Images are decoded here, Triton runs the graph, and the verdict is made here with the manifest that Triton's model
configuration carries. Errors are the HTTP client's: `ServerUnreachable`, `ServerProblem`, `InputError`. Needs the
extras client and triton.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType

from tritonclient.grpc import InferenceServerClient, aio
from tritonclient.utils import InferenceServerException

from oodguard.clients.triton_calls import ATTEMPTS, Model, TritonCalls, parts
from oodguard.core.answers import PredictResponse
from oodguard.core.images import ImageLike
from oodguard.core.manifest import Manifest
from oodguard.core.triton import Configuration


class TritonClient(TritonCalls):
    """Asks one Triton; use it as a context manager, so that the connection is closed.

    `version` pins a version of the model; the newest that is ready otherwise, also after another was loaded.
    """

    def __enter__(self) -> TritonClient:
        self._client = InferenceServerClient(self.address, **self.arguments)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def manifest(self) -> Manifest:
        """The manifest of the version that is asked. Raises `ServerUnreachable` and `FormatError`."""
        try:
            return self._find().manifest
        except InferenceServerException as error:
            raise self.error(error) from None

    def predict(
        self, images: ImageLike | Sequence[ImageLike], *, accept: float | None = None, top_k: int | None = None
    ) -> PredictResponse:
        """Verdicts for images given as paths, bytes, PIL images or uint8 arrays.

        Raises `ServerProblem` when Triton refused the request or none of the images can be used, `ServerUnreachable`
        when it cannot be asked, `InputError` when a file cannot be read. An image that failed among others is in the
        answer's `errors`.
        """
        for attempt in range(ATTEMPTS):
            try:
                model = self._find()
                job = self.decode(images, model.manifest)
                began = time.monotonic()
                answers = [
                    self._client.infer(**self.request(model, part)) for part in parts(job.pixels, model.max_batch)
                ]
                job.inference = time.monotonic() - began
                return self.judge(model, job, answers, accept, top_k)
            except InferenceServerException as error:
                self.forget(error, attempt)
        raise AssertionError("unreachable")

    def _find(self) -> Model:
        if self.model is None:
            found = self._client.get_model_config(self.name, client_timeout=self.timeout)
            configuration = Configuration.of(found.config)
            numbers = self.candidates(configuration)
            ready = (n for n in numbers if self._client.is_model_ready(self.name, str(n)))
            self.model = self.describe(configuration, next(ready, numbers[0]))
        return self.model


class AsyncTritonClient(TritonCalls):
    """The same on an event loop; images are decoded in a thread, batches are sent at once.

    ```python
    async with AsyncTritonClient("localhost:8001", model="photos") as client:
        answer = await client.predict([Path("photo.jpg")])
    ```
    """

    async def __aenter__(self) -> AsyncTritonClient:
        self._client = aio.InferenceServerClient(self.address, **self.arguments)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def manifest(self) -> Manifest:
        """As `TritonClient.manifest`."""
        try:
            return (await self._find()).manifest
        except InferenceServerException as error:
            raise self.error(error) from None

    async def predict(
        self, images: ImageLike | Sequence[ImageLike], *, accept: float | None = None, top_k: int | None = None
    ) -> PredictResponse:
        """As `TritonClient.predict`."""
        for attempt in range(ATTEMPTS):
            try:
                model = await self._find()
                job = await asyncio.to_thread(self.decode, images, model.manifest)
                began = time.monotonic()
                calls = (self._client.infer(**self.request(model, part)) for part in parts(job.pixels, model.max_batch))
                answers = await asyncio.gather(*calls)
                job.inference = time.monotonic() - began
                return self.judge(model, job, answers, accept, top_k)
            except InferenceServerException as error:
                self.forget(error, attempt)
        raise AssertionError("unreachable")

    async def _find(self) -> Model:
        if self.model is None:
            found = await self._client.get_model_config(self.name, client_timeout=self.timeout)
            configuration = Configuration.of(found.config)
            numbers = self.candidates(configuration)
            chosen = numbers[0]
            for number in numbers:
                if await self._client.is_model_ready(self.name, str(number)):
                    chosen = number
                    break
            self.model = self.describe(configuration, chosen)
        return self.model
