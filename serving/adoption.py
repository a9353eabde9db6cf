"""What a supervisor has started, in a file: the next supervisor finds it there, and every process sees there whether anybody looks after it.

``children.json`` names processes by number *and* by the moment of their birth, so a number that the kernel gave to somebody else means nobody. Its
words are one supervisor's: whoever reads it believes it only while that supervisor lives, or in order to take its place.
"""

import json
import os
import select
import signal
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from firstlight import __version__
from firstlight.digest import sha256_file, sha256_json, write_atomic
from serving.errors import SettingsError

CHILDREN_FILE = "children.json"
"""In a model's folder, beside the lock: what the supervisor of that model has started."""
_FORMAT = "firstlight/children/v1"
_START_TIME = 19
"""Index of the start time in what follows the name in /proc/<pid>/stat (proc_pid_stat(5), field 22)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Being:
    """One process of this machine, and no other that may have its number later."""

    pid: int
    born: str
    """Boot, process namespace and start time."""

    @property
    def lives(self) -> bool:
        """Whether it runs (a zombie does not)."""
        return born(self.pid) == self.born


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One process that a supervisor has started and that could be taken over."""

    role: str
    """``gateway``, ``model`` or ``baseline``."""
    being: Being
    fit: str
    """Digest of what it was started with (:func:`fitness`)."""
    port: int
    control_port: int | None = None
    version: str = ""
    number: int = 0
    """Of the replica."""
    ready: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """The whole file."""

    supervisor: Being
    children: tuple[Record, ...] = ()
    lease: Mapping[str, Any] = field(default_factory=dict)
    """What the keeper knows of the canary's lease: since when it has been what it is."""


class Fate(StrEnum):
    """How a process stands whose parent is gone."""

    KEPT = "kept"
    """A supervisor lives and counts it among its own."""
    DISOWNED = "disowned"
    """A supervisor lives and knows nothing of it: it is in the way."""
    ORPHANED = "orphaned"
    """Nobody is there."""


def born(pid: int) -> str | None:
    """Return the moment of birth of the process ``pid``, or None when there is none that runs."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None
    return None if words[0] in ("Z", "X") else f"{boot} {space} {words[_START_TIME]}"


def myself() -> Being:
    """Return this process. Raises SettingsError where the system does not say when a process began."""
    moment = born(os.getpid())
    if moment is None:
        raise SettingsError("a supervisor must be able to tell processes apart by /proc/<pid>/stat, it cannot: run it on Linux")
    return Being(pid=os.getpid(), born=moment)


def same_boot(one: Being, other: Being) -> bool:
    """Return whether both were born on this machine since it started."""
    return one.born.split()[0] == other.born.split()[0]


def trusted(path: Path | None) -> list[str]:
    """Return the digest of a file of keys, as a list of one; [] where none is asked for. A key that was revoked makes another of it."""
    if path is None:
        return []
    try:
        return [sha256_file(path)]
    except OSError:
        return ["none"]


def fitness(words: Sequence[str]) -> str:
    """Return the digest of a process's arguments and of this software: a process with another one is not what would be started now."""
    return sha256_json([__version__, *words])


def read(folder: Path) -> Census | None:
    """Return what the last supervisor of ``folder`` left, or None when it left nothing. Raises SettingsError when it cannot be understood."""
    path = folder / CHILDREN_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{path} must be readable, got {error.strerror!r}: every process is started anew") from error
    try:
        return _census(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = " ".join(str(error).split())[:200]
        raise SettingsError(
            f"{path} must hold a list of processes, found {type(error).__name__}: {why}; every process is started anew"
        ) from error


def write(folder: Path, census: Census) -> None:
    """Leave ``census`` for the next supervisor. Raises OSError."""
    write_atomic(folder / CHILDREN_FILE, json.dumps({"format": _FORMAT, **asdict(census)}).encode())


def fate(folder: Path, pid: int) -> Fate:
    """Return how the process ``pid`` stands by the file in ``folder``."""
    try:
        census = read(folder)
    except SettingsError:
        return Fate.ORPHANED
    if census is None or not census.supervisor.lives:
        return Fate.ORPHANED
    return Fate.KEPT if any(child.being.pid == pid for child in census.children) else Fate.DISOWNED


class Adopted:
    """A process that somebody else started. Signals go to it or to nobody: never to another one that has its number by now."""

    def __init__(self, being: Being) -> None:
        """Raises ProcessLookupError when it is gone."""
        self.pid = being.pid
        self._handle = os.pidfd_open(being.pid)
        weakref.finalize(self, os.close, self._handle)
        # In this order: a handle to another process than the one that was meant is seen here.
        if not being.lives:
            raise ProcessLookupError(f"process {being.pid} is gone")

    @classmethod
    def of(cls, being: Being) -> Self | None:
        """Return the process, or None when it is gone or is not ours to signal."""
        try:
            found = cls(being)
            signal.pidfd_send_signal(found._handle, 0)
        except OSError:
            return None
        return found

    def ending(self) -> str | None:
        """Return how it ended, None while it runs."""
        return "its process ended" if self.wait(0) else None

    def send(self, number: int) -> None:
        """Send a signal; one that is gone gets none."""
        if not self.wait(0):
            signal.pidfd_send_signal(self._handle, number)

    def wait(self, seconds: float) -> bool:
        """Return whether it has ended within ``seconds``."""
        looking = select.poll()
        looking.register(self._handle, select.POLLIN)
        return bool(looking.poll(seconds * 1000))


def _census(document: Mapping[str, Any]) -> Census:
    if document["format"] != _FORMAT:
        raise ValueError(f"the format must be {_FORMAT}, it is {document['format']!r}")
    children = tuple(Record(**{**child, "being": _being(child["being"])}) for child in document["children"])
    for child in children:
        if not (isinstance(child.port, int) and isinstance(child.number, int) and isinstance(child.role, str) and child.being.pid > 1):
            raise TypeError(f"a child must be a process with a role, a number and a port, found {child}")
    return Census(supervisor=_being(document["supervisor"]), children=children, lease=dict(document["lease"]))


def _being(document: Mapping[str, Any]) -> Being:
    being = Being(**document)
    if type(being.pid) is not int or being.pid < 1 or not isinstance(being.born, str):
        raise ValueError(f"a process must be named by its number and its birth, found {being}")
    return being


__all__ = [
    "CHILDREN_FILE",
    "Adopted",
    "Being",
    "Census",
    "Fate",
    "Record",
    "born",
    "fate",
    "fitness",
    "myself",
    "read",
    "same_boot",
    "write",
]
