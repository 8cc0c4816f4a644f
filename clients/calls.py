"""One call of the server as a generator of steps: requests to send, waits before the next attempt, and the answer.

The sync and the async client run the same generator and differ only in how they send and wait.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import ValidationError

from oodguard.clients.errors import ServerProblem, ServerUnreachable
from oodguard.clients.images import FormPart, part_of
from oodguard.clients.proxies import error_of
from oodguard.core.answers import PredictResponse
from oodguard.core.images import ImageLike, listed
from oodguard.core.problems import Problem
from oodguard.core.targets import Asked, named

CONCURRENCY = 8
TIMEOUT = 60.0
# The server refuses timeouts below this.
SHORTEST = 0.01
BUSY = frozenset({429, 502, 503})
UNIX = "unix:"
LOST = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)


@dataclass(frozen=True, slots=True)
class Send:
    """Send this form, and resume the generator with the response or httpx's error."""

    files: list[tuple[str, FormPart]]
    params: dict[str, float | int | str]
    headers: dict[str, str]
    timeout: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Resume the generator after so many seconds."""

    seconds: float


Reply = httpx.Response | httpx.HTTPError | httpx.InvalidURL | None
Steps = Generator[Send | Wait, Reply, PredictResponse]


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how soon the client repeats a request to a server that is full, restarting or absent.

    A repeated request is safe, because a prediction changes nothing on the server. Waits double from `first` to
    `longest` seconds with full jitter, and are never shorter than the server's `Retry-After`.
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
    asked: Mapping[str, float],
    top_k: int | None,
    source: str | None = None,
    explain: bool = False,
    timeout: float,
    retries: Retries,
    clock: Callable[[], float] = time.monotonic,
    chance: Callable[[], float] = random.random,
) -> Steps:
    """The steps of one request. `asked`: targets that it names.

    `timeout` bounds all attempts together; each attempt tells the server the time left.
    """
    given = (*asked.items(), ("top_k", top_k), ("source", source), ("explain", "true" if explain else None))
    params = {name: value for name, value in given if value is not None}
    files = [("image", part_of(image, index)) for index, image in enumerate(images)]
    deadline = clock() + timeout
    attempt = 0
    while True:
        attempt += 1
        left = deadline - clock()
        if left < SHORTEST:
            raise _late(url)
        reply = yield Send(files, params, {"x-request-timeout-ms": str(int(1e3 * left))}, left)
        if isinstance(reply, httpx.Response):
            again, retry_after = reply.status_code in BUSY, _retry_after(reply)
        else:
            again, retry_after = isinstance(reply, LOST), 0.0
        wait = retries.wait(attempt, retry_after, chance())
        if not again or attempt >= retries.attempts or clock() + wait >= deadline:
            return _answer(url, reply, sum(len(part[1]) for _, part in files))
        yield Wait(wait)


class Calls:
    """The common parts of the sync and the async client: address, key, timeout, retries, and the steps of a call.

    `url` is the address of a server, or unix:/run/og.sock for one that listens on a Unix socket.
    """

    def __init__(
        self,
        url: str = "http://localhost:8000",
        *,
        key: str | None = None,
        timeout: float = TIMEOUT,
        retries: Retries | None = None,
    ) -> None:
        socket = url.removeprefix(UNIX) if url.startswith(UNIX) else None
        # What runs at a socket has no host; the name is for the Host header.
        self._base = url.rstrip("/") if socket is None else "http://localhost"
        self._url = url.rstrip("/")
        self._socket = socket
        self._timeout = timeout
        self._retries = retries or Retries()
        self._headers = {"x-api-key": key} if key else None
        self._open()

    def _open(self) -> None:
        """Make httpx's sync or async client."""
        raise NotImplementedError

    def _steps(
        self,
        images: ImageLike | Sequence[ImageLike],
        asked: Asked,
        top_k: int | None,
        source: str | None,
        explain: bool,
        timeout: float | None,
    ) -> Steps:
        """The steps of one call of `predict`."""
        left = self._timeout if timeout is None else timeout
        return predict(
            self._url,
            listed(images),
            asked=named(**asked),
            top_k=top_k,
            source=source,
            explain=explain,
            timeout=left,
            retries=self._retries,
        )

    def _post(self, step: Send) -> dict[str, Any]:
        """The arguments of httpx's `post` for one step."""
        return {
            "url": f"{self._base}/predict",
            "files": step.files,
            "params": step.params,
            "headers": step.headers,
            "timeout": step.timeout,
        }


def _answer(url: str, reply: Reply, sent: int) -> PredictResponse:
    """The answer in a reply. Raises the client's error for any other reply.

    A newer server may say more than this client knows; that is left out.
    """
    if isinstance(reply, httpx.TimeoutException):
        raise _late(url)
    if not isinstance(reply, httpx.Response):
        raise ServerUnreachable(f"{url} cannot be reached ({reply}); check the address and that a server runs there")
    try:
        if reply.is_success:
            return PredictResponse.model_validate_json(reply.content, extra="ignore")
        problem = Problem.model_validate_json(reply.content, extra="ignore")
    except ValidationError:
        raise error_of(url, reply, sent=sent) from None
    raise ServerProblem(problem)


def _late(url: str) -> ServerUnreachable:
    return ServerUnreachable(f"{url} did not answer in time; try again later or with a longer timeout")


def _retry_after(response: httpx.Response) -> float:
    try:
        return max(0.0, float(response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0
