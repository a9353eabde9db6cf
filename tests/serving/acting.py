"""A gateway in a thread, and model servers that behave as a test tells them: plain sockets, so that they can also behave badly."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import uvloop

from serving import process
from serving.control import Control
from serving.gateway import Gateway
from serving.listening import Listening, Sockets
from serving.lobby import Limits
from serving.options import GatewayOptions
from serving.routes import Routes, Target

TOKEN = "token-of-the-test"
INFER = "/v2/models/m/infer"


def whole(body: bytes = b"answer", *, status: int = 200, headers: str = "", version: str = "") -> bytes:
    """Return an HTTP answer with a length."""
    said = f"x-firstlight-version: {version}\r\n" if version else ""
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{said}{headers}\r\n".encode() + body


class Ask:
    """One request as a model server received it."""

    def __init__(self, head: bytes, stream: socket.socket, number: int, rest: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.line, self.number, self.stream = lines[0], number, stream
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        self._rest = rest

    def body(self) -> bytes:
        """Read the body to its end."""
        if "content-length" in self.headers:
            length = int(self.headers["content-length"])
            while len(self._rest) < length:
                self._more()
            found, self.left = self._rest[:length], self._rest[length:]
            return found
        found = b""
        while True:
            while b"\r\n" not in self._rest:
                self._more()
            size, _, self._rest = self._rest.partition(b"\r\n")
            length = int(size, 16)
            while len(self._rest) < length + 2:
                self._more()
            found, self._rest = found + self._rest[:length], self._rest[length + 2 :]
            if length == 0:
                self.left = self._rest
                return found

    def _more(self) -> None:
        piece = self.stream.recv(1 << 16)
        if not piece:
            raise ConnectionError
        self._rest += piece


class Actor:
    """A model server: ``play(ask)`` gets every inference and returns the bytes of the answer, or None to close the connection."""

    def __init__(self, play: Callable[[Ask], bytes | None], *, version: str = "1") -> None:
        self.play, self.version = play, version
        self.asked: list[Ask] = []
        self.connections = 0
        self.is_healthy = True
        self._open: list[socket.socket] = []
        self._listener = process.bind()
        self.url = f"http://127.0.0.1:{process.port_of(self._listener)}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def target(self) -> Target:
        return Target(version=self.version, url=self.url)

    def close(self) -> None:
        """Stop listening and break every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Break every connection and go on listening."""
        for stream in self._open:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(stream)
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: socket.socket) -> None:
        rest = b""
        with contextlib.suppress(OSError), stream:
            while True:
                while b"\r\n\r\n" not in rest:
                    piece = stream.recv(1 << 16)
                    if not piece:
                        return
                    rest += piece
                head, _, rest = rest.partition(b"\r\n\r\n")
                ask = Ask(head, stream, len(self.asked), rest)
                if ask.line.startswith("GET"):
                    ask.left = rest
                    said = json.dumps({"ready": self.is_healthy, "name": "m"}).encode()
                    answer = whole(said, status=200 if self.is_healthy else 503, version=self.version)
                else:
                    self.asked.append(ask)
                    answer = self.play(ask)
                if answer is None:
                    stream.shutdown(socket.SHUT_RDWR)
                    return
                stream.sendall(answer)
                rest = getattr(ask, "left", b"")


class Stage:
    """One gateway, served from a thread."""

    def __init__(
        self, *, models=("m",), limits: Limits | None = None, access=None, access_log=None, tls=None, wait_seconds=0.0, **options
    ) -> None:
        public, control = process.bind(), process.bind()
        self.port = process.port_of(public)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self.control = Control(f"http://127.0.0.1:{process.port_of(control)}", token=TOKEN)
        self.gateway = Gateway(
            models, token=TOKEN, options=GatewayOptions(wait_seconds=wait_seconds, **options), access=access, access_log=access_log
        )
        self.listening = Listening(
            self.gateway, Sockets(public=public, control=control, tls=tls), limits=limits or Limits(), grace_seconds=5
        )
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        async def until_told() -> None:
            self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
            self._loop.call_later(0.05, self._started.set)
            await self.listening.serve(self._stop)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(until_told())

    def start(self) -> "Stage":
        self._thread.start()
        assert self._started.wait(10)
        return self

    def drain(self) -> None:
        """Do what SIGTERM does."""
        self._loop.call_soon_threadsafe(self._stop.set)

    def ended(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        if self._thread.is_alive():
            self.drain()
            assert self.ended(15)
        self.control.close()
        for place in (self.listening.sockets.public, self.listening.sockets.control):
            place.close()

    def route(self, stable: Actor | None = None, canary: Actor | None = None, weight: int = 0, **more) -> None:
        targets = {name: actor.target for name, actor in (("stable", stable), ("canary", canary)) if actor is not None}
        self.control.put_routes(Routes(**targets, canary_weight=weight, **more))

    def post(self, body: bytes = b"question", path: str = INFER, **more) -> httpx.Response:
        return httpx.post(self.url + path, content=body, trust_env=False, timeout=20, **more)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def metric(self, name: str, **labels: str) -> float:
        return self.gateway.metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.contextmanager
def stage(*actors: Actor, **options) -> Iterator[Stage]:
    """Run a gateway; close it and the actors."""
    made = Stage(**options).start()
    try:
        yield made
    finally:
        made.close()
        for actor in actors:
            actor.close()


def read_answer(stream: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one answer with a length from a plain connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = stream.recv(1 << 16)
        if not piece:
            raise ConnectionError(data)
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    while len(body) < int(headers.get("content-length", 0)):
        body += stream.recv(1 << 16)
    return int(lines[0].split()[1]), headers, body


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until ``condition()`` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.01)


def echo(version: str = "1") -> Actor:
    """Return a model server that answers with what it was asked, turned around."""
    return Actor(lambda ask: whole(ask.body()[::-1], version=version), version=version)


def measured(made: Stage, version: str) -> tuple[int, int, int, int]:
    """Return (requests, errors, refused, answered) of a version as the gateway counted them."""
    kept = [one for one in made.control.evidence()["tracks"] if one["version"] == version and one["track"] not in ("shadow", "drill")]
    requests, errors, refused = (sum(one[what] for one in kept) for what in ("requests", "errors", "refused"))
    return requests, errors, refused, sum(sum(one["latency"].values()) for one in kept)
