"""One version under measurement, in a process of its own that is talked to a line at a time."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from firstlight.errors import FirstlightError, RefusedError, TransientError

_ITS_OWN_FAULT = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
"""Signals a program brings upon itself; every other one was sent, or is the system that ran out of memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """What one version needs."""

    who: str
    first_answer_seconds: float
    """From the start of its process to its first answer."""
    peak_mib: float
    """Peak resident memory of its process."""
    device_peak_mib: float | None
    """Peak memory on the accelerator; None on a CPU."""
    backend: str = "eager"
    """How it was run."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """What is measured: a hand-off, run in one way."""

    folder: Path
    """The hand-off."""
    backend: str = "eager"
    """How it is run (models.backends)."""
    compiled: Path | None = None
    """Folder of compiled files."""
    digest: str | None = None
    """Digest of this version's compiled file."""


class Contestant:
    """A context: entered, its process loads the version; :meth:`first_answer` waits until it has; left, the process is gone."""

    def __init__(self, who: str, contender: Contender, *, threads: int, timeout: float, strict: bool = False) -> None:
        """``strict``: a backend that cannot be had here is refused; otherwise the model is run eagerly, as a server would."""
        self.who = who
        self._timeout = timeout
        self._arguments = [sys.executable, "-m", "models.benchmark_worker", str(contender.folder.absolute()), "--threads", str(threads)]
        self._arguments += ["--backend", contender.backend]
        if contender.compiled is not None:
            self._arguments += ["--compiled", str(contender.compiled.absolute())]
        if contender.digest is not None:
            self._arguments += ["--digest", contender.digest]
        self._arguments += ["--strict"] if strict else []
        self._unread = b""

    def __enter__(self) -> Self:
        """Start the process."""
        # a file, because nobody reads while it writes: a full pipe would stop it
        self._complaints = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, cwd=Path(__file__).parent.parent
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._complaints):
            if stream is not None:
                _close(stream)

    def first_answer(self) -> dict[str, Any]:
        """Wait until the version has answered once, and return what it says of itself. Raises what :meth:`measure` raises."""
        self._first = self._last = self._read()
        return self._first

    def answer(self, rows: Path, to: Path) -> None:
        """Let it answer the inputs in the safetensors file ``rows`` into the file ``to``.

        Raises what :meth:`measure` raises, and RefusedError when it does not take these rows, after which it may be asked again.
        """
        self._last = self._ask(answer=str(rows.absolute()), to=str(to.absolute()))
        if said := self._last["refused"]:
            raise RefusedError(str(said))

    @property
    def pid(self) -> int:
        """Number of its process."""
        return self._process.pid

    def measure(self, batch: int, *, calls: int, seconds: float) -> tuple[float, ...]:
        """Return the seconds of up to ``calls`` calls with ``batch`` spectra each, after one that warms up and is not counted.

        Stops after ``seconds``, with one call at least. Raises RefusedError when the version fails or does not answer,
        TransientError when its process is ended from outside.
        """
        self._call(batch)
        taken: list[float] = []
        until = time.monotonic() + seconds
        while not taken or (len(taken) < calls and time.monotonic() < until):
            taken.append(self._call(batch))
        return tuple(taken)

    def footprint(self) -> Footprint:
        """Return time to first answer and peak memory so far."""
        device_bytes = self._last["device_peak_bytes"]
        return Footprint(
            who=self.who,
            first_answer_seconds=float(self._first["first_answer_seconds"]),
            peak_mib=float(self._last["peak_bytes"]) / 2**20,
            device_peak_mib=None if device_bytes is None else float(device_bytes) / 2**20,
            backend=str(self._first.get("backend", "eager")),
        )

    def _call(self, batch: int) -> float:
        self._last = self._ask(batch=batch)
        return float(self._last["seconds"])

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        """Return the next answer; every one has its full time."""
        assert self._process.stdout is not None
        until = time.monotonic() + self._timeout
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise RefusedError(f"the {self.who} must answer within {self._timeout:g} s, it did not: it is too slow to be served")
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                raise self._ended()
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return dict(json.loads(line))

    def _ended(self) -> FirstlightError:
        code = self._process.wait()
        if code < 0 and -code not in _ITS_OWN_FAULT:
            return TransientError(f"the {self.who}'s process was ended by signal {-code} while it was measured: run the benchmark again")
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        said = lines[-1][:500] if lines else "it printed nothing"
        return RefusedError(f"the {self.who} must load and answer, its process ended with code {code} ({said}): mend the model")


def _close(stream: Any) -> None:
    with suppress(BrokenPipeError):  # what was not yet sent is not wanted any more
        stream.close()
