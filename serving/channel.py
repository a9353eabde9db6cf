"""Short JSON messages between the HTTP process, its nursery and its workers, over a pair of local sockets. Tensors never travel here."""

import array
import contextlib
import socket
from typing import Any

import orjson

MESSAGE_BYTES = 128 << 10
"""Longest message; a batch of 256 requests with many tensors is a tenth of it."""
_MOST_DESCRIPTORS = 4


class Channel:
    """One end. A message arrives whole or not at all; :meth:`receive` returns None when the other end is gone."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self.descriptors: list[int] = []
        """File descriptors that came with the last message; whoever takes one closes it."""

    @classmethod
    def pair(cls) -> tuple["Channel", "Channel"]:
        """Return two connected ends."""
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MESSAGE_BYTES)
        return cls(ends[0]), cls(ends[1])

    @classmethod
    def inherited(cls, descriptor: int) -> "Channel":
        """Return the end that another process passed on as ``descriptor``."""
        return cls(socket.socket(fileno=descriptor))

    def send(self, message: Any, *, descriptors: tuple[int, ...] = ()) -> None:
        """Send ``message``. Raises OSError when the other end is gone, or (without blocking) is too busy to take it."""
        data = orjson.dumps(message)
        if descriptors:
            socket.send_fds(self._socket, [data], list(descriptors))
        else:
            self._socket.send(data)

    def receive(self) -> Any | None:
        """Return the next message, or None when the other end is gone. Raises BlockingIOError when there is none yet (not blocking)."""
        try:
            data, extra, _, _ = self._socket.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4))
        except (ConnectionError, EOFError):
            return None
        if not data:
            return None
        self.descriptors = [number for level, kind, value in extra for number in _numbers(level, kind, value)]
        return orjson.loads(data)

    def is_over(self) -> bool:
        """Return whether the other end is gone; takes no message away."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def wait(self, seconds: float | None) -> None:
        """Let :meth:`receive` block for ``seconds`` at most (then TimeoutError), forever with None; 0 never blocks."""
        self._socket.settimeout(seconds)

    def fileno(self) -> int:
        """File descriptor, for select."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end: the other one reads None."""
        with contextlib.suppress(OSError):
            self._socket.close()


def _numbers(level: int, kind: int, value: bytes) -> list[int]:
    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
        return []
    numbers = array.array("i")
    numbers.frombytes(value[: len(value) - len(value) % numbers.itemsize])
    return list(numbers)
