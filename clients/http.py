"""The HTTP client: `Client(url).predict([...])`, typed answers, clear exceptions (`clients.errors`)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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


class Client(Calls):
    """Talks to one server over kept-open connections; use it as a context manager. Threads may share it.

    ```python
    with Client("http://localhost:8000") as client:
        for prediction in client.predict([Path("photo.jpg")]).predictions:
            print(prediction.label, prediction.is_ood)
    ```

    `timeout` bounds a call in seconds, all attempts together. A full, restarting or absent server is asked again as
    `retries` says.
    """

    def _open(self) -> None:
        transport = httpx.HTTPTransport(uds=self._socket) if self._socket else None
        self._http = httpx.Client(timeout=self._timeout, headers=self._headers, transport=transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        top_k: int | None = None,
        source: str | None = None,
        explain: bool = False,
        timeout: float | None = None,
        **targets: Unpack[Asked],
    ) -> PredictResponse:
        """Verdicts for one image or several, given as paths, bytes, PIL images or uint8 arrays, in one request.

        ```python
        answer = client.predict("photo.jpg", accept=0.99, coverage=0.95, max_error=0.02)
        ```

        `top_k` is how many classes are listed. `targets` are what the answers are to keep, the server's own unless
        given: `accept`, `confidence`, `coverage` and `max_error` (see `Targets`).
        `source` names whose calibration judges: a source of the server's bundle.
        `explain` adds to each prediction which scores decided, and the nearest training photos (`Explanation`).

        Raises `ServerProblem` when the request as a whole was refused, `ServerUnreachable` when nothing answered,
        `ImageError` when an image cannot be sent. An image that failed among others is in the answer's `errors`.
        """
        steps = self._steps(images, targets, top_k, source, explain, timeout)
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as ended:
                answer: PredictResponse = ended.value
                return answer
            if isinstance(step, Wait):
                time.sleep(step.seconds)
                reply = None
            else:
                reply = self._send(step)

    def _send(self, step: Send) -> Reply:
        try:
            return self._http.post(**self._post(step))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return error

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        top_k: int | None = None,
        source: str | None = None,
        explain: bool = False,
        concurrency: int = CONCURRENCY,
        **targets: Unpack[Asked],
    ) -> Generator[Result, None, None]:
        """Verdicts for any number of images, in their order, one request each and `concurrency` of them under way.

        The server forms the batches. An image that fails is a result with a problem; a server that cannot be reached
        ends the stream with `ServerUnreachable`. No more than `concurrency` images are held at a time.
        """
        under_way: deque[Future[Result]] = deque()

        def ask(image: ImageLike) -> Result:
            try:
                answer = self.predict([image], top_k=top_k, source=source, explain=explain, **targets)
                return Result(image, answer.predictions[0])
            except (ServerProblem, ImageError) as error:
                return Result(image, None, problem_of(error))

        with ThreadPoolExecutor(concurrency, thread_name_prefix="oodguard-client") as threads:
            try:
                for image in images:
                    if len(under_way) == concurrency:
                        yield under_way.popleft().result()
                    under_way.append(threads.submit(ask, image))
                while under_way:
                    yield under_way.popleft().result()
            finally:
                for future in under_way:
                    future.cancel()
