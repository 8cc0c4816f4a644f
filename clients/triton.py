"""The clients, sync and async, for a Triton that serves exported models without an oodguard server.

    with TritonClient("localhost:8001", model="photos") as client:
        for prediction in client.predict([Path("photo.jpg")]).predictions:
            print(prediction.label, prediction.is_ood)

The client decodes the images, Triton runs the graph, and the client judges with the manifest from Triton's model
configuration. Answers and errors are those of the HTTP client. Install the extras client and triton.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Unpack

from tritonclient.grpc import InferenceServerClient, aio
from tritonclient.utils import InferenceServerException

from oodguard.clients.triton_calls import Model, TritonCalls
from oodguard.core.answers import PredictResponse
from oodguard.core.images import ImageLike
from oodguard.core.manifest import Manifest
from oodguard.core.targets import Asked
from oodguard.core.triton import Configuration


class TritonClient(TritonCalls):
    """A client of one Triton; use it as a context manager, which closes the connection.

    The client asks version `version` of the model or, by default, the newest version that is ready.
    """

    def __enter__(self) -> TritonClient:
        self._client = InferenceServerClient(self.address, **self.arguments)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def manifest(self) -> Manifest:
        """The manifest of the version that the client asks. Raises `ServerUnreachable` and `FormatError`."""
        try:
            return self._find().manifest
        except InferenceServerException as error:
            raise self.error(error) from None

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        top_k: int | None = None,
        source: str | None = None,
        explain: bool = False,
        **targets: Unpack[Asked],
    ) -> PredictResponse:
        """Verdicts for images given as paths, bytes, PIL images or uint8 arrays.

        `top_k`, `explain` and `targets` are those of `Client.predict`; targets are the manifest's own unless given.

        Raises `ServerProblem` when Triton refuses the request or no image can be used, `ServerUnreachable` when Triton
        does not answer, `ImageError` when a file cannot be read. The answer's `errors` list images that cannot be used.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                model = self._find()
                job = self.decode(images, model.manifest)
                began = time.monotonic()
                replies = [self._client.infer(**request) for request in self.requests(model, job, explain)]
                job.inference = time.monotonic() - began
                return self.judge(model, job, replies, targets, top_k, source, explain)
            except InferenceServerException as error:
                self.forget(error, attempt)

    def _find(self) -> Model:
        if self.model is None:
            found = self._client.get_model_config(self.name, client_timeout=self.timeout)
            configuration = Configuration.of(found.config)
            numbers = self.candidates(configuration)
            ready = (n for n in numbers if self._client.is_model_ready(self.name, str(n)))
            self.model = self.describe(configuration, next(ready, numbers[0]))
        return self.model


class AsyncTritonClient(TritonCalls):
    """`TritonClient` for asyncio, which decodes images in a thread and sends all batches at once.

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
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        top_k: int | None = None,
        source: str | None = None,
        explain: bool = False,
        **targets: Unpack[Asked],
    ) -> PredictResponse:
        """As `TritonClient.predict`."""
        attempt = 0
        while True:
            attempt += 1
            try:
                model = await self._find()
                job = await asyncio.to_thread(self.decode, images, model.manifest)
                began = time.monotonic()
                calls = (self._client.infer(**request) for request in self.requests(model, job, explain))
                replies = await asyncio.gather(*calls)
                job.inference = time.monotonic() - began
                return self.judge(model, job, replies, targets, top_k, source, explain)
            except InferenceServerException as error:
                self.forget(error, attempt)

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
