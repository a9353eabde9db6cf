"""Callers: one who asks right questions and checks the answers, a crowd of them, and those who send what no client should."""

import contextlib
import json
import select
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx
import numpy as np

from benchmarks.soak.house import House
from serving import protocol
from serving.protocol import HEADER_LENGTH, InferenceRequest
from serving.tensors import Array


def question(inputs: Mapping[str, Array]) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a right question, binary both ways."""
    message = protocol.encode_request(InferenceRequest(inputs=inputs, binary=True))
    return {name: value for name, value in message.headers.items() if name != "content-length"}, bytes(message.body)


def request(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return a whole request as bytes."""
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(slots=True)
class Seen:
    """What a caller saw."""

    codes: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """Answers that did not come, or were not right."""
    seconds: list[float] = field(default_factory=list)
    """Of the answers that were 200."""
    without_retry_after: int = 0
    """Answers 503 that did not say when to come again."""

    def add(self, other: "Seen") -> None:
        """Take in what another saw."""
        self.codes += other.codes
        self.failures += other.failures
        self.seconds += other.seconds
        self.without_retry_after += other.without_retry_after


class Caller:
    """A context in which a thread asks right questions at a pace, and looks at every answer."""

    def __init__(self, house: House, door: str, inputs: Mapping[str, Array], *, pause: float = 0.05, output: str = "score") -> None:
        """``pause`` is the time between an answer and the next question; ``output`` must come back with a row for each of ``inputs``."""
        self._url, self._path, self._pause, self._output = house.url(door), house.path, pause, output
        self._rows = len(next(iter(inputs.values())))
        self._headers, self._body = question(inputs)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.seen = Seen()

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop after the answer that is waited for."""
        self._stop.set()
        self._thread.join(60)

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as http:
            while not self._stop.is_set():
                began = time.perf_counter()
                try:
                    answer = http.post(self._path, content=self._body, headers=self._headers)
                    self._look(answer, time.perf_counter() - began)
                except httpx.HTTPError as problem:
                    self.seen.failures.append(repr(problem))
                self._stop.wait(self._pause)

    def _look(self, answer: httpx.Response, seconds: float) -> None:
        self.seen.codes[answer.status_code] += 1
        if answer.status_code == 200:
            self.seen.seconds.append(seconds)
            said = json.loads(answer.content[: int(answer.headers.get(HEADER_LENGTH, len(answer.content)))])
            shapes = {item["name"]: item["shape"] for item in said["outputs"]}
            if shapes.get(self._output, [None])[0] != self._rows:
                self.seen.failures.append(f"{self._output} must have {self._rows} rows, found {shapes}")
        elif answer.status_code == 503:
            self.seen.without_retry_after += "retry-after" not in answer.headers


@contextlib.contextmanager
def crowd(house: House, door: str, inputs: Mapping[str, Array], *, size: int, pause: float = 0.0, output: str = "score") -> Iterator[Seen]:
    """Have ``size`` callers ask at once; what all of them saw is there after the context."""
    together = Seen()
    callers = [Caller(house, door, inputs, pause=pause, output=output) for _ in range(size)]
    with contextlib.ExitStack() as stack:
        for caller in callers:
            stack.enter_context(caller)
        yield together
    for caller in callers:
        together.add(caller.seen)


def answers_to(connection: socket.socket, *, seconds: float = 20.0) -> bytes:
    """Return everything that comes until the other side closes, or nothing comes for ``seconds``."""
    connection.settimeout(seconds)
    data = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        while piece := connection.recv(1 << 16):
            data += piece
    return data


def statuses(data: bytes) -> list[int]:
    """Return the status of every response that begins in ``data``, interim ones left out."""
    found = [int(part[:3]) for part in data.split(b"HTTP/1.1 ")[1:]]
    return [status for status in found if status >= 200]


def pour(connection: socket.socket, head: bytes, piece: bytes, *, most: int) -> tuple[int, bytes]:
    """Send ``head`` and then ``piece`` again and again, up to ``most`` bytes or until an answer or an end comes.

    Returns the bytes that were taken, and everything that was answered.
    """
    sent, answer = 0, b""
    connection.settimeout(20)
    with contextlib.suppress(ConnectionError, TimeoutError):
        connection.sendall(head)
        while sent < most:
            readable, _, _ = select.select([connection], [], [], 0)
            if readable:
                break
            connection.sendall(piece)
            sent += len(piece)
    answer += answers_to(connection, seconds=10)
    return sent, answer


def bomb(size: int, *, wbits: int = 31) -> bytes:
    """Return a body that unfolds to ``size`` zeros: gzip (``wbits`` 31) or zlib (15). One packed megabyte again and again; the check sum is wrong."""
    packer, piece = zlib.compressobj(9, wbits=wbits), bytes(1 << 20)
    first = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + again * ((size >> 20) - 1) + packer.flush()


class Idle:
    """A context of connections on which nothing is ever sent."""

    def __init__(self, house: House, door: str, count: int) -> None:
        """``count`` is wished; :attr:`count` says how many could be had."""
        self._house, self._door, self._wanted = house, door, count
        self._connections: list[socket.socket] = []

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._connections)

    def __enter__(self) -> Self:
        """Connect."""
        with contextlib.suppress(OSError):  # no more files, or no more ports
            while len(self._connections) < self._wanted:
                self._connections.append(self._house.connect(self._door))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close all."""
        for connection in self._connections:
            connection.close()

    def open_still(self) -> int:
        """Return how many the other side has not closed."""
        poll = select.poll()
        for connection in self._connections:
            poll.register(connection, select.POLLIN)
        closed = {number for number, _ in poll.poll(0)}
        return sum(connection.fileno() not in closed for connection in self._connections)


def signal_rows(rows: int, width: int) -> dict[str, Array]:
    """Return inputs of the small test model."""
    return {"signal": np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32)}
