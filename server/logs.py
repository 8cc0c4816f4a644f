"""Logging: one JSON object per line, or plain text; never a request's content, query or key."""

from __future__ import annotations

import logging
from typing import Literal

from oodguard.core.text import visible

access = logging.getLogger("oodguard.access")
server = logging.getLogger("oodguard.server")

JSON_FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"


class _OneLine(logging.Formatter):
    """Lines for people: a message is one line whatever it quotes."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (its name in the standard library)
        return visible(super().formatMessage(record))


def configure(*, level: str, style: Literal["json", "text"], worker: int | None = None) -> None:
    """Send every logger of this process to standard error in one form; `worker`: its number, which each line has."""
    handler = logging.StreamHandler()
    if style == "json":
        from pythonjsonlogger.json import JsonFormatter

        names = {"asctime": "time", "levelname": "level", "name": "logger"}
        static = {} if worker is None else {"worker": worker}
        handler.setFormatter(
            JsonFormatter(JSON_FIELDS, rename_fields=names, static_fields=static, datefmt="%Y-%m-%dT%H:%M:%S%z")
        )
    else:
        who = "" if worker is None else f" worker {worker}"
        handler.setFormatter(_OneLine(f"%(asctime)s %(levelname)s %(name)s{who}: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "watchfiles"):
        # Their info lines are about sockets and files, which we report ourselves.
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # A line about every malformed body would let callers fill the log.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


def log_request(*, request_id: str, method: str, route: str, status: int, seconds: float, key: str | None) -> None:
    """One line for one finished request. `route` is a known route or "other", never the path as typed."""
    if access.isEnabledFor(logging.INFO):
        access.info(
            "%s %s %d",
            method,
            route,
            status,
            extra={"request_id": request_id, "status": status, "ms": round(1e3 * seconds, 2), "key": key},
        )
