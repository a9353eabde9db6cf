"""Compares pairs of answers in a process of its own, at a low priority: decoding costs more than passing on, and no caller shall wait for it.

The gateway starts the process with the first pair. It collects pairs for a moment, lays their bytes into memory that both share, and says so over a
local socket; the process lays its answer there instead, and says so. It ends when the gateway does, and after :data:`IDLE_SECONDS` without work.
What cannot be compared (no room, too long, the process is gone) is counted and forgotten.
"""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
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
_GATHERING_SECONDS = 0.02
"""So long the first pair waits for others: a round of 20 costs the gateway hardly more than a round of one."""
_BATCH_BYTES = 4 << 20
_LONGEST_SECONDS = 20.0
_PATIENCE_SECONDS = 5.0


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
        self._metrics.pairs(model, version, "uncompared")

    @property
    def pid(self) -> int | None:
        """Process id of the comparing process; None while there is none."""
        return self._process.pid if self._process else None

    async def _work(self) -> None:
        while True:
            batch = [await self._jobs.get()]
            try:
                await asyncio.sleep(_GATHERING_SECONDS)
                while not self._jobs.empty() and sum(job.size for job in batch) < _BATCH_BYTES:
                    batch.append(self._jobs.get_nowait())
                await self._compare(batch)
            except Exception as error:
                for job in batch:
                    self.lose(job.model, job.shadow_version)
                self._end()
                self._not_before = time.monotonic() + _PATIENCE_SECONDS
                _LOG.warning("answers could not be compared", extra={"pairs": len(batch), "why": f"{type(error).__name__} {error}"})
            finally:
                self._budget.give(sum(job.size for job in batch))

    async def _compare(self, batch: Sequence[Job]) -> None:
        if time.monotonic() < self._not_before:
            for job in batch:
                self.lose(job.model, job.shadow_version)
            return
        for job, answer in zip(batch, await self._answers(batch), strict=True):
            rows = answer.split(b"\n")
            for letter, count in Counter(row[:1] for row in rows).items():
                self._metrics.pairs(job.model, job.shadow_version, _BY_LETTER[letter], count)
            self.log(job.model).add([row[1:] for row in rows], head=_head(job))

    async def _answers(self, batch: Sequence[Job]) -> list[bytes]:
        """Ask the process; a process that turns out to have ended is replaced once: it may have been idle, or been killed."""
        if self._process is not None and not self._process.is_over:
            with contextlib.suppress(ValueError, ConnectionError):
                return await self._ask(self._process, batch)
        self._end()
        self._process = await _Process.start()
        return await self._ask(self._process, batch)

    async def _ask(self, process: "_Process", batch: Sequence[Job]) -> list[bytes]:
        async with asyncio.timeout(_LONGEST_SECONDS):
            return await process.ask(batch)

    def _end(self) -> None:
        if self._process is not None:
            self._process.close()
        self._process = None


class _Process:
    """The comparing process, from outside."""

    def __init__(self, process: "subprocess.Popen[bytes]", memory: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process, self._memory, self._reader, self._writer = process, memory, reader, writer
        self.pid = process.pid

    @classmethod
    async def start(cls) -> "_Process":
        memory = os.memfd_create("firstlight-pairs")
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "serving", "compare", "--descriptor", str(theirs.fileno()), "--memory", str(memory)]
        try:
            with theirs:
                fds = (theirs.fileno(), memory)
                process = await asyncio.to_thread(subprocess.Popen, command, stdin=subprocess.DEVNULL, pass_fds=fds)
        except OSError:
            ours.close()
            os.close(memory)
            raise
        ours.setblocking(False)
        return cls(process, memory, *await asyncio.open_unix_connection(sock=ours))

    @property
    def is_over(self) -> bool:
        """Whether it has ended, for want of work or for another reason."""
        return self._reader.at_eof() or self._process.poll() is not None

    async def ask(self, batch: Sequence[Job]) -> list[bytes]:
        """Return its answers, one for each job. Raises ValueError or OSError when it ends instead."""
        self._writer.write(lay(self._memory, batch))
        await self._writer.drain()
        sizes = orjson.loads(await self._reader.readline())
        ends = list(accumulate(sizes))
        answer = os.pread(self._memory, ends[-1], 0)
        return [answer[end - size : end] for size, end in zip(sizes, ends, strict=True)]

    def close(self) -> None:
        """End it."""
        self._writer.close()
        os.close(self._memory)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(5)


def lay(memory: int, batch: Sequence[Job]) -> bytes:
    """Write the answers of ``batch`` into ``memory`` one after the other; return the line that says what lies there."""
    described = [
        [job.judged, *([answer.status, answer.size, answer.header_length, answer.coding] for answer in (job.live, job.shadow))]
        for job in batch
    ]
    at = 0
    for job in batch:
        for piece in (*job.live.pieces, *job.shadow.pieces):
            at += os.pwrite(memory, piece, at)
    return orjson.dumps(described) + b"\n"


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


def run(descriptor: int, memory: int, *, idle_seconds: float = IDLE_SECONDS) -> None:
    """Be the comparing process: answer batch after batch until the other end of the socket is closed, or nothing comes for ``idle_seconds``."""
    with socket.socket(fileno=descriptor) as end, contextlib.suppress(TimeoutError, ConnectionError):
        end.settimeout(idle_seconds)
        with end.makefile("rb") as lines:
            while line := lines.readline():
                answers = [_answered(live, shadow, judged=judged) for judged, live, shadow in list(_read(memory, orjson.loads(line)))]
                at = 0
                for answer in answers:
                    at += os.pwrite(memory, answer, at)
                end.sendall(orjson.dumps([len(answer) for answer in answers]) + b"\n")


def _read(memory: int, described: Sequence[Any]) -> Iterator[tuple[str, Answer, Answer]]:
    at = 0
    for judged, *sides in described:
        answers = []
        for status, size, header_length, coding in sides:
            answers.append(Answer(status=status, pieces=(os.pread(memory, size, at),), header_length=header_length, coding=coding))
            at += size
        yield judged, answers[0], answers[1]


def _answered(live: Answer, shadow: Answer, *, judged: str) -> bytes:
    # JSON has no line break of its own in it, so one may stand between two of them.
    return b"\n".join(
        _LETTERS[pair.outcome] + orjson.dumps({"outputs": pair.outputs, "failed": pair.outcome is Outcome.FAILED})[1:-1]
        for pair in compare(live, shadow, judged=judged)
    )
