"""One Triton server: inference, and whether it may be asked."""

from __future__ import annotations

import asyncio
import time

import numpy as np
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

from oodguard.core.errors import FormatError, OodguardError
from oodguard.core.manifest import INPUT_NAME, PROBABILITIES_NAME, SCORES_NAME, Manifest
from oodguard.core.triton import Configuration, hashes
from oodguard.core.verdict import Outputs
from oodguard.server.engines.base import Batch
from oodguard.server.engines.shared_memory import SharedInputs
from oodguard.server.engines.triton_api import Connection, error_of, where
from oodguard.server.errors import DeadlineMissed, EngineUnavailable, Overloaded
from oodguard.server.golden import broken_promise, join
from oodguard.server.logs import server as log
from oodguard.server.tracing import traced_call

MICRO = 1_000_000
UNSEEN = "it has not been asked yet"
# How often a server that works is asked whether it still serves what it served.
IDENTITY_SECONDS = 5.0


class TritonServer:
    """A Triton at `address`; `down` says why it may not be asked, None when it may.

    It is down until its configuration has shown the manifest's graph and the golden images were answered as promised.
    """

    def __init__(
        self,
        address: str,
        connection: Connection,
        *,
        model: str,
        manifest: Manifest,
        pinned: int | None,
        golden: Batch,
        shared: SharedInputs | None,
    ) -> None:
        self.where = where(address)
        self.down: str | None = UNSEEN
        self.busy = self.turn = 0
        self.wake = asyncio.Event()
        self._client = aio.InferenceServerClient(address, **connection.arguments())
        self._model = model
        self._manifest = manifest
        self._pinned = pinned
        self._golden = golden
        self._shared = shared
        self._version = ""
        self._max_batch = 1
        self._answered = self._verified = -float("inf")
        self._every = [aio.InferRequestedOutput(name) for name in manifest.output_names]
        self._usual = [aio.InferRequestedOutput(name) for name in (PROBABILITIES_NAME, SCORES_NAME)]

    async def infer(self, images: Batch, *, deadline: float | None = None, neighbours: bool = False) -> Outputs:
        """Answers for one batch; a failure that tells of the server's absence marks it as down."""
        outputs = self._every if neighbours else self._usual
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise DeadlineMissed("the deadline passed before the image was sent to Triton")
        tensor = aio.InferInput(INPUT_NAME, images.shape, "UINT8")
        slot = self._shared.put(images, tensor) if self._shared else None
        if slot is None:
            tensor.set_data_from_numpy(images)
        self.busy += 1
        try:
            with traced_call("triton") as headers:
                answer = await self._client.infer(
                    self._model,
                    [tensor],
                    model_version=self._version,
                    outputs=outputs,
                    # Triton then drops it from its queue when it is too late; gRPC ends the call itself.
                    timeout=None if left is None else max(round(left * MICRO), 1),
                    client_timeout=left,
                    headers=headers,
                )
            found = {output.name(): np.asarray(answer.as_numpy(output.name())) for output in outputs}
        except InferenceServerException as error:
            # Callers are not told where our servers are; the log is.
            failure = error_of(error, where="Triton")
            if isinstance(failure, EngineUnavailable):
                self.lose(str(error_of(error, where=self.where)))
                failure = EngineUnavailable("Triton does not answer")
            elif not isinstance(failure, DeadlineMissed):
                self._answered = time.monotonic()
                # A full queue is a sign of life; anything else may be a model that is broken for good.
                if not isinstance(failure, Overloaded):
                    self._answered = -float("inf")
                    self.wake.set()
            raise failure from None
        finally:
            self.busy -= 1
            if self._shared is not None and slot is not None:
                self._shared.give_back(slot)
        self._answered = time.monotonic()
        return Outputs(**found)

    def lose(self, reason: str) -> None:
        """Mark it as down, to be checked again soon."""
        if reason != self.down:
            log.error("%s", reason)
        self.down = reason
        self.wake.set()

    async def watch(self, *, every: float, patience: float, longest: float) -> None:
        """Check it until cancelled: every `every` seconds, unless an answer of it was seen meanwhile.

        One that is up has `patience` seconds to answer, one that is down has `longest`: it has more to do.
        """
        while True:
            try:
                async with asyncio.timeout(every):
                    await self.wake.wait()
                if self.down is not None:
                    # It was lost a moment ago; asking without a pause would only burn a core.
                    await asyncio.sleep(every / 5)
            except TimeoutError:
                pass
            self.wake.clear()
            now = time.monotonic()
            idle = now - self._answered > every
            if self.down is not None or idle or now - self._verified > IDENTITY_SECONDS:
                await self.check(patience=patience if self.down is None else longest)

    async def check(self, *, patience: float) -> None:
        """Ask what it serves and whether it still answers, and mark it accordingly.

        It has `patience` seconds to answer something: with a long queue, another caller's answer counts.
        """
        began = time.monotonic()
        work = asyncio.ensure_future(self._examine())
        try:
            async with asyncio.timeout(patience):
                reason = await work
        except TimeoutError:
            if self._answered > began and self.down is None:
                return
            reason = f"{self.where} did not answer within {patience:g} s"
        finally:
            work.cancel()
        if reason is not None:
            self.lose(reason)
        elif self.down is not None:
            if self.down != UNSEEN:
                log.warning("%s answers again", self.where)
            self.down = None

    async def _examine(self) -> str | None:
        """What is wrong with it, or None.

        One that was down must answer all golden images, one that is up a single one, and tell what it serves now and
        then.
        """
        count = len(self._golden) if self.down is not None else 1
        identify = self.down is not None or time.monotonic() - self._verified > IDENTITY_SECONDS
        try:
            if identify:
                await self._identify()
            size = self._max_batch
            parts = [await self.infer(self._golden[start : start + size][:count]) for start in range(0, count, size)]
        except Overloaded:
            # Alive; and if it was down, to be asked again.
            return self.down
        except EngineUnavailable as error:
            # Lost on the way, for a reason that is known more exactly.
            return self.down if self.down not in (None, UNSEEN) else str(error)
        except FormatError as error:
            return str(error)
        except OodguardError as error:
            return f"{self.where}: {error}"
        wrong = broken_promise(self._manifest, self._manifest.golden[:count], join(parts))
        if identify and wrong is None:
            self._verified = time.monotonic()
        return f"{self.where}: {wrong}" if wrong else None

    async def _identify(self) -> None:
        configuration = await self.configuration()
        self._version = str(configuration.version_of(self._manifest, pinned=self._pinned, where=self.where))
        self._max_batch = configuration.max_batch
        if self._shared is not None and self.down is not None:
            try:
                await self._shared.register(self._client)
            except InferenceServerException as error:
                raise error_of(error, where=f"{self.where} and shared memory") from None

    async def configuration(self) -> Configuration:
        """The model's configuration as it is now. Raises the errors of `error_of`."""
        try:
            return Configuration.of((await self._client.get_model_config(self._model)).config)
        except InferenceServerException as error:
            raise error_of(error, where=self.where) from None

    async def newest(self) -> str | None:
        """The hash of the newest version that is described and ready. Raises the errors of `error_of`."""
        found = hashes((await self.configuration()).parameters)
        for number in sorted(found, reverse=True):
            try:
                if await self._client.is_model_ready(self._model, str(number)):
                    return found[number]
            except InferenceServerException as error:
                raise error_of(error, where=self.where) from None
        return None

    async def close(self) -> None:
        """Close the connection."""
        if self._shared is not None and self.down is None:
            await self._shared.unregister(self._client)
        await self._client.close()
