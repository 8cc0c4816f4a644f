"""The model that answers, and its replacement while requests run."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc

from oodguard.core.errors import OodguardError
from oodguard.server.engines.base import Engine
from oodguard.server.errors import ReloadRefused
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics
from oodguard.server.model import ServedModel
from oodguard.server.settings import ServeSettings


class Serving:
    """Holds the current model; a request leases it, so a replaced model ends after its last request.

    ```python
    with serving.model.lease() as model:
        ...
    ```

    Raises `FormatError`, `EnvironmentProblem` or `RequestError` (an `accept` that the calibration cannot promise) when
    the first model cannot serve.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics, *, engine: Engine | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._reloading = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.model = ServedModel(settings, metrics, engine=engine)
        metrics.model(self.model.manifest, self.model.targets)

    @property
    def fingerprint(self) -> str | None:
        """The hash of the served bundle's manifest; None where a remote engine brought its own."""
        return self.model.fingerprint

    async def start(self) -> None:
        """Check the golden images: the model is ready only if it answers them as the manifest says."""
        defect = await self.model.check()
        if defect:
            log.error("not ready: %s", defect)

    async def reload(self) -> ServedModel:
        """Load the bundle folder again beside the running model, verify and warm it, then swap.

        Raises `ReloadRefused` when the new bundle cannot serve; the old one then serves on. Requests that started on
        the old model end on it.
        """
        async with self._reloading:
            try:
                new = await self.prepared()
            except ReloadRefused:
                self._metrics.reloads["refused"].inc()
                raise
            self.swap(new)
            self._metrics.reloads["swapped"].inc()
            log.warning("now serving %s version %s", new.manifest.name, new.manifest.version)
            return new

    async def prepared(self) -> ServedModel:
        """What is in the bundle folder now, loaded beside the running model, verified and warm.

        Raises `ReloadRefused` when it cannot serve.
        """
        try:
            return await self._checked()
        except Exception as error:  # whatever this bundle is like, the next one must still be taken
            known = isinstance(error, OodguardError)
            reason = str(error) if known else f"loading it failed in an unexpected way ({type(error).__name__})"
            log.error("bundle refused, the old one serves on: %s", reason, exc_info=None if known else error)
            raise ReloadRefused(reason) from None

    def swap(self, new: ServedModel) -> None:
        """Serve a prepared model from now on; the old one ends after its last request."""
        old, self.model = self.model, new
        self._metrics.model(new.manifest, new.targets)
        task = asyncio.create_task(self._retire(old))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _checked(self) -> ServedModel:
        # In a thread: loading must not hold up requests.
        new = await asyncio.to_thread(ServedModel, self._settings, self._metrics)
        defect = await new.check()
        if defect:
            await new.close()
            raise ReloadRefused(defect)
        return new

    async def _retire(self, old: ServedModel) -> None:
        await old.retire(self._settings.max_request_timeout)
        del old
        gc.collect()
        _give_memory_back()

    async def close(self) -> None:
        """End every model."""
        await asyncio.gather(*self._retiring)
        await self.model.close()


def _give_memory_back() -> None:
    """Ask glibc to return freed pages: it would otherwise keep most of the replaced model's memory."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
