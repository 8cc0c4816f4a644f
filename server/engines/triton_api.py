"""Talking to Triton: connections, its model configuration, and its failures as errors of ours.

Only this module, `triton_server` and `shared_memory` use tritonclient.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from oodguard.core.codes import Code
from oodguard.core.errors import FormatError, OodguardError
from oodguard.core.manifest import Manifest
from oodguard.core.triton import Configuration, Described, failure_of, hashes
from oodguard.server.errors import DeadlineMissed, EngineError, EngineUnavailable, Overloaded

RETRY_AFTER = 1
LOAD_TIMEOUT = 5.0
LARGEST_MESSAGE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Connection:
    """How servers are reached."""

    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def arguments(self) -> dict[str, Any]:
        """What both of tritonclient's clients take."""
        channel = [
            ("grpc.max_send_message_length", LARGEST_MESSAGE),
            ("grpc.max_receive_message_length", LARGEST_MESSAGE),
            # A server that returns must be found again at once, not after gRPC's usual pause of up to two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 500),
            # Turns on TCP's own limit for unacknowledged data, five seconds: a machine that vanished sends nothing.
            # The pings themselves are as rare as Triton demands.
            ("grpc.keepalive_time_ms", 300_000),
            ("grpc.keepalive_timeout_ms", 5000),
            # A name that stands for several addresses spreads the load over them.
            ("grpc.lb_policy_name", "round_robin"),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        files = {"root_certificates": self.ca, "certificate_chain": self.cert, "private_key": self.key}
        tls = {name: str(path) for name, path in files.items() if path is not None}
        return {"channel_args": channel, "ssl": self.tls, **tls}


def read_newest(address: str, connection: Connection, model: str, *, pinned: int | None) -> Described:
    """What a model's configuration says of its newest version that is ready, or of the `pinned` one.

    Needs no event loop. Raises `FormatError`, and the errors of `error_of`.
    """
    client = InferenceServerClient(address, **connection.arguments())
    try:
        configuration = Configuration.of(client.get_model_config(model, client_timeout=LOAD_TIMEOUT).config)
        numbers = sorted(hashes(configuration.parameters), reverse=True)
        if not numbers:
            raise FormatError(f"{model} on {where(address)} was not written by oodguard export --triton")
        ready = [n for n in numbers if client.is_model_ready(model, str(n), client_timeout=LOAD_TIMEOUT)]
    except InferenceServerException as error:
        raise error_of(error, where=where(address)) from None
    finally:
        client.close()
    found = configuration.described(pinned or (ready or numbers)[0])
    configuration.version_of(found.manifest, pinned=pinned, where=where(address))
    return found


def require_match(address: str, connection: Connection, model: str, manifest: Manifest, *, pinned: int | None) -> None:
    """Raise `FormatError` if the server is there and does not serve `manifest`'s graph; silent if it is away."""
    client = InferenceServerClient(address, **connection.arguments())
    try:
        configuration = Configuration.of(client.get_model_config(model, client_timeout=LOAD_TIMEOUT).config)
    except InferenceServerException:
        return
    finally:
        client.close()
    configuration.version_of(manifest, pinned=pinned, where=where(address))


def where(address: str) -> str:
    """A server's name in sentences."""
    return f"Triton at {address}"


def error_of(error: InferenceServerException, *, where: str) -> OodguardError:
    """One of our errors for a failed call."""
    message = error.message() or ""
    text = f"{where}: {' '.join(message.split())[:300]}"
    match failure_of(error.status() or "", message):
        case Code.OVERLOADED:
            return Overloaded(f"{text}; try again later", retry_after=RETRY_AFTER)
        case Code.DEADLINE_MISSED:
            return DeadlineMissed(text)
        case Code.NOT_READY:
            return EngineUnavailable(text)
        case _:
            return EngineError(text)
