"""What serving settings must not contradict: one small rule each, checked in this order.

A rule gets the settings and returns one sentence where they break it, None where they keep it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from oodguard.server.engines.registry import LOCAL, REMOTE

if TYPE_CHECKING:
    from oodguard.server.settings import ServeSettings

ENV_PREFIX = "OODGUARD_SERVE_"
# What an engine on another machine decides in place of this server.
DECIDED_THERE = {"device", "tuning", "sessions", "threads", "max_batch", "max_delay"}

Rule = Callable[["ServeSettings"], str | None]


def together(*names: str) -> Rule:
    """Settings that are given together or not at all."""

    def rule(settings: ServeSettings) -> str | None:
        given = {getattr(settings, name) is not None for name in names}
        return f"{' and '.join(names)} go together" if len(given) > 1 else None

    return rule


def either(first: str, second: str, what: str) -> Rule:
    """Settings of which only one may be given."""

    def rule(settings: ServeSettings) -> str | None:
        both = getattr(settings, first) and getattr(settings, second)
        return f"{first} and {second} are two {what}; use one" if both else None

    return rule


def at_most(lower: str, upper: str, because: str = "") -> Rule:
    """Two numbers of which the first must not be larger."""

    def rule(settings: ServeSettings) -> str | None:
        larger = getattr(settings, lower) > getattr(settings, upper)
        return f"{lower} is larger than {upper}{because}" if larger else None

    return rule


def bundle_is_named(settings: ServeSettings) -> str | None:
    """Only a remote engine can tell the manifest."""
    missing = settings.bundle is None and settings.engine not in REMOTE
    return "bundle is missing: name the folder written by export" if missing else None


def environment_is_known(settings: ServeSettings) -> str | None:
    """A misspelt variable would be a setting that nobody reads."""
    fields = type(settings).model_fields
    for name in sorted(os.environ):
        if name.startswith(ENV_PREFIX) and name[len(ENV_PREFIX) :].lower() not in fields:
            return f"{name} in the environment is not a setting"
    return None


def triton_is_complete(settings: ServeSettings) -> str | None:
    """What Triton needs to be asked."""
    if settings.engine != "triton":
        return None
    if settings.triton_url is None:
        return "engine triton needs triton_url"
    if settings.bundle is None and settings.triton_model is None:
        return "engine triton without a bundle needs triton_model"
    return None


def remote_engine_decides(settings: ServeSettings) -> str | None:
    """Some settings would do nothing where the graph runs elsewhere."""
    theirs = sorted(settings.model_fields_set & DECIDED_THERE)
    if settings.engine not in REMOTE or not theirs:
        return None
    name = theirs[0]
    return f"{name} and engine {settings.engine}: that engine batches and runs the graph itself; leave {name} out"


def engine_has_the_device(settings: ServeSettings) -> str | None:
    """Some engines run on the CPU only."""
    engine = LOCAL.get(settings.engine or "")
    wrong = engine is not None and engine.cpu_only and settings.device == "cuda"
    return f"engine {settings.engine} runs on the CPU only" if wrong else None


def triton_is_meant(settings: ServeSettings) -> str | None:
    """Settings of Triton without Triton would do nothing."""
    ours = sorted(name for name in settings.model_fields_set if name.startswith("triton_"))
    return f"{ours[0]} is for engine triton" if ours and settings.engine != "triton" else None


def triton_files_need_tls(settings: ServeSettings) -> str | None:
    """Certificates without TLS would protect nothing."""
    files = settings.triton_ca or settings.triton_cert or settings.triton_key
    return "triton_ca, triton_cert and triton_key need triton_tls" if files and not settings.triton_tls else None


def authorities_need_tls(settings: ServeSettings) -> str | None:
    """Clients can only show certificates over TLS."""
    return "tls_ca needs tls_cert and tls_key" if settings.tls_ca and not settings.tls_cert else None


def ports_differ(settings: ServeSettings) -> str | None:
    """Two servers cannot listen on one port."""
    return "port and admin_port are the same" if settings.port == settings.admin_port != 0 else None


def callers_are_decided(settings: ServeSettings) -> str | None:
    """Nobody serves the world by accident."""
    keys = bool(settings.key_file or settings.key_hashes)
    if settings.auth == "keys" and not keys:
        return "auth=keys needs key_file or key_hashes"
    if settings.auth == "none" and keys:
        return "auth=none and API keys contradict each other"
    if settings.auth is None and not keys and not _is_loopback(settings.host):
        return f"{settings.host} is reachable from other machines: give API keys (key_file), or say auth=none"
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


NEVER_ADMITTED = ": such a request could never be admitted"
RULES: tuple[Rule, ...] = (
    bundle_is_named,
    triton_is_complete,
    remote_engine_decides,
    engine_has_the_device,
    triton_is_meant,
    triton_files_need_tls,
    together("triton_cert", "triton_key"),
    environment_is_known,
    together("tls_cert", "tls_key"),
    authorities_need_tls,
    either("sample_dir", "sample_store", "places"),
    ports_differ,
    at_most("max_files", "max_queue", NEVER_ADMITTED),
    at_most("max_body_bytes", "max_queue_bytes", NEVER_ADMITTED),
    at_most("request_timeout", "max_request_timeout"),
    at_most("stall_after", "dead_after"),
    either("key_file", "key_hashes", "sources of keys"),
    callers_are_decided,
)
