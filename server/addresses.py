"""Where the server listens: a host and a port, or a Unix socket as unix:/run/og.sock; and how both are written."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from pathlib import Path

from oodguard.core.errors import EnvironmentProblem

UNIX = "unix:"
EVERYWHERE = ("0.0.0.0", "::")
# As open as a loopback port; the rights of its folder say who may go in.
SOCKET_MODE = 0o666


def is_local(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host.startswith(UNIX):
        return True
    try:
        return ipaddress.ip_address(_bare(host)).is_loopback
    except ValueError:
        return host == "localhost"


def written(host: str, port: int, *, scheme: str) -> str:
    """The URL of a host and a port, which is ready to be pasted; a Unix socket is written as itself."""
    return host if host.startswith(UNIX) else f"{scheme}://{pair(host, port)}"


def pair(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    host = _bare(host)
    shown = "localhost" if host in ("127.0.0.1", *EVERYWHERE) else host
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"


def port_of(listening: socket.socket) -> int:
    """The port that a socket took; 0 for a Unix socket."""
    address = listening.getsockname()
    return int(address[1]) if isinstance(address, tuple) else 0


def listen(host: str, port: int, *, flags: tuple[str, str] = ("--host", "--port")) -> socket.socket:
    """Take an address before the model is loaded: a taken one is one sentence (`EnvironmentProblem`) with the flag."""
    path = host.removeprefix(UNIX) if host.startswith(UNIX) else None
    try:
        return _listen_at(Path(path)) if path is not None else _listen_on(_bare(host), port)
    except OSError as error:
        where = host if path is not None else f"{host} port {port}"
        # A port that is taken, or that only root may have; anything else is about the address.
        of_port = path is None and (isinstance(error, PermissionError) or error.errno == errno.EADDRINUSE)
        raise EnvironmentProblem(
            f"cannot listen on {where}: {error.strerror or error}; choose another with {flags[of_port]}"
        ) from None


def share_port(taken: socket.socket) -> socket.socket:
    """A socket on the port of another one, which is closed: it accepts nothing, and lets other processes share it."""
    address, family = taken.getsockname(), taken.family
    taken.close()
    with contextlib.ExitStack() as undo:
        shared = undo.enter_context(socket.socket(family))
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(address)
        undo.pop_all()
    return shared


def _bare(host: str) -> str:
    """An IPv6 address without the brackets that URLs want around it."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _listen_on(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with contextlib.ExitStack() as undo:
        listening = undo.enter_context(socket.socket(family))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        undo.pop_all()
    return listening


def _listen_at(path: Path) -> socket.socket:
    if path.is_socket() and not _somebody_listens(path):
        # Left by a server that was killed: nothing would ever remove it.
        path.unlink()
    with contextlib.ExitStack() as undo:
        listening = undo.enter_context(UnixListener(socket.AF_UNIX))
        listening.take(path)
        undo.pop_all()
    return listening


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


class UnixListener(socket.socket):
    """A listening Unix socket, which takes its file with it when it closes."""

    _inode: tuple[Path, int] | None = None

    def take(self, path: Path) -> None:
        """Make the file and listen on it."""
        self.bind(str(path))
        self._inode = (path, path.stat().st_ino)
        path.chmod(SOCKET_MODE)
        # At once: until then another server would take the file for one that was left behind.
        self.listen()

    def close(self) -> None:
        """Remove the file, unless another server has put its own there, and close."""
        if self._inode is not None:
            path, inode = self._inode
            self._inode = None
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:
                    path.unlink()
        super().close()
