"""One call of the server, without sending or sleeping: what to send, what to make of the answer, when to try again.

The sync and the async client run the same generators; they differ only in how they send and wait.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import ValidationError

from oodguard.clients.errors import ServerProblem, ServerUnreachable
from oodguard.clients.images import FormPart, part_of
from oodguard.core.answers import PredictResponse
from oodguard.core.images import ImageLike, listed
from oodguard.core.problems import Problem

CONCURRENCY = 8
TIMEOUT = 60.0
# The server takes no timeout below this.
SHORTEST = 0.01
BUSY = frozenset({429, 502, 503})


@dataclass(frozen=True, slots=True)
class Send:
    """Send this form and come back with the response, or with httpx's error."""

    files: list[tuple[str, FormPart]]
    params: dict[str, float | int]
    headers: dict[str, str]
    timeout: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Come back after so many seconds."""

    seconds: float


Reply = httpx.Response | httpx.HTTPError | httpx.InvalidURL | None
Steps = Generator[Send | Wait, Reply, PredictResponse]


@dataclass(frozen=True, slots=True)
class Retries:
    """When a call is tried again: the server is full, restarting or not there, and time is left.

    Asking for a verdict changes nothing on the server, so repeating it is safe; nothing else is ever repeated. Waits
    double from `first` seconds to `longest` with full jitter, and are never shorter than the server's `Retry-After`.
    """

    attempts: int = 5
    first: float = 0.1
    longest: float = 5.0

    def wait(self, attempt: int, retry_after: float, chance: float) -> float:
        """Seconds before attempt `attempt` + 1; `chance` is uniform in 0..1."""
        return retry_after + chance * min(self.longest, self.first * 2.0 ** (attempt - 1))


def predict(
    url: str,
    images: Sequence[ImageLike],
    *,
    accept: float | None,
    top_k: int | None,
    timeout: float,
    retries: Retries,
    clock: Callable[[], float] = time.monotonic,
    chance: Callable[[], float] = random.random,
) -> Steps:
    """The steps of one request; `timeout` bounds all its attempts together, and the server is told what is left."""
    params: dict[str, float | int] = {}
    if accept is not None:
        params["accept"] = accept
    if top_k is not None:
        params["top_k"] = top_k
    files = [("image", part_of(image, index)) for index, image in enumerate(images)]
    deadline = clock() + timeout
    attempt = 0
    while True:
        attempt += 1
        left = deadline - clock()
        if left < SHORTEST:
            raise ServerUnreachable(f"{url} did not answer in time")
        reply = yield Send(files, params, {"x-request-timeout-ms": str(int(1e3 * left))}, left)
        if isinstance(reply, httpx.Response):
            if reply.status_code not in BUSY:
                return _answer(url, reply)
            wait = retries.wait(attempt, _retry_after(reply), chance())
            if attempt >= retries.attempts or clock() + wait >= deadline:
                return _answer(url, reply)
        else:
            wait = retries.wait(attempt, 0.0, chance())
            again = isinstance(reply, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ConnectTimeout)
            if not again or attempt >= retries.attempts or clock() + wait >= deadline:
                raise _unreachable(url, reply)
        yield Wait(wait)


class Calls:
    """What the sync and the async client have in common: whom they ask, how long, and what a call consists of."""

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
        self._headers = {"x-api-key": key} if key else None
        self._open()

    def _open(self) -> None:
        """Make httpx's client, of the kind that this one is."""
        raise NotImplementedError

    def _steps(
        self,
        images: ImageLike | Sequence[ImageLike],
        accept: float | None,
        top_k: int | None,
        timeout: float | None,
    ) -> Steps:
        """The steps of one call of `predict`."""
        left = self._timeout if timeout is None else timeout
        return predict(self._url, listed(images), accept=accept, top_k=top_k, timeout=left, retries=self._retries)

    def _post(self, step: Send) -> dict[str, Any]:
        """The arguments of httpx's `post` for one step."""
        return {
            "url": f"{self._url}/predict",
            "files": step.files,
            "params": step.params,
            "headers": step.headers,
            "timeout": step.timeout,
        }


def _answer(url: str, response: httpx.Response) -> PredictResponse:
    try:
        if response.is_success:
            return PredictResponse.model_validate_json(response.content)
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        raise ServerUnreachable(f"{url} is not an oodguard server ({response.status_code})") from None
    raise ServerProblem(problem)


def _unreachable(url: str, error: Reply) -> ServerUnreachable:
    if isinstance(error, httpx.TimeoutException):
        return ServerUnreachable(f"{url} did not answer in time")
    return ServerUnreachable(f"{url} cannot be reached ({error})")


def _retry_after(response: httpx.Response) -> float:
    try:
        return max(0.0, float(response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0
