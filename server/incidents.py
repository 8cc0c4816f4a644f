"""What is wrong with connections, for the log and the metrics: each line says who and which, and there are few."""

from __future__ import annotations

import time
from collections.abc import Callable

from oodguard.core.codes import Code
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics

# So many lines, then silence until the window ends; a caller must not be able to fill the log.
LINES = 10
WINDOW = 60.0


class Incidents:
    """Counts every refusal below HTTP, and writes the first of each minute to the log.

    ```python
    incidents.refused(Code.BAD_REQUEST, "the request is not valid HTTP/1.1", address="10.0.0.7", request_id="4f2a")
    ```
    """

    def __init__(self, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._began = clock()
        self._lines = self._left_out = 0

    def refused(self, code: Code, why: str, *, address: str, request_id: str) -> None:
        """Count a connection or request that was refused before it could be routed."""
        self._metrics.refuse(code)
        self.tell(why, code=code, address=address, request_id=request_id)

    def tell(self, why: str, **about: str) -> None:
        """Write a line, unless there were enough of them."""
        now = self._clock()
        if now - self._began >= WINDOW:
            self._began, self._lines = now, 0
        if self._lines >= LINES:
            self._left_out += 1
            return
        if self._left_out:
            log.warning("%d lines about connections were left out", self._left_out)
            self._left_out = 0
        self._lines += 1
        known = " ".join(f"{name}={value}" for name, value in about.items())
        log.warning("%s (%s)", why, known, extra=about)
