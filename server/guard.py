"""A guard in the caller's own process: a bundle in, answers out, without a server; sync, and for asyncio."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, closing
from types import TracebackType
from typing import ParamSpec, Unpack

from oodguard.core.answers import PredictResponse, Result
from oodguard.core.images import ImageLike, listed
from oodguard.core.targets import Asked
from oodguard.core.verdict import DEFAULT_TOP_K
from oodguard.server.guard_calls import GuardCalls

Options = ParamSpec("Options")


class Guard(GuardCalls):
    """A verified bundle that answers for images in this process. Threads may share it.

    ```python
    with oodguard.load("bundles/photos") as guard:
        for prediction in guard.predict(["photo.jpg", "other.jpg"], accept=0.99).predictions:
            print(prediction.file, prediction.label, prediction.is_ood)
    ```

    `predict` and `stream` are those of the HTTP client (`oodguard.clients.Client`): the same images go in and the same
    classes come out, so that a program can change from one to the other.
    """

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        top_k: int = DEFAULT_TOP_K,
        source: str | None = None,
        explain: bool = False,
        **targets: Unpack[Asked],
    ) -> PredictResponse:
        """Verdicts for one image or several.

        ```python
        prediction = guard.predict("photo.jpg").predictions[0]
        ```

        An image is a path, encoded bytes, a PIL image or a uint8 array: `[H, W, 3]` in RGB order, or `[H, W]` grey.
        `top_k` is how many classes are listed. `source` names whose calibration judges, of those that
        `oodguard recalibrate` put into the bundle. `explain` adds to each prediction which scores decided, and the
        nearest training photos. `targets` are what the answers are to keep, the bundle's own unless given:

        accept       the share of ID images that should pass
        confidence   how sure that is to be; unless given, `accept` is kept on average
        coverage     the chance that a label set (`labels`) holds the true class
        max_error    the largest share of wrong labels among the images whose `decision` is `answer`

        An image that cannot be used is in the answer's `errors` with its index, and the others are answered. Raises
        `Refused` when none can be used or an argument is out of range, `EngineUnavailable` when the guard is closed.
        """
        future = self._judge.submit(self._answer(listed(images), targets, top_k, source, explain))
        try:
            return future.result()
        finally:
            # Withdraws the images of a call that was interrupted, and nothing of one that has ended.
            future.cancel()

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        top_k: int = DEFAULT_TOP_K,
        source: str | None = None,
        explain: bool = False,
        **targets: Unpack[Asked],
    ) -> Iterator[Result]:
        """Verdicts for any number of images, in their order, in batches of `max_batch`.

        ```python
        for result in guard.stream(Path("photos").rglob("*.jpg")):
            print(result.image, result.prediction and result.prediction.is_ood)
        ```

        `images` is read a few batches ahead, so that memory does not grow with their number. An image that cannot be
        used is a result with a problem. Raises as `predict` does.
        """
        with closing(self._judging(images, targets, top_k, source, explain)) as judging:
            for batch, future in judging:
                yield from map(Result.of, batch, future.result().outcomes)

    def close(self) -> None:
        """Let calls under way finish, then release threads and memory. A closed guard stays closed."""
        self._judge.close()


class AsyncGuard(GuardCalls):
    """As `Guard`, for asyncio: the same methods, awaited, as httpx has them.

    ```python
    async with oodguard.aload("bundles/photos") as guard:
        answer = await guard.predict("photo.jpg")
    ```

    The guard works in threads of its own: it never blocks the caller's event loop, and several loops may share it.
    Cancel a call to withdraw its images.
    """

    async def __aenter__(self) -> AsyncGuard:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        top_k: int = DEFAULT_TOP_K,
        source: str | None = None,
        explain: bool = False,
        **targets: Unpack[Asked],
    ) -> PredictResponse:
        """As `Guard.predict`."""
        return await asyncio.wrap_future(
            self._judge.submit(self._answer(listed(images), targets, top_k, source, explain))
        )

    async def stream(
        self,
        images: Iterable[ImageLike],
        *,
        top_k: int = DEFAULT_TOP_K,
        source: str | None = None,
        explain: bool = False,
        **targets: Unpack[Asked],
    ) -> AsyncIterator[Result]:
        """As `Guard.stream`."""
        with closing(self._judging(images, targets, top_k, source, explain)) as judging:
            for batch, future in judging:
                judged = await asyncio.wrap_future(future)
                for image, outcome in zip(batch, judged.outcomes, strict=True):
                    yield Result.of(image, outcome)

    async def close(self) -> None:
        """As `Guard.close`."""
        await asyncio.to_thread(self._judge.close)


class Opening(Awaitable[AsyncGuard], AbstractAsyncContextManager[AsyncGuard]):
    """What `aload` returns: `async with` loads a guard and closes it; `await` loads one that the caller closes.

    Loading hashes the bundle and starts the engine, in a thread.
    """

    def __init__(self, load: Callable[[], AsyncGuard]) -> None:
        self._load = load
        self._guard: AsyncGuard

    def __await__(self) -> Generator[object, None, AsyncGuard]:
        return asyncio.to_thread(self._load).__await__()

    async def __aenter__(self) -> AsyncGuard:
        self._guard = await self
        return self._guard

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._guard.close()


def _opening(load: Callable[Options, AsyncGuard]) -> Callable[Options, Opening]:
    @functools.wraps(load)
    def opening(*args: Options.args, **options: Options.kwargs) -> Opening:
        return Opening(functools.partial(load, *args, **options))

    return opening


load = Guard.load
aload = _opening(AsyncGuard.load)
