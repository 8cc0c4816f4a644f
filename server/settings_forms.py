"""The forms of serving settings that are text: addresses, origins, weights. One table."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """What a text, or each of its parts between commas (`several`), must look like; `sentence` follows a wrong one."""

    pattern: str
    sentence: str
    several: bool = False

    def fault(self, text: str) -> str | None:
        """What is wrong with a text, in words; None where nothing is."""
        parts = text.split(",") if self.several else [text]
        wrong = next((part for part in parts if not re.match(self.pattern, part)), None)
        return None if wrong is None else f"{wrong!r} is not {self.sentence}"


FORMS = {
    "triton_url": Form(
        r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$",
        "HOST:PORT of a gRPC service, as in localhost:8001",
        several=True,
    ),
    # As browsers write it: nothing behind the port, and lower case, since they compare text.
    "cors_origins": Form(
        r"^https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?$",
        "an origin as in https://shop.example (no path, no *)",
        several=True,
    ),
    "key_weights": Form(
        r"^[A-Za-z0-9._-]{1,64}=(?=[0-9.]*[1-9])[0-9]{1,4}(\.[0-9]{1,4})?$",
        "the name of a key and its weight, as in alice=4",
        several=True,
    ),
    "sample_store": Form(r"^(s3|gs|az)://[^\s/?#@]+(/[^\s?#]*)?$", "an address as in s3://bucket/prefix"),
    "sample_webhook": Form(r"^https?://[^\s/?#@]+(/[^\s#]*)?$", "an address as in https://example.com/flagged"),
    "traces_endpoint": Form(r"^https?://[^\s/?#@]+(/[^\s?#]*)?$", "an address as in http://localhost:4318"),
}
