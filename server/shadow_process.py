"""The process of a shadow, seen from the server."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from oodguard.core.answers import ModelRef
from oodguard.core.errors import OodguardError
from oodguard.core.verdict import Verdict
from oodguard.server.shadow_pipe import ShadowAnswer, ShadowHello, ShadowPlan, ShadowRequest, receive, send

# Beside a server that uses every core the process gets next to nothing; what takes longer than this hangs.
PATIENCE = 600.0
LAST_SECONDS = 2.0


class ShadowFailed(OodguardError):
    """The shadow cannot judge; `final` where another try with the same bundle would fail alike."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True, slots=True)
class Drawn:
    """An image that was drawn, what the server said of it, and the targets and the source that its request named."""

    data: bytes
    verdict: Verdict
    asked: Mapping[str, float]
    source: str | None = None

    @property
    def kind(self) -> tuple[Mapping[str, float], str | None]:
        """What images must have in common to be judged together."""
        return self.asked, self.source


class ShadowProcess:
    """The process that judges; one thread at a time may talk to it. Its methods raise `ShadowFailed`.

    `on_end` is called in another thread when the process has ended, whyever.
    """

    def __init__(self, plan: ShadowPlan, *, on_end: Callable[[], None]) -> None:
        with contextlib.ExitStack() as undo:
            try:
                self._channel, theirs = socket.socketpair()
                undo.enter_context(self._channel)
                self._channel.settimeout(PATIENCE)
                with theirs:
                    # -P: what lies in the current folder is none of its modules.
                    command = ["-P", "-m", "oodguard.server.shadow_start", plan.model_dump_json(), str(theirs.fileno())]
                    self._process = subprocess.Popen(
                        [sys.executable, *command],
                        pass_fds=(theirs.fileno(),),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
            except OSError as error:
                raise ShadowFailed(f"its process cannot be started ({error.strerror or error})", final=False) from None
            undo.pop_all()
        threading.Thread(target=self._attend, args=(on_end,), name="shadow process", daemon=True).start()

    def _attend(self, on_end: Callable[[], None]) -> None:
        self._process.wait()
        on_end()

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.returncode is not None

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def hello(self) -> ModelRef:
        """The model, once the process has verified the bundle."""
        try:
            said = receive(self._channel, ShadowHello)
        except (OSError, EOFError) as error:
            raise self._failed(error) from None
        if said.model is None:
            raise ShadowFailed(said.problem or "the bundle cannot be judged with", final=True)
        return said.model

    def judge(self, drawn: list[Drawn]) -> ShadowAnswer:
        """The verdicts on images whose requests named the same targets and source."""
        asked, source = drawn[0].kind
        request = ShadowRequest(asked=dict(asked), source=source, sizes=tuple(len(one.data) for one in drawn))
        try:
            send(self._channel, request, (one.data for one in drawn))
            return receive(self._channel, ShadowAnswer)
        except (OSError, EOFError) as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> ShadowFailed:
        if isinstance(error, TimeoutError):
            return ShadowFailed(f"its process has not answered for {PATIENCE:g} s", final=False)
        return self.end()

    def end(self) -> ShadowFailed:
        """How the process ended, which it has done or is about to do."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LAST_SECONDS)
        return ShadowFailed(f"its process ended with code {self._process.returncode}", final=False)

    def kill(self) -> None:
        """End the process. Any thread may call this; one that waits for an answer then gets none."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process for good; for the thread that talks to it."""
        self.kill()
        self._channel.close()
