"""The HTTP client for asyncio: `await AsyncClient(url).predict([...])`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Unpack

import httpx

from oodguard.clients.calls import CONCURRENCY, Calls, Reply, Send, Wait
from oodguard.clients.errors import ServerProblem
from oodguard.core.answers import PredictResponse, Result
from oodguard.core.errors import ImageError
from oodguard.core.images import ImageLike
from oodguard.core.problems import problem_of
from oodguard.core.targets import Asked


class AsyncClient(Calls):
    """As `Client`, for asyncio.

    ```python
    async with AsyncClient("http://localhost:8000") as client:
        async for result in client.stream(paths):
            print(result.image, result.prediction and result.prediction.is_ood)
    ```
    """

    def _open(self) -> None:
        transport = httpx.AsyncHTTPTransport(uds=self._socket) if self._socket else None
        self._http = httpx.AsyncClient(timeout=self._timeout, headers=self._headers, transport=transport)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        top_k: int | None = None,
        source: str | None = None,
        explain: bool = False,
        timeout: float | None = None,
        **targets: Unpack[Asked],
    ) -> PredictResponse:
        """As `Client.predict`."""
        steps = self._steps(images, targets, top_k, source, explain, timeout)
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as ended:
                answer: PredictResponse = ended.value
                return answer
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
                reply = None
            else:
                reply = await self._send(step)

    async def _send(self, step: Send) -> Reply:
        try:
            return await self._http.post(**self._post(step))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return error

    async def stream(
        self,
        images: Iterable[ImageLike],
        *,
        top_k: int | None = None,
        source: str | None = None,
        explain: bool = False,
        concurrency: int = CONCURRENCY,
        **targets: Unpack[Asked],
    ) -> AsyncIterator[Result]:
        """As `Client.stream`."""
        under_way: deque[asyncio.Task[Result]] = deque()

        async def ask(image: ImageLike) -> Result:
            try:
                answer = await self.predict([image], top_k=top_k, source=source, explain=explain, **targets)
                return Result(image, answer.predictions[0])
            except (ServerProblem, ImageError) as error:
                return Result(image, None, problem_of(error))

        try:
            for image in images:
                if len(under_way) == concurrency:
                    yield await under_way.popleft()
                under_way.append(asyncio.create_task(ask(image)))
            while under_way:
                yield await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
