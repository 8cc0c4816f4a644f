"""Flagged images to somebody else's address: signed, repeated where that helps, dropped where there is no room."""

from __future__ import annotations

import base64
import http.client
import importlib.metadata
import queue
import random
import secrets
import threading
import time
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from oodguard.core.answers import FlaggedData, FlaggedEvent, FlaggedImage, FlaggedSample
from oodguard.core.errors import OodguardError
from oodguard.core.formats import FORMATS, format_of
from oodguard.server.backlog import Backlog
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics
from oodguard.server.numerals import whole
from oodguard.server.sampling import WAITING, WAITING_BYTES
from oodguard.server.signing import read_secrets, signed

ATTEMPTS = 5
# Before the second attempt; doubled before each further one, and up to half of it is left off at random.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
# For connecting, for sending all of an image, and for each part of the answer.
SECONDS = 10.0
CLOSING_SECONDS = 12.0
# Anything else would be refused again.
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class NotDelivered(OodguardError):
    """An attempt failed; `pause` is what the receiver asks for, in seconds; None where no repetition helps."""

    def __init__(self, message: str, *, pause: float | None) -> None:
        super().__init__(message)
        self.pause = pause


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect an error: an image goes to the address that the operator wrote, and nowhere else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """No further request."""


class Webhook:
    """POSTs images, each with its verdict, as a signed `FlaggedEvent`; a `Taker`.

    ```python
    webhook = Webhook("https://example.com/flagged", Path("secret"), metrics=metrics)
    webhook.take(data, sample)
    ```

    One thread sends, so requests do not wait. An image is sent again, under the same id, where the receiver could not
    be reached or was too busy, at most `ATTEMPTS` times. The secrets are read again for each image, so a replaced file
    counts at once; one that cannot be read leaves the old ones. Proxies and authorities come from the usual variables
    (`HTTPS_PROXY`, `SSL_CERT_FILE`). Raises as `read_secrets` does.
    """

    def __init__(self, address: str, secret: Path, *, metrics: Metrics, pause: float = FIRST_PAUSE) -> None:
        self._address = address
        # The path may hold a token.
        self._host = urlsplit(address).netloc
        self._file = secret
        self._secrets = read_secrets(secret)
        self._metrics = metrics
        self._pause = pause
        self._opener = urllib.request.build_opener(NoRedirect())
        self._agent = f"oodguard/{importlib.metadata.version('oodguard')}"
        self._backlog = Backlog(images=WAITING, size=WAITING_BYTES)
        self._waiting: queue.SimpleQueue[tuple[bytes, FlaggedSample] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def take(self, data: bytes, sample: FlaggedSample) -> None:
        """Send the image soon; count it as dropped when too many wait."""
        if self._backlog.enter(len(data)):
            self._waiting.put((data, sample))
        else:
            self._metrics.webhook["dropped"].inc()

    def _run(self) -> None:
        while (taken := self._waiting.get()) is not None:
            data, sample = taken
            try:
                if self._closing.is_set() and self._failed:
                    raise NotDelivered("it did not take the one before, and the server ends", pause=None)
                self._deliver(event_of(data, sample).model_dump_json().encode())
                self._metrics.webhook["delivered"].inc()
                self._failed = False
            except NotDelivered as error:
                self._failed = True
                self._metrics.webhook["failed"].inc()
                log.error("a flagged image was not delivered to %s: %s", self._host, error)
            finally:
                self._backlog.leave(len(data))

    def _deliver(self, body: bytes) -> None:
        """Send a body, again where that may help. Raises `NotDelivered`."""
        self._read_secrets()
        identity = f"msg_{secrets.token_hex(16)}"
        for attempt in range(ATTEMPTS):
            try:
                self._send(body, identity)
                return
            except NotDelivered as error:
                if error.pause is None or attempt == ATTEMPTS - 1 or self._closing.is_set():
                    raise
                backoff = self._pause * 2**attempt * random.uniform(0.5, 1.0)
                self._closing.wait(min(max(backoff, error.pause), LONGEST_PAUSE))
                self._metrics.webhook_retries.inc()

    def _read_secrets(self) -> None:
        try:
            self._secrets = read_secrets(self._file)
        except OodguardError as error:
            log.error("the webhook's secret is not read again, the old one signs on: %s", error)

    def _send(self, body: bytes, identity: str) -> None:
        headers = signed(body, self._secrets, identity=identity, at=int(time.time()))
        headers |= {"content-type": "application/json", "user-agent": self._agent}
        request = urllib.request.Request(self._address, data=body, headers=headers, method="POST")
        try:
            # What the receiver says beside its status is of no interest.
            self._opener.open(request, timeout=SECONDS).close()
        except HTTPError as error:
            with error:
                pause = _retry_after(error.headers) if error.code in TRANSIENT else None
            raise NotDelivered(f"it answered {error.code}", pause=pause) from None
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise NotDelivered(f"it cannot be asked ({str(reason) or type(reason).__name__})", pause=0.0) from None

    def close(self) -> None:
        """Send what waits, once each and as long as the receiver takes it, within a few seconds."""
        self._closing.set()
        self._waiting.put(None)
        self._thread.join(CLOSING_SECONDS)


def event_of(data: bytes, sample: FlaggedSample) -> FlaggedEvent:
    """What is sent of an image and its verdict."""
    kind = format_of(data) or FORMATS[0]
    image = FlaggedImage(content_type=kind.content_type, base64=base64.b64encode(data).decode())
    return FlaggedEvent(timestamp=sample.time, data=FlaggedData(sample=sample, image=image))


def _retry_after(headers: Message) -> float:
    """Seconds that a receiver asks to wait; 0 where it names none."""
    return float(whole(headers.get("retry-after", "")) or 0)
