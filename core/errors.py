"""Every error a user can meet, in the user's words.

OodguardError                     one sentence for the user; `exit_code` for the shell
|- InputError          (exit 2)   what the user gave cannot be used: a folder, an option, a file
|  |- ImageError                  one image cannot be used; carries a stable `code`
|  `- FormatError                 a run or a bundle of another version, or damaged
|- EnvironmentProblem  (exit 3)   something outside the input is missing: disk space, weights, a server
`- QualityError        (exit 4)   a result exists and must not be used: parity failed, training diverged
"""

from __future__ import annotations

from oodguard.core.codes import Code


class OodguardError(Exception):
    """Base of every error a user can meet; its text is one sentence that says what is wrong and what to do."""

    exit_code = 1


class InputError(OodguardError):
    """What the user gave cannot be used."""

    exit_code = 2


class ImageError(InputError):
    """One image cannot be used; `code` says why, for programs."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class FormatError(InputError):
    """A run folder or a bundle is damaged or was written by an incompatible version."""


class EnvironmentProblem(OodguardError):
    """Something outside the user's input is missing: disk space, weights, a package, or a server that answers."""

    exit_code = 3


class QualityError(OodguardError):
    """A result was computed but must not be used."""

    exit_code = 4
