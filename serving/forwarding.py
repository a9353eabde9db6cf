"""One inference on its way: attempt after attempt until a version answers, and everything that has to be true of each attempt.

Inference is idempotent, so a request that one model server fails is tried on another replica, then on another version; the failure is charged to
the version that caused it. What was sent of the body is kept until then, up to a bound. An answer is held back until it is whole, up to a bound,
so that a model server that dies while it answers costs a retry and not a caller's request; a longer one is passed on as it comes.
"""

import asyncio
import logging
import time
from itertools import chain

from serving import tracing
from serving.attempt import Kept, Tried
from serving.errors import OverloadedError, ProtocolError, UnreachableError
from serving.gateway_metrics import GatewayMetrics
from serving.http import VERSION
from serving.incoming import HIGH, Incoming, too_long
from serving.replicas import Replica
from serving.routes import Target
from serving.served import Served
from serving.upstream import ROOM, Link, Upstream

_LOG = logging.getLogger(__name__)
ATTEMPTS = 3
HELD = 1 << 20
"""Longest answer that is held back until it is whole: one for 16 spectra has 0.5 MB."""
WINDOW = 512 << 10
"""What a request with a long body may hold besides what is kept of it: pieces on their way in, and out."""
_NEVER_RETRIED = 504
"""The caller's own deadline has passed: nobody else can meet it either."""
_BUSY = (503, 504)
"""Answers of a model server that works but has too much to do: no reason to leave it out."""
DEADLINE = "x-firstlight-timeout-ms"
_LOOK_SECONDS = 0.02


class Forwarding:
    """One request. :meth:`run` returns the attempt whose answer the caller gets, or None when nobody answered."""

    def __init__(
        self,
        incoming: Incoming,
        served: Served,
        *,
        upstream: Upstream,
        metrics: GatewayMetrics,
        kept: Kept,
        headers: dict[str, str],
        answer_seconds: float,
        wait_seconds: float,
        body_bytes: int,
        span: tracing.Span = tracing.NOTHING,
    ) -> None:
        """``headers`` are those to pass on; ``body_bytes`` bounds the body; ``wait_seconds`` is how long a model may have nobody who answers
        before requests are turned away."""
        self.incoming, self.served, self.kept, self.tried = incoming, served, kept, list[Tried]()
        self._upstream, self._metrics, self.headers, self._span = upstream, metrics, headers, span
        self._began, self._answer_seconds, self._body_bytes = time.monotonic(), answer_seconds, body_bytes
        self._wait_seconds = wait_seconds
        self._fits = incoming.announced is not None and incoming.announced <= kept.limit
        self._held, self._is_holding = 0, False

    async def run(self, *, pinned: str | None, key: str) -> Tried | None:
        """Ask until somebody answers.

        Raises ProtocolError 404 for a ``pinned`` version that is not here, and for what is wrong with the body; OverloadedError when there is
        no memory for it.
        """
        await self._gather()
        await self._attempts(pinned, key=key)
        since = time.monotonic()
        while not any(attempt.status for attempt in self.tried) and await self._somebody_comes(since):
            made = len(self.tried)
            await self._attempts(pinned, key=key)
            if len(self.tried) == made:  # whoever came has no share of the requests yet: the others must not wait for this one's next look
                await asyncio.sleep(_LOOK_SECONDS)
        return next((attempt for attempt in reversed(self.tried) if attempt.status and not attempt.is_gone), None)

    async def _attempts(self, pinned: str | None, *, key: str) -> None:
        most = len(self.tried) + ATTEMPTS
        while len(self.tried) < most and self.kept.is_whole:
            chosen = self._choose(pinned, key=key)
            if chosen is None:
                break
            if self.tried:
                self._metrics.retry(self.served.model)
                self._give_up(self.tried[-1])
            attempt = await self._attempt(*chosen)
            self.tried.append(attempt)
            if not attempt.failed or attempt.status == _NEVER_RETRIED:
                break

    async def _somebody_comes(self, since: float) -> bool:
        """Wait for a model server that did not fail this request, where there was one until just now: a killed one is started again in seconds.

        Returns False when nobody has come in time, the caller cannot wait that long, or the body is not kept. Only what is kept waits, so
        the memory of all bounds how many do.
        """
        served, tried = self.served, {attempt.replica.url for attempt in self.tried}
        until = min(served.alive_at, since) + self._wait_seconds  # a canary without a share is alive, and nobody it may be sent to
        if (deadline := self.headers.get(DEADLINE, "")).isdecimal():
            until = min(until, self._began + int(deadline) / 1000)
        while self.kept.is_whole and time.monotonic() < until:
            if any(not tried.issuperset(target.urls) for target in served.routes.targets):
                return True
            await asyncio.sleep(_LOOK_SECONDS)
            if self.incoming.problem is not None:
                raise self.incoming.problem
        return False

    def close(self) -> None:
        """Give back all memory; the answer has been written, or nobody wants it."""
        self._give_back()
        self.kept.drop()

    async def pass_rest(self, tried: Tried) -> bool:
        """Send the caller the rest of a long answer as it comes, and charge the attempt; return whether all of it came."""
        link, incoming = tried.rest, self.incoming
        assert link is not None
        link.room, waiting = ROOM, True
        try:
            while True:
                if incoming.is_slow:
                    await incoming.signal.wait()
                elif (piece := link.take()) is not None:
                    incoming.write(piece)
                    waiting = True
                elif link.complete or link.lost is not None or not waiting:
                    break
                else:
                    waiting = await self._wait_a_while()
        except BaseException:
            self.served.measurements.abandon(tried.target.version)
            link.abort()
            raise
        if link.complete:
            self._upstream.release(tried.replica.url, link)
        else:
            tried.status, tried.why = 0, link.lost or "its answer came to a halt"
            link.abort()
        self._charge(tried)
        return tried.status != 0

    async def _wait_a_while(self) -> bool:
        """Wait for a sign from either side; return False when there was none for as long as an answer may take."""
        signal, loop = self.incoming.signal, asyncio.get_running_loop()
        expires = loop.time() + self._answer_seconds
        timer = loop.call_at(expires, signal.set)
        try:
            await signal.wait()
        finally:
            timer.cancel()
        return loop.time() < expires - 0.01

    async def _gather(self) -> None:
        """Wait for the body, or a good part of it. No model server is kept busy by a caller who sends slowly, and no version charged for one."""
        incoming, kept = self.incoming, self.kept
        while True:
            while kept.size < HIGH and (piece := self._taken()) is not None:
                if not kept.add(piece):
                    raise _no_memory()
            if incoming.complete or kept.size >= HIGH:
                break
            await incoming.signal.wait()
        if not incoming.complete or incoming.pieces:
            if not kept.budget.take(WINDOW):
                raise _no_memory()
            self._held += WINDOW

    def _choose(self, pinned: str | None, *, key: str) -> tuple[Target, Replica] | None:
        served, now = self.served, time.monotonic()
        avoid = {attempt.replica.url for attempt in self.tried}
        # The routes may have changed since the last attempt: its version may have other replicas by now, or be gone.
        last = served.routes.target(self.tried[-1].target.version) if self.tried else None
        if last is not None and not avoid.issuperset(last.urls):
            target: Target | None = last
        elif pinned is None:
            target = served.chooser.choose(served.routes, avoid=avoid, key=key)
        else:
            target = served.routes.target(pinned)
            if target is None:
                raise ProtocolError(f"there is no version {pinned!r} here", status=404)
        if target is None:
            return None
        replica = served.replicas.choose(target.urls, now=now, avoid=avoid)
        return None if self._is_useless(replica) else (target, replica)

    def _is_useless(self, replica: Replica) -> bool:
        """Whether asking ``replica`` again cannot help: it answered this very request with an error already, or failed twice."""
        earlier = [attempt for attempt in self.tried if attempt.replica.url == replica.url]
        return len(earlier) >= 2 or any(attempt.status for attempt in earlier)

    async def _attempt(self, target: Target, replica: Replica) -> Tried:
        served, began = self.served, time.perf_counter()
        tried = Tried(target, replica, served.routes.track(target))
        served.measurements.begin(target.version)
        replica.in_flight += 1
        try:
            with self._span.child("attempt", kind=tracing.CLIENT, version=target.version, replica=replica.url) as span:
                whole_at = await self._ask(tried, span=span)
                span.answered(tried.status)
        except BaseException:
            served.measurements.abandon(target.version)
            raise
        finally:
            replica.in_flight -= 1
        tried.seconds = time.perf_counter() - (whole_at or began)
        if tried.rest is None:
            self._charge(tried)
        return tried

    async def _ask(self, tried: Tried, *, span: tracing.Span) -> float:
        """Ask one replica and fill in ``tried``; return when the last of the body was passed on (performance counter), 0 before.

        An answer's time counts from there: how fast a caller sends is not the version's merit. A kept connection that turns out to be closed is
        no failure of anybody: the same replica is asked again on a fresh one.
        """
        link = self._upstream.kept(tried.replica.url) if self._fits else None
        if link is not None:
            whole_at = await self._exchange(link, tried, span=span)
            if not (tried.status == 0 and link.received == 0 and not link.has_head and self.kept.is_whole and link.lost is not None):
                return whole_at
            tried.why = ""
        try:
            link = await self._upstream.connect(tried.replica.url)
        except UnreachableError as error:
            tried.why = str(error)
            return 0.0
        return await self._exchange(link, tried, span=span)

    async def _exchange(self, link: Link, tried: Tried, *, span: tracing.Span) -> float:
        """Send the request over ``link`` while it arrives, and take the answer until it is whole or long."""
        incoming, kept = self.incoming, self.kept
        position, ended, whole_at, lives, self._is_holding = 0, False, 0.0, False, False
        expires = time.monotonic() + self._answer_seconds
        timer = asyncio.get_running_loop().call_later(self._answer_seconds + 0.05, incoming.signal.set)
        try:
            link.begin(self._head(tried, span=span), signal=incoming.signal, room=HELD + 1)
            while not link.complete and link.lost is None and not (link.has_head and self._is_long(link)):
                if not ended and not link.is_slow and not link.has_head:
                    if position < len(kept.pieces):
                        self._write(link, *kept.pieces[position:])
                        position = len(kept.pieces)
                        continue
                    if (piece := self._taken()) is not None:
                        self._write(link, piece)
                        self._keep(piece)
                        position = len(kept.pieces)
                        continue
                    if incoming.complete:
                        ended, whole_at = True, time.perf_counter()
                        if incoming.chunked:
                            link.write(b"0\r\n\r\n")
                        continue
                link.flush()
                if incoming.problem is not None:
                    raise incoming.problem
                if time.monotonic() > expires:
                    tried.why = f"no answer within {self._answer_seconds:g} s"
                    return whole_at
                await incoming.signal.wait()
            lives = self._take_answer(link, tried, ended=ended)
        finally:
            timer.cancel()
            if not lives:
                link.abort()
        return whole_at

    def _is_long(self, link: Link) -> bool:
        """Whether an answer is passed on as it comes; one that is held back instead is counted against the memory of all."""
        if self._is_holding:
            return False
        if link.length is None or link.length > HELD or not self.kept.budget.take(link.length):
            return True
        self._held += link.length
        self._is_holding = True
        return False

    def _taken(self) -> bytes | None:
        piece = self.incoming.take()
        if piece is not None and self.incoming.received > self._body_bytes:
            raise too_long(self._body_bytes)
        return piece

    def _keep(self, piece: bytes) -> None:
        if self.kept.is_whole and not self.kept.add(piece):
            self.kept.drop()

    def _write(self, link: Link, *pieces: bytes) -> None:
        if self.incoming.chunked:
            link.write(*chain.from_iterable((b"%x\r\n" % len(piece), piece, b"\r\n") for piece in pieces))
        else:
            link.write(*pieces)

    def _take_answer(self, link: Link, tried: Tried, *, ended: bool) -> bool:
        """Fill in ``tried`` from ``link``; return whether the link lives on."""
        answered_as = link.headers.get(VERSION, tried.target.version)
        if not link.complete and (link.lost is not None or not link.has_head):
            tried.why = link.lost or "its answer broke off"
            return False
        if answered_as != tried.target.version:
            tried.why = f"version {answered_as} answers at its address"
            return False
        tried.status, tried.headers, tried.length = link.status, link.headers, link.length
        while (piece := link.take()) is not None:
            tried.pieces.append(piece)
        if not link.complete:
            tried.rest = link
            return True
        tried.length = sum(map(len, tried.pieces))
        if ended:
            self._upstream.release(tried.replica.url, link)
        return ended

    def _give_up(self, tried: Tried) -> None:
        """Let go of a long answer, because the attempt is made again elsewhere. A short one stays: it may turn out to be the only one."""
        if tried.rest is not None:
            tried.rest.abort()
            tried.rest, tried.is_gone = None, True
            self._charge(tried)

    def _give_back(self) -> None:
        self.kept.budget.give(self._held)
        self._held = 0

    def _head(self, tried: Tried, *, span: tracing.Span) -> bytes:
        incoming, headers = self.incoming, self.headers
        if span is not tracing.NOTHING:
            span.inject(headers)
        if DEADLINE in headers:
            headers[DEADLINE] = _left(incoming.headers[DEADLINE], time.monotonic() - self._began)
        text = f"POST {self.served.path} HTTP/1.1\r\nhost: {tried.replica.url.partition('://')[2]}\r\n"
        for name, value in headers.items():
            text += f"{name}: {value}\r\n"
        text += "transfer-encoding: chunked\r\n\r\n" if incoming.chunked else f"content-length: {incoming.announced or 0}\r\n\r\n"
        return text.encode("latin-1")

    def _charge(self, tried: Tried) -> None:
        """Write down what this attempt says of its version and its replica."""
        served, version, status = self.served, tried.target.version, tried.status
        if status:
            served.alive_at = time.monotonic()
        if tried.why:
            _LOG.warning(
                "attempt failed", extra={"model": served.model, "version": version, "replica": tried.replica.url, "why": tried.why}
            )
        served.measurements.end(version, track=tried.track, status=status, seconds=tried.seconds)
        self._metrics.attempt(served.model, version, tried.track, status=status, seconds=tried.seconds)
        out = served.replicas.note(tried.replica, tried.target.urls, failed=tried.failed and status not in _BUSY, now=time.monotonic())
        if out:
            self._metrics.ejected(served.model, tried.target, tried.replica.url, out=True)
            _LOG.warning("a replica is left out", extra={"version": version, "replica": tried.replica.url, "seconds": out})


def _no_memory() -> OverloadedError:
    return OverloadedError("the gateway holds as much as it can: try again in a second")


def _left(given: str, spent: float) -> str:
    """Return what is left of a deadline in milliseconds; one that is no number is left to the model server to refuse."""
    try:
        return str(max(0, int(float(given) - spent * 1000)))
    except (ValueError, OverflowError):
        return given
