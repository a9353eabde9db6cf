"""The gateway's process: two listening sockets, one event loop, a watch over everything that takes too long, and an end that fails no request.

uvicorn is not used here. It reads a body through three copies and has no limit on the time of a head, of a body or of a caller who reads nothing,
nor on the number of connections; what is left of it, starting and stopping, is this file. The model servers do use it.
"""

import asyncio
import contextlib
import ctypes
import logging
import resource
import signal
import socket
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import uvloop

from serving import handover, security
from serving.connection import Connection
from serving.gateway import Gateway
from serving.gateway_metrics import asked
from serving.lobby import Limits, Lobby
from serving.process import GRACE_SECONDS
from serving.served import Served, check
from serving.tls import ServerTls

_LOG = logging.getLogger(__name__)
_WATCH_SECONDS = 0.5
_HANDSHAKE_SECONDS = 10.0
_CONTROL_CONNECTIONS = 256
_SPARE_FILES = 256
_PATIENCE_TICK_SECONDS = 0.02
_TLS_LOOK_TICKS = 4
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True, kw_only=True, slots=True)
class Sockets:
    """Where the gateway listens."""

    public: socket.socket
    control: socket.socket
    tls: ServerTls | None = None
    """Of the public socket."""
    door: socket.socket | None = None
    """Where the next supervisor asks for the public socket (``handover``)."""


@dataclass(slots=True)
class Listening:
    """One gateway on its sockets."""

    gateway: Gateway
    sockets: Sockets
    limits: Limits = field(default_factory=Limits)
    grace_seconds: float = GRACE_SECONDS
    """Longest that requests in flight are waited for."""
    patience_seconds: float = 0.0
    """Longest that callers are left waiting in the socket's queue until somebody has said where requests go: a gateway that replaces another one
    has its first request answered instead of refused."""
    lobbies: tuple[Lobby, Lobby] = field(init=False)

    def __post_init__(self) -> None:
        room = replace(self.limits, connections=min(self.limits.connections, _most_connections()))
        self.lobbies = (Lobby(room), Lobby(replace(room, connections=_CONTROL_CONNECTIONS)))
        self.gateway.metrics.connections.set_function(lambda: len(self.lobbies[0].connections))

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then answer what is in flight and return."""
        _keep_freed_memory()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._until_told())

    async def _until_told(self) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self.serve(stop)

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then drain."""
        servers = [await self._open_control()]
        tasks = [asyncio.create_task(work) for work in (self._watch(), self._check_health())]
        self.gateway.shadows.start()
        if self.sockets.door is not None:
            asyncio.get_running_loop().add_reader(self.sockets.door, handover.give, self.sockets.door, self.sockets.public)
        try:
            await self._until_routed(stop)
            servers.insert(0, await self._open())
            await stop.wait()
            await self._drain(servers)
        finally:
            for server in servers:
                server.close()
            for lobby in self.lobbies:
                for connection in tuple(lobby.connections):
                    connection.transport.abort()
            await self.gateway.shadows.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.gateway.upstream.close()

    async def _until_routed(self, stop: asyncio.Event) -> None:
        patience = time.monotonic() + self.patience_seconds
        while time.monotonic() < patience and not stop.is_set() and not all(served.was_told for served in self.gateway.served.values()):
            await asyncio.sleep(_PATIENCE_TICK_SECONDS)

    async def _open_control(self) -> asyncio.Server:
        made = partial(Connection, self.lobbies[1], self.gateway.private)
        return await asyncio.get_running_loop().create_server(made, sock=self.sockets.control, backlog=128)

    async def _open(self) -> asyncio.Server:
        loop, gateway, tls = asyncio.get_running_loop(), self.gateway, self.sockets.tls
        headers = security.headers(tls=tls is not None)
        more: dict[str, Any] = {}
        if tls is not None:
            more = {"ssl": tls.context, "ssl_handshake_timeout": _HANDSHAKE_SECONDS, "ssl_shutdown_timeout": 2.0}
        made = partial(Connection, self.lobbies[0], gateway.public, headers=headers)
        return await loop.create_server(made, sock=self.sockets.public, backlog=2048, **more)

    async def _drain(self, servers: list[asyncio.Server]) -> None:
        """Answer everything that is in flight or on its way, refuse nobody who comes within a moment, then stop listening."""
        public, control = self.lobbies
        began = time.monotonic()
        public.retire()
        while public.connections and time.monotonic() - began < self.grace_seconds:
            if time.monotonic() - began > self.limits.linger_seconds:
                servers[0].close()
            await asyncio.sleep(0.05)
            public.sweep()
        if public.connections:
            _LOG.warning("requests were cut off at the end", extra={"connections": len(public.connections)})
        control.retire()

    async def _watch(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            ticks += 1
            for lobby in self.lobbies:
                lobby.sweep()
            self.gateway.upstream.sweep()
            for served in self.gateway.served.values():
                self._lapse(served)
                self._say_who_is_out(served)
            if self.sockets.tls is not None and ticks % _TLS_LOOK_TICKS == 0:
                self.sockets.tls.refresh()

    def _lapse(self, served: Served) -> None:
        """Take the canary's share away when nobody has renewed it in time: whoever should have may be dead."""
        before = served.routes
        if served.lapse(time.monotonic()):
            self.gateway.metrics.routes(served.model, before, served.routes)
            _LOG.warning("the canary's share was not renewed in time and falls to stable", extra={"model": served.model})

    def _say_who_is_out(self, served: Served) -> None:
        now = time.monotonic()
        for target in asked(served.routes):
            for url in target.urls:
                self.gateway.metrics.ejected(served.model, target, url, out=not served.replicas.known[url].is_usable(now))

    async def _check_health(self) -> None:
        while True:
            await asyncio.sleep(self.gateway.options.health_seconds)
            checks: list[Coroutine[Any, Any, bool]] = []
            for served in self.gateway.served.values():
                checks += [check(replica, self.gateway.upstream) for replica in served.everybody()]
            await asyncio.gather(*checks, return_exceptions=True)
            for served in self.gateway.served.values():
                if any(not replica.failed_checks for target in served.routes.targets for replica in map(served.replicas.of, target.urls)):
                    served.alive_at = time.monotonic()


def _most_connections() -> int:
    """Return how many callers this process has files for, after asking for as many as it may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return max(64, (most - _SPARE_FILES) * 3 // 4) if most != resource.RLIM_INFINITY else 1 << 20


def _keep_freed_memory() -> None:
    """Tell glibc to reuse the memory of bodies: by default it gives each piece back to the kernel, which costs a page fault every 4 kB.

    Measured with bodies of 1 MB: 90 to 290 faults a request became none, and a third of the processor's time went with them.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(_M_TRIM_THRESHOLD, 64 << 20)
