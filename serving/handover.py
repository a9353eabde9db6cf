"""The listening socket goes from a gateway to the next supervisor, over a socket in the state folder that only its own user may open.

The supervisor makes the public socket and the gateway has it too. After a kill of the supervisor only the gateway has it, so a later kill of the
gateway would close the port to callers who wait; whoever takes the supervisor's place asks for it first (SCM_RIGHTS, unix(7)).
"""

import contextlib
import logging
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LOG = logging.getLogger(__name__)
HANDOVER_FILE = "gateway.sock"
_SECONDS = 2.0
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, kw_only=True, slots=True)
class Handed:
    """A listening socket, and which process gave it."""

    listener: socket.socket
    pid: int


def offer(folder: Path) -> socket.socket | None:
    """Return a socket at which :func:`give` can be called for everybody who comes; it replaces what another gateway offered.

    None where a folder takes no sockets: then the port closes when supervisor and gateway are both killed.
    """
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(door.fileno(), 0o600)  # before it has a name: it is never open to others
        with _short(folder) as place:
            fresh, name = f"{place}/.{HANDOVER_FILE}.{os.getpid()}", f"{place}/{HANDOVER_FILE}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)
            door.bind(fresh)
            door.listen(4)
            os.replace(fresh, name)
        door.setblocking(False)
    except OSError as error:
        door.close()
        _LOG.warning("the listening socket cannot be handed over", extra={"why": str(error)})
        return None
    return door


def give(door: socket.socket, listener: socket.socket) -> None:
    """Hand ``listener`` to one who came, if it is our own user; never waits."""
    with contextlib.suppress(OSError):
        caller, _ = door.accept()
        with caller:
            caller.setblocking(False)
            if _peer(caller)[1] == os.geteuid():
                socket.send_fds(caller, [b"listener"], [listener.fileno()])


def take(folder: Path) -> Handed | None:
    """Ask the gateway of ``folder`` for its listening socket; None when no gateway of our own user is there to give one."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking, _short(folder) as place:
        asking.settimeout(_SECONDS)
        asking.connect(f"{place}/{HANDOVER_FILE}")
        pid, user = _peer(asking)
        _, descriptors, _, _ = socket.recv_fds(asking, 64, 1)
        if descriptors:
            given = socket.socket(fileno=descriptors[0])
            if user == os.geteuid() and given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return Handed(listener=given, pid=pid)
            given.close()
    return None


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Yield a name of ``folder`` that is short enough: the address of a unix socket has 107 bytes at most."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


def _peer(connected: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end."""
    pid, user, _ = _CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, user
