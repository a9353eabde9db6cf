"""The peers' environments: a virtual environment each, made by pip (or uv), never this project's own."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.subject import CACHE, HERE

PEERS = tuple(sorted(path.parent.name for path in (HERE / "peers").glob("*/requirements.txt")))


def install(names: Sequence[str], *, uv: bool = False, find_links: Path | None = None) -> int:
    """Make the environments of ``names`` (empty: all) anew; return how many failed. pip's own settings hold, also for where torch comes from."""
    failed = 0
    for name in names or PEERS:
        if name not in PEERS:
            print(f"a peer must be one of {', '.join(PEERS)}, got {name!r}")
            failed += 1
            continue
        folder = CACHE / name
        shutil.rmtree(folder, ignore_errors=True)
        requirements = HERE / "peers" / name / "requirements.txt"
        print(f"{name}: installing into {folder} ...", flush=True)
        links = ["--find-links", str(find_links)] if find_links else []
        if uv:
            python = ["--python", str(folder / "bin" / "python")]
            commands = [["uv", "venv", "--quiet", "--python", sys.executable, str(folder)]]
            commands += [["uv", "pip", "install", "--quiet", *python, *links, "--requirement", str(requirements)]]
        else:
            commands = [[sys.executable, "-m", "venv", str(folder)]]
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
            commands += [[*pip, *links, "--requirement", str(requirements)]]
        if any(subprocess.run(command, check=False).returncode for command in commands):
            print(f"{name}: could not be installed; it will be skipped")
            failed += 1
        else:
            (folder / "installed").touch()
    return failed
