"""The software below a distribution, as it is installed here: names, versions, licences, and what needs what. For the bill of materials.

Read from the metadata that installers leave (Core Metadata 2.x, the RECORD of each wheel), never from a list kept by hand. A requirement counts
when its package is installed; of environment markers only ``extra`` is read, so that one which does not apply here can still show as a need where
something else brought the package.
"""

import importlib.metadata
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from firstlight.digest import sha256_bytes
from firstlight.verdict import Verdict

_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?([^;]*)(?:;(.*))?$")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)")
_MOST_REASONS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One installed distribution."""

    name: str
    """Normalised (PEP 503)."""
    version: str
    purl: str
    """Package URL, ``pkg:pypi/torch@2.13.0``."""
    license: str
    """As its metadata has it; empty when it says none."""
    record_sha256: str
    """sha256 of its RECORD, which lists its files with theirs; empty when it was installed without one."""
    pinned: bool
    """Whether the lock file names this version; the local part (``+cpu``) is left aside."""
    requires: tuple[str, ...]
    """Names of the packages here that it needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Software:
    """What is installed below one distribution."""

    root: str
    version: str
    python: str
    platform: str
    lock_sha256: str | None
    """sha256 of the lock file; None without one."""
    packages: tuple[Package, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: CANNOT_TELL without a lock file to hold the list against; what differs from it is said, for the risk rules to judge."""
        loose = [package for package in self.packages if not package.pinned and package.name != self.root]
        said = "no lock file was found" if self.lock_sha256 is None else f"{len(loose)} not as in the lock file"
        differing = [f"{package.name} {package.version} is not what the lock file names" for package in loose[:_MOST_REASONS]]
        return {
            "verdict": (Verdict.CANNOT_TELL if self.lock_sha256 is None else Verdict.PASS).value,
            "summary": f"{self.root} {self.version} on python {self.python} with {len(self.packages) - 1} packages below it, {said}",
            "reasons": differing if self.lock_sha256 is not None else [said],
            "root": self.root,
            "version": self.version,
            "python": self.python,
            "platform": self.platform,
            "lock_sha256": self.lock_sha256,
            "unpinned": len(loose) if self.lock_sha256 is not None else None,
            "packages": [{**asdict(package), "requires": list(package.requires)} for package in self.packages],
        }


Metadata = importlib.metadata.Distribution


def installed(root: str, *, lock: Path | None = None) -> Software:
    """Return what is installed below distribution ``root`` in this interpreter. Raises PackageNotFoundError when ``root`` is not.

    ``lock``: a file of ``name==version`` lines; one that cannot be read counts as none.
    """
    by_name: dict[str, Metadata] = {}
    for one in importlib.metadata.distributions():
        if one.metadata["Name"]:
            by_name.setdefault(normal(one.metadata["Name"]), one)  # the first on the path is the one that is imported
    pinned, digest = _pins(lock)
    start = importlib.metadata.distribution(root)
    below = closure(normal(root), lambda name: (by_name[name].requires or []) if name in by_name else None)
    return Software(
        root=normal(root),
        version=start.version,
        python=platform.python_version(),
        platform=platform.platform(),
        lock_sha256=digest,
        packages=tuple(_package(by_name[name], name, needs, pinned) for name, needs in sorted(below.items())),
    )


def closure(root: str, requires: Callable[[str], Sequence[str] | None]) -> dict[str, tuple[str, ...]]:
    """Return package -> packages it needs, for ``root`` and everything below it. Pure.

    ``requires`` gives a package's requirement lines (PEP 508), None for one that is not installed.

    >>> lines = {"a": ["B[fast]>=1", "gone"], "b": ["c; extra == 'fast'", "d; extra == 'slow'"], "c": [], "d": []}
    >>> closure("a", lines.get)
    {'a': ('b',), 'b': ('c',), 'c': ()}
    """
    found: dict[str, set[str]] = {}
    seen: set[tuple[str, str]] = set()
    open_ones = [(root, "")]
    while open_ones:
        name, extra = open_ones.pop()
        lines = requires(name)
        if (name, extra) in seen or lines is None:
            continue
        seen.add((name, extra))
        needs = found.setdefault(name, set())
        for needed, wanted in _needs(lines, extra):
            if requires(needed) is not None:
                needs.add(needed)
                open_ones += [(needed, one) for one in ("", *wanted)]
    return {name: tuple(sorted(needs)) for name, needs in found.items()}


def _needs(lines: Iterable[str], extra: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (package, its extras) for the lines that belong to ``extra``; "" is the package itself."""
    for text in lines:
        match = _REQUIREMENT.match(text)
        if match is None:
            continue
        asked = _EXTRA.search(match[4] or "")
        if normal(asked[1]) == normal(extra) if asked else not extra:
            yield normal(match[1]), tuple(normal(one) for one in (match[2] or "").split(",") if one.strip())


def normal(name: str) -> str:
    """Return a distribution's name as PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _package(one: Metadata, name: str, needs: tuple[str, ...], pinned: dict[str, set[str]]) -> Package:
    record = one.read_text("RECORD")
    public = one.version.partition("+")[0]
    return Package(
        name=name,
        version=one.version,
        purl=f"pkg:pypi/{quote(name)}@{quote(one.version)}",
        license=_license(one),
        record_sha256=sha256_bytes(record.encode()) if record else "",
        pinned=public in pinned.get(name, ()),
        requires=needs,
    )


def _license(one: Metadata) -> str:
    said = one.metadata
    expression, short = ((said[key] or "").strip() if key in said else "" for key in ("License-Expression", "License"))
    classified = [line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or [] if line.startswith("License :: ")]
    return expression or ", ".join(classified) or (short if len(short) <= 60 and "\n" not in short else "")


def _pins(lock: Path | None) -> tuple[dict[str, set[str]], str | None]:
    """Return package -> versions the lock file names (one for each kind of machine or Python), without local parts, and its digest."""
    try:
        data = lock.read_bytes() if lock is not None else None
    except OSError:
        data = None
    if data is None:
        return {}, None
    pins: dict[str, set[str]] = {}
    for match in filter(None, map(_PIN.match, data.decode("utf-8", "replace").splitlines())):
        pins.setdefault(normal(match[1]), set()).add(match[2].partition("+")[0])
    return pins, sha256_bytes(data)
