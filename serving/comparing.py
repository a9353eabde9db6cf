"""Compares pairs of answers in a process of its own, at the lowest priority: decoding costs more than passing on, and no caller shall wait for it.

The gateway starts the process with the first pair and hands it one pair at a time over a local socket; it ends when the gateway does, and after
:data:`IDLE_SECONDS` without work. What cannot be compared (no room, too long, the process is gone) is counted and forgotten.
"""

import asyncio
import contextlib
import logging
import socket
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from serving.flow import Budget
from serving.gateway_metrics import GatewayMetrics
from serving.pairs import Answer, Outcome, compare

_LOG = logging.getLogger(__name__)
KEPT = 20_000
"""Pairs kept for each model; older ones are forgotten."""
PAGE = 2_000
"""Pairs in one answer."""
QUEUED = 256
"""Comparisons that may wait; further ones are dropped."""
IDLE_SECONDS = 300.0
_LONGEST_SECONDS = 20.0
_PATIENCE_SECONDS = 5.0
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Two answers to one request."""

    model: str
    request_id: str
    live: Answer
    live_track: str
    live_version: str
    shadow: Answer
    shadow_version: str

    @property
    def size(self) -> int:
        """Bytes held."""
        return self.live.size + self.shadow.size

    @property
    def judged(self) -> str:
        """Which side is the canary's; the other one is the control."""
        return "live" if self.live_track == "canary" else "shadow"


@dataclass(slots=True)
class PairLog:
    """The latest pairs of one model, written out already: a page of them is joined bytes."""

    kept: int = KEPT
    outcomes: Counter[str] = field(default_factory=Counter)
    uncompared: int = 0
    """Requests whose copy was not sent, or whose answers were not compared."""
    _pairs: deque[bytes] = field(default_factory=deque)
    _last: int = 0
    """Number of the latest pair; the first has 1."""

    def add(self, rows: Sequence[bytes], *, head: bytes) -> None:
        """Append the rows of one request: each is JSON members, ``head`` those that all of them share."""
        for row in rows:
            self._last += 1
            self._pairs.append(b'{"seq":%d,%s,%s}' % (self._last, head, row))
        while len(self._pairs) > self.kept:
            self._pairs.popleft()

    def page(self, after: int, *, epoch: str) -> bytes:
        """Return the first pairs that came after number ``after`` as a JSON document; ``next`` is what to ask with then."""
        gone = self._last - len(self._pairs)
        first = min(max(after, gone), self._last)
        page = list(islice(self._pairs, first - gone, first - gone + PAGE))
        numbers = {"epoch": epoch, "next": first + len(page), "dropped": max(0, gone - after), "uncompared": self.uncompared}
        return orjson.dumps(numbers)[:-1] + b',"pairs":[' + b",".join(page) + b"]}"


class Comparer:
    """The gateway's side."""

    def __init__(self, *, budget: Budget, metrics: GatewayMetrics) -> None:
        """Nothing is started yet."""
        self._budget, self._metrics = budget, metrics
        self._jobs: asyncio.Queue[Job] = asyncio.Queue(QUEUED)
        self._logs: dict[str, PairLog] = {}
        self._task: asyncio.Task[None] | None = None
        self._process: _Process | None = None
        self._not_before = 0.0

    def start(self) -> None:
        """Begin to take jobs."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Stop; what waits is lost."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._end()

    def log(self, model: str) -> PairLog:
        """Return the pairs of ``model``."""
        return self._logs.setdefault(model, PairLog())

    def offer(self, job: Job) -> bool:
        """Take ``job``, whose bytes are counted in the budget already and given back afterwards; False (and nothing taken) when there is no room."""
        if self._jobs.full():
            return False
        self._jobs.put_nowait(job)
        return True

    def lose(self, model: str, version: str) -> None:
        """Count a request that was not compared."""
        self.log(model).uncompared += 1
        self._metrics.pair(model, version, "uncompared")

    @property
    def pid(self) -> int | None:
        """Process id of the comparing process; None while there is none."""
        return self._process.pid if self._process else None

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            try:
                await self._compare(job)
            except Exception as error:
                self.lose(job.model, job.shadow_version)
                self._end()
                self._not_before = time.monotonic() + _PATIENCE_SECONDS
                _LOG.warning("answers could not be compared", extra={"model": job.model, "why": f"{type(error).__name__} {error}"})
            finally:
                self._budget.give(job.size)

    async def _compare(self, job: Job) -> None:
        if self._process is not None and self._process.is_over:
            self._end()
        if self._process is None:
            if time.monotonic() < self._not_before:
                self.lose(job.model, job.shadow_version)
                return
            self._process = await _Process.start()
        async with asyncio.timeout(_LONGEST_SECONDS):
            answer = await self._process.ask(_frame(job))
        rows = answer.split(b"\n") if answer else []
        for row in rows:
            self._metrics.pair(job.model, job.shadow_version, _BY_LETTER[row[:1]])
        self.log(job.model).add([row[1:] for row in rows], head=_head(job))

    def _end(self) -> None:
        if self._process is not None:
            self._process.close()
        self._process = None


class _Process:
    """The comparing process, from outside."""

    def __init__(self, process: "subprocess.Popen[bytes]", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self.pid = process.pid

    @classmethod
    async def start(cls) -> "_Process":
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "serving", "compare", "--descriptor", str(theirs.fileno())]
        try:
            with theirs:
                process = await asyncio.to_thread(subprocess.Popen, command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),))
        except OSError:
            ours.close()
            raise
        ours.setblocking(False)
        return cls(process, *await asyncio.open_unix_connection(sock=ours))

    @property
    def is_over(self) -> bool:
        """Whether it has ended, for want of work or for another reason."""
        return self._reader.at_eof() or self._process.poll() is not None

    async def ask(self, frame: Sequence[bytes]) -> bytes:
        """Return its answer. Raises EOFError or OSError when it ends instead."""
        self._writer.writelines(frame)
        await self._writer.drain()
        (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
        return await self._reader.readexactly(length)

    def close(self) -> None:
        """End it."""
        self._writer.close()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(5)


def _frame(job: Job) -> list[bytes]:
    described = [[answer.status, answer.size, answer.header_length, answer.coding] for answer in (job.live, job.shadow)]
    head = orjson.dumps({"answers": described, "judged": job.judged})
    return [_LENGTH.pack(len(head)), head, *job.live.pieces, *job.shadow.pieces]


def _head(job: Job) -> bytes:
    shared = {
        "at": round(time.time(), 3),
        "request_id": job.request_id,
        "live": {"track": job.live_track, "version": job.live_version, "status": job.live.status},
        "shadow": {"version": job.shadow_version, "status": job.shadow.status},
    }
    return orjson.dumps(shared)[1:-1]


_LETTERS = {outcome: outcome.value[0].encode() for outcome in Outcome}
_BY_LETTER = {letter: outcome.value for outcome, letter in _LETTERS.items()}


def run(descriptor: int, *, idle_seconds: float = IDLE_SECONDS) -> None:
    """Be the comparing process: answer pair after pair until the other end of the socket is closed, or nothing comes for ``idle_seconds``."""
    with socket.socket(fileno=descriptor) as end, contextlib.suppress(TimeoutError, EOFError, ConnectionError):
        end.settimeout(idle_seconds)
        while True:
            (length,) = _LENGTH.unpack(_read(end, _LENGTH.size))
            answer = _answered(end, orjson.loads(_read(end, length)))
            end.sendall(_LENGTH.pack(len(answer)) + answer)


def _answered(end: socket.socket, head: dict[str, Any]) -> bytes:
    answers = [
        Answer(status=status, pieces=(bytes(_read(end, size)),), header_length=header_length, coding=coding)
        for status, size, header_length, coding in head["answers"]
    ]
    pairs = compare(*answers, judged=head["judged"])
    # JSON has no line break of its own in it, so one may stand between two of them.
    return b"\n".join(
        _LETTERS[pair.outcome] + orjson.dumps({"outputs": pair.outputs, "failed": pair.outcome is Outcome.FAILED})[1:-1] for pair in pairs
    )


def _read(end: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        count = end.recv_into(view[at:])
        if not count:
            raise EOFError
        at += count
    return data
