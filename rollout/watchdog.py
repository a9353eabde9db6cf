"""A database server that stops answering in the middle of a conversation is given up, not waited for.

The server's own limits do not help when the server itself stands still, and its system still acknowledges what we send, so TCP's do
not either: after ``seconds`` the socket is closed under the driver, which then reports a lost connection.
"""

import os
import socket
import threading
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, event, exc


class Watchdog:
    """Guards every connection of an engine from the moment it is taken out of the pool until it is given back."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def guard(self, engine: Engine) -> None:
        """Watch every conversation, and find out at its beginning whether the connection still lives; a dead one is replaced."""
        self._dialect = engine.dialect
        event.listen(engine, "checkout", self._begin)
        for name in ("checkin", "invalidate", "close"):
            event.listen(engine, name, self._end)

    def _begin(self, connection: Any, record: Any, _proxy: Any) -> None:
        self._end(connection, record)
        # A descriptor of our own: the driver may close its one, and the number may belong to somebody else by then.
        watched = socket.socket(fileno=os.dup(connection.fileno()))
        timer = threading.Timer(self._seconds, _cut, (watched,))
        timer.daemon = True
        record.info["watchdog"] = (timer, watched)
        timer.start()
        try:
            self._dialect.do_ping(connection)
        except self._dialect.loaded_dbapi.Error as error:
            self._end(connection, record)
            raise exc.DisconnectionError(str(error)) from error  # the pool makes a new connection

    def _end(self, _connection: Any, record: Any, *_: Any) -> None:
        timer, watched = record.info.pop("watchdog", (None, None))
        if timer is not None:
            timer.cancel()
            watched.close()


def _cut(watched: socket.socket) -> None:
    with suppress(OSError):
        watched.shutdown(socket.SHUT_RDWR)
