"""What can go wrong while serving, and the one table that says how it looks over HTTP.

OodguardError
|- ImageError (training)     one image cannot be used
|- RequestError              the request cannot be used; carries a stable `code`
|- Overloaded                there is no room for the request now
|- DeadlineMissed            the request's time is over
|- ClientGone                nobody is left to answer
|- ReloadRefused             a new bundle was not taken; the old one serves on
`- EngineError               the engine failed on a batch
   `- EngineUnavailable      it is closed, dead or not ready
"""

from __future__ import annotations

from oodguard.core.errors import OodguardError


class RequestError(OodguardError):
    """The request itself cannot be used."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Overloaded(OodguardError):
    """There is no room for the request now; `retry_after` is in whole seconds."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineMissed(OodguardError):
    """The request was not answered within its time."""

    code = "deadline_missed"


class ClientGone(OodguardError):
    """The client closed its connection; there is nobody to answer."""

    code = "client_gone"


class ReloadRefused(OodguardError):
    """A new bundle was not taken; the old one serves on."""

    code = "reload_refused"


class EngineError(OodguardError):
    """The engine failed on a batch."""

    code = "engine_failed"


class EngineUnavailable(EngineError):
    """The engine is closed, dead or not ready."""

    code = "not_ready"
