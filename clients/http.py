"""The HTTP client: `Client(url).predict([...])`, typed answers, clear exceptions.

ClientError
|- ServerUnreachable   nothing answers at the address, or not in time
`- ServerProblem       the server answered with a problem document; `.problem` holds it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import httpx
from pydantic import ValidationError

from oodguard.server.contract import PredictResponse, Problem
from oodguard.training.errors import EnvironmentProblem, InputError, OodguardError

TIMEOUT = 60.0
FILES_PER_REQUEST = 16


class ClientError(OodguardError):
    """Base of the client's errors."""


class ServerUnreachable(ClientError, EnvironmentProblem):
    """Nothing answers at the address, or not in time."""


class ServerProblem(ClientError):
    """The server refused the request or failed on it."""

    def __init__(self, problem: Problem) -> None:
        where = f"{problem.file}: " if problem.file else ""
        super().__init__(f"{where}{problem.title} ({problem.status}): {problem.detail}")
        self.problem = problem


class Client:
    """Talks to one server; use it as a context manager, so that connections are closed.

    ```python
    with Client("http://localhost:8000") as client:
        for prediction in client.predict([Path("photo.jpg")]).predictions:
            print(prediction.label, prediction.is_ood)
    ```
    """

    def __init__(self, url: str = "http://localhost:8000", *, key: str | None = None, timeout: float = TIMEOUT) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.Client(timeout=timeout, headers={"x-api-key": key} if key else None)

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
        self, images: Sequence[Path | bytes], *, accept: float | None = None, top_k: int | None = None
    ) -> PredictResponse:
        """Verdicts for images given as paths or bytes, in one request.

        Raises `ServerProblem` when the request as a whole was refused, `ServerUnreachable` when nothing answered,
        `InputError` when a file cannot be read. An image that failed among others is in the answer's `errors`.
        """
        parameters = {k: v for k, v in (("accept", accept), ("top_k", top_k)) if v is not None}
        files = [("image", _part(image, index)) for index, image in enumerate(images)]
        try:
            response = self._http.post(f"{self._url}/predict", files=files, params=parameters)
        except httpx.TimeoutException:
            raise ServerUnreachable(f"{self._url} did not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerUnreachable(f"{self._url} cannot be reached ({error})") from None
        try:
            if response.is_success:
                return PredictResponse.model_validate_json(response.content)
            raise ServerProblem(Problem.model_validate_json(response.content))
        except ValidationError:
            raise ServerUnreachable(f"{self._url} is not an oodguard server ({response.status_code})") from None

    def predict_many(
        self, paths: Sequence[Path], *, accept: float | None = None, top_k: int | None = None
    ) -> Iterator[tuple[Sequence[Path], PredictResponse | ServerProblem]]:
        """Verdicts for any number of files, a few a request: pairs of paths and their answer or refusal."""
        for start in range(0, len(paths), FILES_PER_REQUEST):
            chunk = paths[start : start + FILES_PER_REQUEST]
            try:
                yield chunk, self.predict(chunk, accept=accept, top_k=top_k)
            except ServerProblem as problem:
                yield chunk, problem


def _part(image: Path | bytes, index: int) -> tuple[str, bytes, str]:
    if isinstance(image, bytes):
        return f"{index}", image, "application/octet-stream"
    try:
        return image.name, image.read_bytes(), "application/octet-stream"
    except OSError as error:
        raise InputError(f"{image} cannot be read ({error.strerror})") from None
