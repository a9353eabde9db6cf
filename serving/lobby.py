"""Every caller's connection of one gateway: how many there may be, how long each may take, and how all of them are sent home."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.connection import Connection


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a caller may take of our time and room. None of them is reached by a caller who means well."""

    connections: int = 10_000
    """Connections at a time. For one more the longest idle one is closed; when all are busy it is answered 503."""
    head_bytes: int = 32 << 10
    """Request line and headers."""
    headers: int = 100
    head_seconds: float = 10.0
    """From the first byte of a request to the end of its headers."""
    body_seconds: float = 20.0
    """A body may take this long, and then must have come at ``body_rate`` on average."""
    body_rate: float = 1024.0
    """Bytes a second."""
    stall_seconds: float = 30.0
    """Longest that a caller may read nothing of the answer that waits for it."""
    idle_seconds: float = 75.0
    """Longest that a connection is kept between requests, and before the first."""
    linger_seconds: float = 2.0
    """A caller who is still sending when we have answered gets this long to read the answer; so does an idle one when the process ends."""
    linger_bytes: int = 16 << 20
    pipelined: int = 16
    """Requests that may wait behind the one being answered."""


class Lobby:
    """The connections of one process."""

    def __init__(self, limits: Limits | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody is here yet."""
        self.limits, self.clock = limits or Limits(), clock
        self.connections: set[Connection] = set()
        self.is_closing = False
        self.date = formatdate(usegmt=True)
        """What the answers' Date header says; :meth:`sweep` keeps it right."""
        self.shed = 0
        """Connections that were refused or closed for want of room."""
        self._idle: dict[Connection, None] = {}
        """Those between requests, the longest idle first."""
        self._busy: set[Connection] = set()

    def enter(self, connection: "Connection") -> bool:
        """Take in a new connection; return False when it must go at once."""
        if len(self.connections) >= self.limits.connections:
            self.shed += 1
            if not self._idle:
                return False
            longest = next(iter(self._idle))
            del self._idle[longest]
            longest.close()
        self.connections.add(connection)
        self._idle[connection] = None
        return True

    def leave(self, connection: "Connection") -> None:
        """Forget a connection that is gone."""
        self.connections.discard(connection)
        self._busy.discard(connection)
        self._idle.pop(connection, None)

    def busy(self, connection: "Connection") -> None:
        """Note that a request has begun on it, or that it is to be watched for another reason."""
        self._idle.pop(connection, None)
        if connection in self.connections:
            self._busy.add(connection)

    def idle(self, connection: "Connection") -> None:
        """Note that it waits for its next request."""
        self._busy.discard(connection)
        self._idle[connection] = None

    def retire(self) -> None:
        """Send everybody home: requests in flight are answered, the next answer on a connection is its last, idle ones linger and go."""
        self.is_closing = True
        for connection in tuple(self.connections):
            connection.retire()

    def sweep(self) -> None:
        """Close what took too long. Called once or twice a second; of 10,000 idle connections it looks at those whose time has come."""
        self.date = formatdate(usegmt=True)
        now = self.clock()
        for connection in tuple(self._busy):
            connection.check(now)
        for connection in tuple(self._idle) if self.is_closing else self._expired(now):
            connection.check(now)

    def _expired(self, now: float) -> list["Connection"]:
        late = now - self.limits.idle_seconds
        return list(takewhile(lambda connection: connection.idle_since < late, self._idle))
