"""What serving settings must not contradict: a table of small rules, checked in this order.

Sentences name settings as the command line does; README.md says how the environment and files write them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from oodguard.core.decoding import least_bytes
from oodguard.server.addresses import EVERYWHERE, UNIX, is_local
from oodguard.server.engines.registry import LOCAL, REMOTE

if TYPE_CHECKING:
    from oodguard.server.settings import ServeSettings

ENV_PREFIX = "OODGUARD_SERVE_"
NO_BUNDLE = "name the bundle to serve: the folder that oodguard export wrote, as in oodguard serve bundles/photos"
# What an engine on another machine decides in place of this server.
DECIDED_THERE = {"device", "tuning", "sessions", "threads", "max_batch", "max_delay"}


def _cpu_only(s: ServeSettings) -> bool:
    return s.engine in LOCAL and LOCAL[s.engine].cpu_only


def _flag(names: Iterable[str]) -> str | None:
    """The first of these settings, as the command line writes it; None where there is none."""
    return next((f"--{name.replace('_', '-')}" for name in sorted(names)), None)


def _decided_there(s: ServeSettings) -> str | None:
    return _flag(s.model_fields_set & DECIDED_THERE) if s.engine in REMOTE else None


def _for_triton(s: ServeSettings) -> str | None:
    return _flag(name for name in s.model_fields_set if name.startswith("triton_"))


def _for_shadow(s: ServeSettings) -> str | None:
    return _flag(name for name in s.model_fields_set if name.startswith("shadow_"))


def _unknown_variable(s: ServeSettings) -> str | None:
    known = {ENV_PREFIX + name.upper() for name in type(s).model_fields}
    return min((name for name in os.environ if name.startswith(ENV_PREFIX) and name.upper() not in known), default=None)


def _has_keys(s: ServeSettings) -> bool:
    return bool(s.key_file or s.key_hashes)


def _own_port_as_triton(s: ServeSettings) -> str | None:
    """The address of Triton that is one of this server's own ports, if one is."""
    for address in s.triton_addresses:
        there, _, port = address.rpartition(":")
        for here, number in ((s.host, s.port), (s.admin_host, s.admin_port), (s.host, s.grpc_port)):
            if int(port) == number and _same_machine(there.strip("[]"), here):
                return address
    return None


def _same_machine(there: str, here: str) -> bool:
    """Whether who asks `there` reaches who listens on `here`, as far as the two names tell."""
    if "localhost" in (there, here) or here in EVERYWHERE:
        return is_local(there) and (is_local(here) or here in EVERYWHERE)
    return there == here


# What is true of settings that break the rule, and the sentence about them; "{}" is what was found.
RULES: tuple[tuple[Callable[[ServeSettings], object], str], ...] = (
    (lambda s: s.bundle is None and s.engine not in REMOTE, NO_BUNDLE),
    (
        lambda s: s.engine == "triton" and s.triton_url is None,
        "--engine triton needs --triton-url; give HOST:PORT of Triton",
    ),
    (
        lambda s: s.engine == "triton" and s.bundle is None and s.triton_model is None,
        "--engine triton without a bundle needs --triton-model; name the model or give the bundle",
    ),
    (_decided_there, "{} is decided where a remote engine runs the graph and forms the batches; leave it out"),
    (
        lambda s: s.engine != "triton" and _for_triton(s),
        "{} is for --engine triton; leave it out or choose that engine",
    ),
    (
        lambda s: (s.triton_ca or s.triton_cert or s.triton_key) and not s.triton_tls,
        "--triton-ca, --triton-cert and --triton-key need --triton-tls; give it, too",
    ),
    (
        lambda s: (s.triton_cert is None) != (s.triton_key is None),
        "--triton-cert and --triton-key go together; give both or neither",
    ),
    (
        lambda s: s.workers != 1 and s.engine in REMOTE and s.engine,
        "--workers is for an engine that runs here; leave it out with --engine {}, and start more servers instead",
    ),
    (
        lambda s: s.workers != 1 and s.shadow,
        "--shadow and --workers cannot be used together; leave out --workers while the bundle {} is in the shadow",
    ),
    (_unknown_variable, "{} in the environment is not a setting; unset it"),
    (
        lambda s: (s.tls_cert is None) != (s.tls_key is None),
        "--tls-cert and --tls-key go together; give both or neither",
    ),
    (lambda s: s.tls_ca and not s.tls_cert, "--tls-ca needs --tls-cert and --tls-key; give all three"),
    (lambda s: s.sample_dir and s.sample_store, "--sample-dir and --sample-store are two places; use one"),
    (
        lambda s: (s.sample_webhook is None) != (s.sample_webhook_secret is None),
        "--sample-webhook and --sample-webhook-secret go together; give both or neither",
    ),
    (
        lambda s: s.shadow is None and _for_shadow(s),
        "{} is for a shadow bundle; name one with --shadow or leave it out",
    ),
    (
        _own_port_as_triton,
        "--triton-url {} is one of this server's own ports; choose others, as in --port 8080 --admin-port 8081",
    ),
    (lambda s: s.port == s.admin_port != 0, "--port and --admin-port are the same; choose another for one of them"),
    (
        lambda s: s.grpc_port is not None and s.host.startswith(UNIX) and s.host,
        "{} is a Unix socket, which has no gRPC port; leave out --grpc-port, or give --host an address",
    ),
    (
        lambda s: s.grpc_port and s.grpc_port in (s.port, s.admin_port),
        "--grpc-port is the port of something else; choose another for one of them",
    ),
    (
        lambda s: s.max_files > s.max_queue,
        "--max-files is larger than --max-queue, so the largest requests could never be admitted; lower it",
    ),
    (
        lambda s: s.max_caller_queue and s.max_caller_queue < s.max_files,
        "max_caller_queue is smaller than max_files, so the largest requests could never be admitted; raise it",
    ),
    (lambda s: s.key_weights and not _has_keys(s), "key_weights needs key_file or key_hashes"),
    (
        lambda s: s.max_body_bytes > s.max_queue_bytes,
        "--max-body-bytes is larger than --max-queue-bytes, so the largest requests could never be admitted; lower it",
    ),
    (
        lambda s: least_bytes(s.max_pixels) > s.max_decode_bytes and least_bytes(s.max_pixels),
        "max_decode_bytes is too small for an image of max_pixels; raise it to {}, or lower max_pixels",
    ),
    (
        lambda s: s.request_timeout > s.max_request_timeout,
        "--request-timeout is larger than --max-request-timeout; lower it",
    ),
    (
        lambda s: s.drain_timeout < s.body_timeout + s.request_timeout and s.body_timeout + s.request_timeout,
        "--drain-timeout is shorter than --body-timeout and --request-timeout together, so a stop would cut requests "
        "off; raise it to {:g}",
    ),
    (lambda s: s.stall_after > s.dead_after, "--stall-after is larger than --dead-after; lower it"),
    (
        lambda s: s.trust and s.bundle is None,
        "--trust is for a bundle's signature, and a manifest from Triton has none; name the bundle, too",
    ),
    (lambda s: s.key_file and s.key_hashes, "--key-file and --key-hashes are two sources of keys; use one"),
    (lambda s: s.auth == "keys" and not _has_keys(s), "--auth keys needs --key-file or --key-hashes; give one"),
    (lambda s: s.auth == "none" and _has_keys(s), "--auth none and API keys contradict each other; leave one out"),
    (
        lambda s: s.auth is None and not _has_keys(s) and not is_local(s.host) and s.host,
        "{} is reachable from other machines: give API keys with --key-file (oodguard key makes them), or --auth none",
    ),
    (
        lambda s: s.auth is None and not _has_keys(s) and not is_local(s.admin_host) and s.admin_host,
        "--admin-host {} is reachable from other machines, and whoever reaches it may reload the bundle: give API keys "
        "with --key-file (oodguard key makes them), or --auth none",
    ),
    (
        lambda s: _cpu_only(s) and s.device == "cuda" and s.engine,
        "--engine {} runs on the CPU only; leave out --device cuda",
    ),
)


def broken_rule(settings: ServeSettings) -> str | None:
    """One sentence about the first contradiction in the settings; None where there is none."""
    for is_broken, sentence in RULES:
        found = is_broken(settings)
        if found:
            return sentence.format(found)
    return None
