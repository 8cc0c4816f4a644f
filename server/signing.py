"""Signatures of webhooks, as Standard Webhooks 1.0 (standardwebhooks.com) has them: HMAC-SHA256, symmetric secrets."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path

from oodguard.core.errors import EnvironmentProblem, InputError

PREFIX = "whsec_"
SHORTEST, LONGEST = 24, 64


def read_secrets(path: Path) -> tuple[bytes, ...]:
    """The secrets of a file, one on each line as `whsec_` and base64; several while one is being replaced.

    Raises `EnvironmentProblem` for a file that cannot be read, `InputError`, without quoting it, for another content.
    """
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentProblem(f"{path} cannot be read ({error})") from None
    found = tuple(_secret(line, path) for line in lines)
    if not found:
        raise InputError(f"{path} holds no secret; write {PREFIX} and the base64 of {SHORTEST} random bytes into it")
    return found


def _secret(text: str, path: Path) -> bytes:
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not text.startswith(PREFIX) or not SHORTEST <= len(secret) <= LONGEST:
        raise InputError(
            f"{path} holds something else than secrets: write {PREFIX} and the base64 of {SHORTEST} to {LONGEST} "
            "random bytes on a line"
        )
    return secret


def signed(body: bytes, secrets: tuple[bytes, ...], *, identity: str, at: int) -> dict[str, str]:
    """The headers that sign a body: `webhook-id`, `webhook-timestamp` (Unix seconds) and `webhook-signature`.

    The signature is `v1,` and the base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`, one for each secret.
    """
    content = f"{identity}.{at}.".encode() + body
    signatures = (base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode() for secret in secrets)
    return {
        "webhook-id": identity,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
