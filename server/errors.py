"""What can go wrong while serving; each error carries the `Code` that says how it looks over HTTP.

OodguardError
|- ImageError (core)         one image cannot be used
|- RequestError              the request cannot be used
|- Overloaded                there is no room for the request now
|- DeadlineMissed            the request's time is over
|- ClientGone                nobody is left to answer
|- ReloadRefused             a new bundle was not taken; the old one serves on
`- EngineError               the engine failed on a batch
   `- EngineUnavailable      it is closed, dead or not ready
"""

from __future__ import annotations

from oodguard.core.codes import Code
from oodguard.core.errors import OodguardError


class RequestError(OodguardError):
    """The request itself cannot be used."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class Overloaded(OodguardError):
    """There is no room for the request now; `retry_after` is in whole seconds."""

    code = Code.OVERLOADED

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineMissed(OodguardError):
    """The request was not answered within its time."""

    code = Code.DEADLINE_MISSED


class ClientGone(OodguardError):
    """The client closed its connection; there is nobody to answer."""

    code = Code.CLIENT_GONE


class ReloadRefused(OodguardError):
    """A new bundle or key file was not taken; the old one serves on."""

    code = Code.RELOAD_REFUSED


class EngineError(OodguardError):
    """The engine failed on a batch."""

    code = Code.ENGINE_FAILED


class EngineUnavailable(EngineError):
    """The engine is closed, dead or not ready."""

    code = Code.NOT_READY
