"""The peers' environments: a virtual environment each, made by pip (or uv), never this project's own."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.subject import CACHE, HERE

PEERS = tuple(sorted(path.parent.name for path in (HERE / "peers").glob("*/requirements.txt")))
_WORKS = "import importlib.metadata as m, torch; print(m.version({name!r}), 'with torch', torch.__version__)"


def install(names: Sequence[str], *, uv: bool = False, find_links: Path | None = None, into: Path = CACHE) -> int:
    """Make the environments of ``names`` (empty: all) anew below ``into``; return how many failed. pip's own settings hold, also for where
    torch comes from. The benchmark looks for them in ``CACHE``, the default.
    """
    return sum(not _install(name, into / name, uv=uv, find_links=find_links) for name in names or PEERS)


def _install(name: str, folder: Path, *, uv: bool, find_links: Path | None) -> bool:
    if name not in PEERS:
        return _failed(f"a peer must be one of {', '.join(PEERS)}, got {name!r}")
    if uv and _uv() is None:
        return _failed("uv must be installed to be used, it is not: leave --uv away, pip does the same more slowly")
    if folder.exists() and not (folder / "pyvenv.cfg").is_file():
        return _failed(f"{folder} must be an environment made here, or not be there: it is something else and is not removed")
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{name}: installing into {folder} ...", flush=True)
    python = str(folder / "bin" / "python")
    for command in [*_commands(name, folder, uv=uv, find_links=find_links), [python, "-c", _WORKS.format(name=name)]]:
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            return _failed(f"{name}: could not be installed (above is why); it will be skipped")
    (folder / "installed").touch()
    print(f"{name}: {done.stdout.strip()}")
    return True


def _commands(name: str, folder: Path, *, uv: bool, find_links: Path | None) -> list[list[str]]:
    python, requirements = str(folder / "bin" / "python"), str(HERE / "peers" / name / "requirements.txt")
    links = ["--find-links", str(find_links)] if find_links else []
    if uv:
        tool = _uv() or "uv"
        make = [tool, "venv", "--quiet", "--python", sys.executable, str(folder)]
        return [make, [tool, "pip", "install", "--quiet", "--python", python, *links, "--requirement", requirements]]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    return [[sys.executable, "-m", "venv", str(folder)], [*pip, *links, "--requirement", requirements]]


def _uv() -> str | None:
    """Return where uv is: on the path, or beside this Python."""
    return shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))


def _failed(why: str) -> bool:
    print(why)
    return False
