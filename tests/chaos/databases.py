"""Databases that a test may kill, stop, slow down and make read-only: a file for SQLite, a whole cluster of its own for PostgreSQL.

What "to kill the database" means on SQLite, which has no process: a writer of its own is killed with -9 while it holds the write lock and has
changed pages that it has not committed. The next one to open the file finds its log.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import psutil
import psycopg
import pytest

_UP_SECONDS = 60.0
_WRITER = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
held.execute("PRAGMA cache_size = 1")
held.execute("BEGIN IMMEDIATE")
held.execute("UPDATE desired_state SET canary_weight = 0, changed_by = 'a writer that will be killed'")
held.execute("CREATE TABLE never_committed AS SELECT * FROM ledger")
print("held", flush=True)
time.sleep(600)
"""


class Broken(Protocol):
    """A database that can be broken and mended. ``mend`` undoes everything, and again is harmless."""

    url: str
    name: str

    def kill(self) -> None:
        """End it without a word, in the middle of what it does; it is not back before ``mend``."""
        ...

    def stop(self) -> None:
        """Let it take whatever it is told and answer nothing."""
        ...

    def slow(self) -> None:
        """Let it do its work a quarter of the time."""
        ...

    def read_only(self) -> None:
        """Let it answer questions and change nothing."""
        ...

    def is_writable(self) -> bool:
        """Whether a process that stands still holds up the others."""
        ...

    def mend(self) -> None:
        """Make it a database like any other again."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


class SqliteFile:
    """A file. Slow and stopped: another writer holds its lock, now and then or all the time; readers go on, as SQLite lets them."""

    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.db"
        self.url = f"sqlite:///{self.path}"
        self._writer: subprocess.Popen[bytes] | None = None
        self._brake: _Brake | None = None

    def kill(self) -> None:
        self._hold()
        assert self._writer is not None
        self._writer.kill()
        self._writer.wait(10)

    def stop(self) -> None:
        self._hold()

    def slow(self) -> None:
        self._brake = _Brake(self._hold, self._let_go)

    def read_only(self) -> None:
        """Nothing: whoever has the file open for writing goes on writing, and everybody has."""

    def is_writable(self) -> bool:
        """Whether nobody holds the write lock."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None, timeout=1.0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.OperationalError:
                return False
        return True

    def mend(self) -> None:
        if self._brake is not None:
            self._brake.release()
            self._brake = None
        self._let_go()

    def close(self) -> None:
        self.mend()

    def _hold(self) -> None:
        self._let_go()
        self._writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(self.path)], stdout=subprocess.PIPE)
        assert self._writer.stdout is not None
        assert self._writer.stdout.readline() == b"held\n"

    def _let_go(self) -> None:
        if self._writer is not None:
            self._writer.kill()
            self._writer.wait(10)
            self._writer.stdout.close()
            self._writer = None


class PostgresCluster:
    """A server in a folder of its own, on a free port of loopback, that writes nothing to disk in earnest."""

    name = "postgresql"

    def __init__(self) -> None:
        self._bin = binaries()
        self._folder = Path(tempfile.mkdtemp(prefix="firstlight-chaos-"))
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(self._folder, self._user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"
        self._server: subprocess.Popen[bytes] | None = None
        self._brake: _Brake | None = None
        words = ["--auth", "trust", "--username", "postgres", "--no-sync", "--pgdata", str(self._folder / "db")]
        subprocess.run([self._bin / "initdb", *words], check=True, stdout=subprocess.DEVNULL, **self._as_user())
        self.start()

    def start(self) -> None:
        """Start it, and again until it answers: one that was killed leaves shared memory that the kernel gives back in its own time."""
        words = ["-D", str(self._folder / "db"), "-p", str(self.port), "-k", str(self._folder), "-c", "listen_addresses=127.0.0.1"]
        words += ["-c", "fsync=off", "-c", "max_connections=60", "-c", "shared_buffers=16MB", "-c", "autovacuum=off"]
        deadline = time.monotonic() + _UP_SECONDS
        while not self._answers():
            assert time.monotonic() < deadline, (self._folder / "log").read_text()[-3000:]
            if self._server is None or self._server.poll() is not None:
                with (self._folder / "log").open("ab") as log:
                    self._server = subprocess.Popen([self._bin / "postgres", *words], stderr=log, stdout=log, **self._as_user())
            time.sleep(0.1)

    def kill(self) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        assert self._server is not None
        self._server.wait(10)

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def slow(self) -> None:
        self._brake = _Brake(lambda: self._signal(signal.SIGSTOP), lambda: self._signal(signal.SIGCONT))

    def read_only(self) -> None:
        self._default_read_only("on")

    def is_writable(self) -> bool:
        """Always: the server ends the session of one who is silent in the middle of writing."""
        return True

    def mend(self) -> None:
        if self._brake is not None:
            self._brake.release()
            self._brake = None
        self._signal(signal.SIGCONT)
        self.start()
        self._default_read_only("off")

    def close(self) -> None:
        self._signal(signal.SIGCONT)
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _default_read_only(self, value: str) -> None:
        """Say it to every session that there is and will be, as a failover to a standby does."""
        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            connection.execute("SELECT pg_reload_conf()")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _processes(self) -> list[psutil.Process]:
        """Return the server, then its children: in this order nobody is started anew between two signals."""
        if self._server is None or self._server.poll() is not None:
            return []
        with contextlib.suppress(psutil.Error):
            server = psutil.Process(self._server.pid)
            return [server, *server.children(recursive=True)]
        return []

    def _signal(self, number: int) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    def _as_user(self) -> dict[str, object]:
        """PostgreSQL refuses to run as root."""
        return {"user": self._user, "cwd": self._folder} if os.geteuid() == 0 else {"cwd": self._folder}


class _Brake:
    """Stops and lets go again, three parts of the time stopped, until released."""

    def __init__(self, stop, go) -> None:
        self._stop, self._go, self._over = stop, go, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def release(self) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._over.is_set():
            self._stop()
            self._over.wait(0.6)
            self._go()
            self._over.wait(0.2)


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs; skip without one, fail in CI."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True)
    for folder in [*folders, *([Path(found).resolve().parent] if found else [])]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    reason = "PostgreSQL's programs (initdb, postgres) are not here"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{reason}; CI must break a real server")
    pytest.skip(reason)


@contextlib.contextmanager
def database(name: str, folder: Path) -> Iterator[SqliteFile | PostgresCluster]:
    """Yield a database of this kind; nothing of it is left."""
    made = SqliteFile(folder) if name == "sqlite" else PostgresCluster()
    try:
        yield made
    finally:
        made.close()


__all__ = ["Broken", "PostgresCluster", "SqliteFile", "database"]
