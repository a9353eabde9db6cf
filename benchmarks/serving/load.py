"""The load generator: a process of its own that knows only sockets. ``python -m benchmarks.serving.load`` reads jobs as JSON lines.

Closed loop: every connection sends its request, waits for the whole answer, sends the next. One thread, one selector, bodies encoded
beforehand, answers counted and thrown away: about 20 µs of work a request beside the kernel's copying. Every request differs from every
other in its first number.

Throughput is the share of each request that lies inside the window, summed. That needs no whole number of requests in the window, so it is
right too where the window holds few. Everything is in steady state: the window opens when every connection has been answered
at least once, and what is under way when it closes is waited for.
"""

import json
import selectors
import socket
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BUFFER = bytearray(1 << 20)
_VIEW = memoryview(_BUFFER)
_LONGEST_SECONDS = 90.0
_BITS = struct.unpack("<I", struct.pack("<f", 0.71828175))[0]


class LoadError(Exception):
    """The server answered something that is not HTTP, or nothing at all."""


@dataclass(slots=True)
class Done:
    """One request: when it was sent and answered (time.monotonic), and how."""

    sent: float
    done: float
    status: int


class _Answer:
    """Reads one HTTP/1.1 answer and keeps none of its body."""

    def __init__(self) -> None:
        self.status, self.close = 0, False
        self._head = bytearray()
        self._left: int | None = None
        self._chunked = False

    def feed(self, data: memoryview) -> bool:
        """Take what arrived; return whether the answer is complete. Raises LoadError."""
        if self._left is None and not self._chunked:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return False
            data = memoryview(bytes(self._head[end + 4 :]))
            self._parse(bytes(self._head[:end]))
        if self._chunked:
            return self._feed_chunks(data)
        assert self._left is not None
        self._left -= len(data)
        if self._left < 0:
            raise LoadError("an answer must end where it says, got more bytes")
        return self._left == 0

    def _parse(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        try:
            self.status = int(first.split(" ", 2)[1])
        except (IndexError, ValueError):
            raise LoadError(f"an answer must begin with a status line, got {first[:80]!r}") from None
        self.close = headers.get("connection", "").lower() == "close"
        self._chunked = "chunked" in headers.get("transfer-encoding", "")
        if not self._chunked:
            self._left = int(headers.get("content-length", "0"))
        self._head.clear()
        self._skip = 0
        self._last = False

    def _feed_chunks(self, data: memoryview) -> bool:
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                if self._last and not self._skip:
                    return True
                continue
            self._head.append(data[at])
            at += 1
            if self._head.endswith(b"\r\n"):
                size = int(bytes(self._head[:-2]).partition(b";")[0], 16)
                self._head.clear()
                self._last = size == 0
                self._skip = size + 2
        return False


class _Connection:
    def __init__(self, job: "_Job") -> None:
        self.job = job
        self.request = bytearray(job.request)
        self.view = memoryview(self.request)
        self.answered = 0
        self.idle, self.waiting = True, False
        self.socket: socket.socket | None = None

    def send(self) -> None:
        """Begin the next request."""
        if self.socket is None:
            self.socket = socket.create_connection((self.job.host, self.job.port), timeout=10)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.setblocking(False)
            self.job.selector.register(self.socket, selectors.EVENT_READ, self)
        self.job.mark(self.request)
        self.idle, self.at, self.answer = False, 0, _Answer()
        self.sent = time.monotonic()
        self.write()

    def write(self) -> None:
        """Send what the kernel takes; ask to be told when it takes more."""
        assert self.socket is not None
        try:
            while self.at < len(self.view):
                self.at += self.socket.send(self.view[self.at :])
        except BlockingIOError:
            self._wait_to_write(True)
        except OSError:
            self._finish(status=0)
        else:
            self._wait_to_write(False)

    def _wait_to_write(self, waiting: bool) -> None:
        if waiting is not self.waiting:
            self.waiting = waiting
            assert self.socket is not None
            self.job.selector.modify(self.socket, selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0), self)

    def read(self) -> None:
        """Take what arrived."""
        if self.socket is None or self.idle:
            return
        try:
            size = self.socket.recv_into(_BUFFER)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._finish(status=0)
        elif self.answer.feed(_VIEW[:size]):
            self._finish(status=self.answer.status)

    def close(self) -> None:
        """Close the socket."""
        if self.socket is not None:
            self.job.selector.unregister(self.socket)
            self.socket.close()
            self.socket, self.waiting = None, False

    def _finish(self, *, status: int) -> None:
        self.job.done.append(Done(self.sent, time.monotonic(), status))
        self.answered += 1
        self.idle = True
        if status == 0 or self.answer.close:
            self.close()


class _Job:
    def __init__(self, value: Mapping[str, Any]) -> None:
        self.host, self.port = value["host"], value["port"]
        with open(value["request_file"], "rb") as file:
            self.request = file.read()
        self._mark_at, self._kind = value["mark_at"], value["mark_kind"]
        self.concurrency, self.batch = value["concurrency"], value["batch"]
        self.warm_seconds, self.seconds = value["warm_seconds"], value["seconds"]
        self.selector = selectors.DefaultSelector()
        self.done: list[Done] = []
        self.sequence = value["sequence"]

    def mark(self, request: bytearray) -> None:
        """Make this request unlike every other."""
        self.sequence += 1
        if self._kind == "raw":
            struct.pack_into("<I", request, self._mark_at, _BITS - self.sequence % 4_000_000)
        else:
            request[self._mark_at : self._mark_at + 10] = b"0.7%07d" % (self.sequence % 10_000_000)

    def run(self) -> dict[str, Any]:
        """Warm up, measure, wait for the rest; return the figures."""
        connections = [_Connection(self) for _ in range(self.concurrency)]
        try:
            return self._drive(connections)
        finally:
            for connection in connections:
                connection.close()
            self.selector.close()

    def _drive(self, connections: list[_Connection]) -> dict[str, Any]:
        began, opens, closes, worked, busy = time.monotonic(), 0.0, 0.0, 0.0, 0.0
        for connection in connections:
            connection.send()
        while True:
            now = time.monotonic()
            if now - began > _LONGEST_SECONDS:
                raise LoadError(f"every caller must be answered within {_LONGEST_SECONDS:.0f} seconds")
            if not opens and now - began >= self.warm_seconds and all(connection.answered for connection in connections):
                opens, worked = now, time.process_time()
                _say({"event": "opens"})
            if opens and not closes and now - opens >= self.seconds:
                closes, busy = now, time.process_time() - worked
                _say({"event": "closes"})
            if not closes:
                for connection in connections:
                    if connection.idle:
                        connection.send()
            else:
                for connection in connections:
                    if connection.idle:
                        connection.close()
                if all(connection.idle for connection in connections):
                    break
            for key, events in self.selector.select(0.05):
                if events & selectors.EVENT_WRITE:
                    key.data.write()
                if events & selectors.EVENT_READ:
                    key.data.read()
        return {"event": "result", "sequence": self.sequence, **figures(self.done, opens, closes, rows=self.batch), "client_seconds": busy}


def figures(done: list[Done], opens: float, closes: float, *, rows: int) -> dict[str, Any]:
    """Return throughput and latencies of the requests between ``opens`` and ``closes``."""
    inside = [one for one in done if one.done > opens and one.sent < closes]
    good = [one for one in inside if one.status == 200]
    share = sum((min(one.done, closes) - max(one.sent, opens)) / (one.done - one.sent) for one in good)
    # latencies of what was answered inside the window; where nothing was, of what was under way
    answered = [one.done - one.sent for one in good if one.done <= closes] or [one.done - one.sent for one in good]
    answered.sort()
    failed: dict[str, int] = {}
    for one in inside:
        if one.status != 200:
            failed[str(one.status)] = failed.get(str(one.status), 0) + 1
    return {
        "seconds": closes - opens,
        "rows_per_second": share * rows / (closes - opens),
        "answered": len(answered),
        "p50_ms": percentile(answered, 0.5) * 1e3,
        "p99_ms": percentile(answered, 0.99) * 1e3,
        "failed": failed,
    }


def finished(sent: float, done: float) -> Done:
    """Return one good answer."""
    return Done(sent, done, 200)


def percentile(ordered: list[float], share: float) -> float:
    """Return the value below which ``share`` of the ordered values lie (nearest rank); NaN of nothing."""
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do the jobs on standard input, one a line, until it ends."""
    for line in sys.stdin:
        try:
            _say(_Job(json.loads(line)).run())
        except (LoadError, OSError) as error:
            _say({"event": "failed", "reason": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
