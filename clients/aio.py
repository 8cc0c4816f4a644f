"""The HTTP client for asyncio: `await AsyncClient(url).predict([...])`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType

import httpx

from oodguard.clients.calls import TIMEOUT, Reply, Retries, Send, Wait, predict
from oodguard.clients.errors import ServerProblem
from oodguard.clients.images import ImageLike
from oodguard.clients.results import CONCURRENCY, Result, problem_of
from oodguard.server.contract import PredictResponse
from oodguard.training.errors import InputError


class AsyncClient:
    """As `Client`, for asyncio.

    ```python
    async with AsyncClient("http://localhost:8000") as client:
        async for result in client.stream(paths):
            print(result.image, result.prediction and result.prediction.is_ood)
    ```
    """

    def __init__(
        self,
        url: str = "http://localhost:8000",
        *,
        key: str | None = None,
        timeout: float = TIMEOUT,
        retries: Retries | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._retries = retries or Retries()
        self._http = httpx.AsyncClient(timeout=timeout, headers={"x-api-key": key} if key else None)

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
        images: Sequence[ImageLike],
        *,
        accept: float | None = None,
        top_k: int | None = None,
        timeout: float | None = None,
    ) -> PredictResponse:
        """As `Client.predict`."""
        steps = predict(
            self._url,
            images,
            accept=accept,
            top_k=top_k,
            timeout=self._timeout if timeout is None else timeout,
            retries=self._retries,
        )
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
            return await self._http.post(
                f"{self._url}/predict",
                files=step.files,
                params=step.params,
                headers=step.headers,
                timeout=step.timeout,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return error

    async def stream(
        self,
        images: Iterable[ImageLike],
        *,
        accept: float | None = None,
        top_k: int | None = None,
        concurrency: int = CONCURRENCY,
    ) -> AsyncIterator[Result]:
        """As `Client.stream`."""
        under_way: deque[asyncio.Task[Result]] = deque()

        async def ask(image: ImageLike) -> Result:
            try:
                return Result(image, (await self.predict([image], accept=accept, top_k=top_k)).predictions[0])
            except (ServerProblem, InputError) as error:
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
