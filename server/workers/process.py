"""The process of one worker, seen from the fleet."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from oodguard.core.errors import EnvironmentProblem
from oodguard.server.workers.messages import (
    MOST_LINE_BYTES,
    ModelNews,
    Order,
    WorkerPlan,
    WorkerReport,
    WorkerState,
    line,
    reports,
)

# A worker that has told nothing for so long hangs, whatever it last said; a busy machine is no reason for less.
SILENT = 5.0


class WorkerProcess:
    """A worker from its start to its end.

    `state` and `model` are what it has last said, the latter `models` times; `handed` connections were handed to it. It
    has `started` where it takes connections now, and `served` where it ever did.
    """

    def __init__(self, number: int, process: asyncio.subprocess.Process, handing: socket.socket) -> None:
        self.number = number
        self.started = self.served = False
        self.handed = self.models = 0
        self.refused: WorkerReport | None = None
        self.model: ModelNews | None = None
        self.state: WorkerState | None = None
        self.prepared: asyncio.Future[WorkerReport] | None = None
        self._process = process
        self._handing = handing
        self._heard = time.monotonic()
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    async def begin(
        cls,
        number: int,
        settings: dict[str, Any],
        *,
        stores: Sequence[int],
        guard: int,
        grpc: tuple[str, int] | None,
        heard: Callable[[WorkerProcess, WorkerReport], None],
    ) -> tuple[WorkerProcess, asyncio.Task[int]]:
        """Start a worker; the task ends with the process, with its exit code. `heard` gets all that it tells.

        Raises `EnvironmentProblem` where no process can be started.
        """
        with contextlib.ExitStack() as ours:
            try:
                handing, theirs = (ours.enter_context(one) for one in socket.socketpair())
                mine, channel = (ours.enter_context(one) for one in socket.socketpair())
                file = ours.enter_context(tempfile.TemporaryFile())
                plan = WorkerPlan(
                    number=number,
                    settings=settings,
                    orders=channel.fileno(),
                    connections=theirs.fileno(),
                    stores=tuple(stores),
                    guard=guard,
                    grpc=grpc,
                )
                file.write(plan.model_dump_json().encode())
                file.seek(0)
                # -P: what lies in the current folder is none of its modules.
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "oodguard.server.workers.start", str(file.fileno())),
                    pass_fds=(channel.fileno(), theirs.fileno(), file.fileno(), guard, *stores),
                    stdin=asyncio.subprocess.DEVNULL,
                )
            except OSError as error:
                raise EnvironmentProblem(
                    f"a worker cannot be started ({error.strerror or error}); lower --workers, or allow more processes"
                ) from None
            handing.setblocking(False)
            worker = cls(number, process, handing.dup())
            worker._handing.setblocking(False)
            reader, worker._writer = await asyncio.open_connection(sock=mine.dup(), limit=MOST_LINE_BYTES)
        return worker, asyncio.create_task(worker._attend(reader, heard))

    async def _attend(self, reader: asyncio.StreamReader, heard: Callable[[WorkerProcess, WorkerReport], None]) -> int:
        async for report in reports(reader):
            self._heard = time.monotonic()
            self._take(report)
            heard(self, report)
        code = await self._process.wait()
        self.started = False
        if self.prepared is not None and not self.prepared.done():
            self.prepared.set_result(WorkerReport(kind="prepared", text=f"worker {self.number} has ended"))
        self._handing.close()
        if self._writer is not None:
            self._writer.close()
        return code

    def _take(self, report: WorkerReport) -> None:
        match report.kind:
            case "refused":
                self.refused = report
            case "started":
                self.started = self.served = True
            case "model":
                self.model = report.model
                self.models += 1
            case "state":
                self.state = report.state
            case "prepared":
                if self.prepared is not None and not self.prepared.done():
                    self.prepared.set_result(report)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def problem(self) -> str | None:
        """Why it should get no traffic; None where it should."""
        if not self.started or self.state is None:
            return f"worker {self.number} is starting"
        if self.silence > SILENT:
            return f"worker {self.number} has not answered for {self.silence:.0f} s"
        return self.state.problem

    @property
    def silence(self) -> float:
        """Seconds since it has told something."""
        return time.monotonic() - self._heard

    @property
    def load(self) -> int:
        """Connections that it has, and those on their way to it."""
        state = self.state
        return self.handed if state is None else state.open + self.handed - state.received

    def hand(self, connection: socket.socket) -> bool:
        """Hand a connection over; False where its socket is full, or it has ended."""
        try:
            socket.send_fds(self._handing, [b"c"], [connection.fileno()])
        except OSError:
            return False
        self.handed += 1
        return True

    def order(self, order: Order) -> None:
        """Give an order."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(line(order))

    def prepare(self) -> asyncio.Future[WorkerReport]:
        """Order it to load the bundle folder; how that went."""
        self.prepared = asyncio.get_running_loop().create_future()
        self.order(Order(kind="prepare"))
        return self.prepared

    def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def how_ended(code: int) -> str:
    """An exit code in words."""
    return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
