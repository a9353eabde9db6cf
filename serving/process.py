"""What every online process does the same way: bind before anything slow, say so in one line, log as JSON, drain on SIGTERM, end when nobody is
left who looks after it."""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight.digest import finite
from serving import adoption, tracing
from serving.errors import SettingsError

if TYPE_CHECKING:
    import asyncio

    from starlette.types import ASGIApp

GRACE_SECONDS = 10
"""Longest that a process waits for requests in flight after SIGTERM."""

_ORPHAN_POLL_SECONDS = 0.5
_ORPHAN_GRACE_SECONDS = 3.0
_STANDARD = frozenset(vars(logging.makeLogRecord({})))


def bind(*, host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Return a bound, listening TCP socket; port 0 takes a free one. Raises SettingsError when the address cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or str(error)
        raise SettingsError(
            f"the address {host}:{port} must be free to listen on, got {why!r}: choose another port, or 0 for any"
        ) from error
    return listener


def port_of(listener: socket.socket) -> int:
    """Return the port a socket is bound to."""
    port: int = listener.getsockname()[1]
    return port


def announce(event: str, **values: Any) -> None:
    """Print one JSON line for whoever started this process."""
    sys.stdout.write(json.dumps({"event": event, "pid": os.getpid(), **values}) + "\n")
    sys.stdout.flush()


def serve(
    app: "ASGIApp", *, listeners: Sequence[socket.socket], http: "type[asyncio.Protocol]", grace_seconds: int = GRACE_SECONDS
) -> None:
    """Serve ``app`` on the sockets until SIGTERM or SIGINT, then answer what is in flight and return; ``http`` speaks to every connection."""
    import uvicorn

    # uvicorn drains on a signal and then raises it again for whoever was there before: nobody, the process ends by itself
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: None)
    config = uvicorn.Config(
        app,
        http=http,
        loop="uvloop",
        ws="none",
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=grace_seconds,
        timeout_keep_alive=75,
    )
    uvicorn.Server(config).run(sockets=list(listeners))


def log_as_json(*, process: str) -> None:
    """Send this process's log to standard error, one JSON object a line."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_JsonLines(process))
    logging.basicConfig(level=logging.INFO, handlers=[stream], force=True)
    for chatty in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def log_to(path: Path) -> None:
    """Send standard error, and with it the log, to the end of ``path`` from now on."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(handle, sys.stderr.fileno())
    os.close(handle)


class _Guardian:
    """Who looks after this process: its parent, or whoever took the parent's place. One thread looks, whatever it is told meanwhile."""

    def __init__(self) -> None:
        self._parent, self._folder, self._patience = 0, None, 0.0
        self._thread: threading.Thread | None = None

    _folder: Path | None

    def watch(self, parent: int, *, folder: Path | None, patience: float) -> None:
        self._parent, self._folder, self._patience = parent, folder, patience
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="parent-watch", daemon=True)
            self._thread.start()

    def _look(self) -> None:
        alone_since: float | None = None
        while True:
            fate = self._fate()
            if fate is adoption.Fate.KEPT:
                alone_since = None
            elif fate is adoption.Fate.DISOWNED:
                break
            else:
                now = time.monotonic()
                alone_since = now if alone_since is None else alone_since
                if now - alone_since >= self._patience:
                    break
            time.sleep(_ORPHAN_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ORPHAN_GRACE_SECONDS)
        os._exit(1)

    def _fate(self) -> adoption.Fate:
        if os.getppid() == self._parent:
            return adoption.Fate.KEPT
        return adoption.Fate.ORPHANED if self._folder is None else adoption.fate(self._folder, os.getpid())


_GUARDIAN = _Guardian()


def end_with_parent(parent: int | None, *, folder: Path | None = None, patience: float = 0.0) -> None:
    """Watch the process ``parent`` from a thread: when it is gone, drain like on SIGTERM, and end within 4 seconds whatever happens.

    With ``folder`` another supervisor may take its place (``adoption``); until then this process goes on for ``patience`` seconds. Saying it again
    replaces what was said before.
    """
    if parent is not None:
        _GUARDIAN.watch(parent, folder=folder, patience=patience)


class _JsonLines(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": record.process,
            "message": record.getMessage(),
            **tracing.log_fields(),
        }
        line.update(
            {
                key: value
                for key, value in vars(record).items()
                if key not in _STANDARD and key not in ("message", "asctime", "color_message")
            }
        )
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(finite(line), default=str)
