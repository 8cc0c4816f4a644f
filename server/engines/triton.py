"""Triton Inference Servers as the engine: any number of them, over gRPC."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np

from oodguard.core.errors import EnvironmentProblem, OodguardError
from oodguard.core.explainer import Explainer
from oodguard.core.manifest import Manifest, load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.core.triton import Described
from oodguard.core.verdict import Outputs
from oodguard.server.engines.base import Batch
from oodguard.server.engines.shared_memory import SharedInputs
from oodguard.server.engines.triton_api import Connection, read_newest, require_match
from oodguard.server.engines.triton_server import TritonServer
from oodguard.server.errors import DeadlineMissed, EngineError, EngineUnavailable, Overloaded
from oodguard.server.settings import ServeSettings

# Inference changes nothing, so asking again is safe; once is enough to get over a server that has just gone.
ATTEMPTS = 2


def connection_of(settings: ServeSettings) -> Connection:
    """How the settings say servers are reached."""
    return Connection(settings.triton_tls, settings.triton_ca, settings.triton_cert, settings.triton_key)


def load_triton(settings: ServeSettings) -> tuple[Explainer, TritonEngine]:
    """Manifest and bank, from the bundle or else from the first server that is there, and an engine to be started.

    Raises `FormatError` where a server that is there has another graph than the manifest's, or other tensors;
    `EnvironmentProblem` where none is there to tell the manifest.
    """
    connection, pinned = connection_of(settings), settings.triton_version
    if settings.bundle is not None:
        manifest = load_manifest(settings.bundle, trust=settings.trusted)
        explainer = Explainer.load(settings.bundle, manifest)
        images = [(settings.bundle / g.path).read_bytes() for g in manifest.golden]
    else:
        found = _described(settings, connection)
        manifest, explainer, images = found.manifest, found.explainer, [found.golden]
    model = settings.triton_model or manifest.name
    for address in settings.triton_addresses:
        require_match(address, connection, model, manifest, pinned=pinned)
    golden = np.stack([load_pixels(image, manifest.preprocessing) for image in images])
    return explainer, TritonEngine(settings, manifest, golden)


def _described(settings: ServeSettings, connection: Connection) -> Described:
    failures = []
    for address in settings.triton_addresses:
        try:
            return read_newest(address, connection, settings.triton_model or "", pinned=settings.triton_version)
        except (EngineError, DeadlineMissed, Overloaded) as error:
            failures.append(str(error))
    raise EnvironmentProblem(f"no Triton could be asked for the manifest: {'; '.join(failures)}")


class TritonEngine:
    """Sends each batch to the least busy server that is up; a `RemoteEngine`.

    Connections are kept. A request that did not reach a server is sent once more, to another server where there is
    one; a request that a full queue refused, or that ran out of time, is not. Every server is checked while it is
    connected: a server that does not answer, or not as the golden images demand, gets no requests until it does.
    """

    name = "triton"
    slots = 1

    def __init__(self, settings: ServeSettings, manifest: Manifest, golden: Batch) -> None:
        self.device = ", ".join(settings.triton_addresses)
        self._settings = settings
        self._manifest = manifest
        self._golden = golden
        self.servers: list[TritonServer] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._shared: SharedInputs | None = None
        self._turn = 0
        self._closed = False

    @property
    def unreachable(self) -> str | None:
        """Why no request can be answered at the moment; None when they can."""
        if self._closed or any(server.down is None for server in self.servers):
            return None
        return "no Triton server answers as it should; the log says more"

    async def start(self) -> str | None:
        """Connect, check every server once, and go on checking them; why none can be asked, or None."""
        settings = self._settings
        if settings.triton_shared_memory:
            # The places of every image that may be inside, and of the golden ones that are sent beside them.
            places = settings.max_queue + len(settings.triton_addresses)
            self._shared = SharedInputs(places=places, image_bytes=self._golden[0].nbytes)
        self.servers = [
            TritonServer(
                address,
                connection_of(settings),
                model=settings.triton_model or self._manifest.name,
                manifest=self._manifest,
                pinned=settings.triton_version,
                golden=self._golden,
                shared=self._shared,
            )
            for address in settings.triton_addresses
        ]
        # The first check has longer: it connects, and meets kernels that were never warm.
        longest = settings.request_timeout
        await asyncio.gather(*(server.check(patience=longest) for server in self.servers))
        self._watchers = [
            asyncio.create_task(
                server.watch(every=settings.triton_probe, patience=settings.stall_after, longest=longest)
            )
            for server in self.servers
        ]
        return "; ".join(server.down or "" for server in self.servers) if self.unreachable else None

    async def infer(self, images: Batch, *, deadline: float | None = None, neighbours: bool = False) -> Outputs:
        """Answers for one batch."""
        tried: list[TritonServer] = []
        failure = EngineUnavailable(self.unreachable or "the engine is closed")
        while len(tried) < ATTEMPTS and not self._closed:
            server = self._choose(tried)
            if server is None:
                break
            tried.append(server)
            try:
                return await server.infer(images, deadline=deadline, neighbours=neighbours)
            except EngineUnavailable as unavailable:
                failure = unavailable
        raise failure

    def _choose(self, tried: list[TritonServer]) -> TritonServer | None:
        """The least busy server that is up and was not tried; else one that was, in case only its connection broke."""
        fresh = [server for server in self.servers if server.down is None and server not in tried]
        chosen = min(fresh or tried, key=lambda server: (server.busy, server.turn), default=None)
        if chosen is not None:
            self._turn += 1
            chosen.turn = self._turn
        return chosen

    async def newest(self) -> str | None:
        """The hash of the newest version described by the servers that are up; None if the bundle or a pin decides."""
        if self._settings.bundle is not None or self._settings.triton_version is not None:
            return None
        for server in self.servers:
            if server.down is None:
                with contextlib.suppress(OodguardError):
                    return await server.newest()
        return None

    async def close(self) -> None:
        """Close every connection; further calls of `infer` fail."""
        self._closed = True
        for watcher in self._watchers:
            watcher.cancel()
        if self._watchers:
            await asyncio.wait(self._watchers)
        await asyncio.gather(*(server.close() for server in self.servers))
        if self._shared is not None:
            self._shared.close()
