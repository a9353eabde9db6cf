"""``python -m benchmarks [NAME …]``: run the benchmarks of this folder in turn, all or those named; exit code 1 when one of them fails."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = ("serving",)
"""Benchmarks that are folders. soak is not among them: it takes as long as it is told to."""


def main(names: Sequence[str]) -> int:
    """Run one after the other, never two at once: they would measure each other."""
    known = [*sorted(path.stem for path in HERE.glob("*.py") if not path.name.startswith("_")), *PACKAGES]
    wanted = [name.replace("-", "_") for name in names] or known
    if strange := sorted(set(wanted) - set(known)):
        print(f"a benchmark must be one of {', '.join(known)}, got {', '.join(strange)}")
        return 2
    failed = []
    for name in wanted:
        print(f"== {name}", flush=True)
        started = time.monotonic()
        # as a module: a script's own folder would come first on the path, and benchmarks/serving is not the serving room
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=HERE.parent, check=False).returncode:
            failed.append(name)
        print(f"== {name}: {'FAILED' if name in failed else 'done'} in {time.monotonic() - started:.0f} s", flush=True)
    print(f"{len(failed)} failed: {', '.join(failed)}" if failed else f"figures are in {HERE / 'results'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
