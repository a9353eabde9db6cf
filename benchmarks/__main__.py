"""``python -m benchmarks``: run every script of this folder in turn; exit code 1 when one of them fails."""

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """Run the scripts one after the other, never two at once: they would measure each other."""
    failed = []
    for script in sorted(path for path in HERE.glob("*.py") if not path.name.startswith("_")):
        print(f"== {script.stem}", flush=True)
        started = time.monotonic()
        if subprocess.run([sys.executable, str(script)], cwd=HERE.parent, check=False).returncode:
            failed.append(script.stem)
        print(f"== {script.stem}: {'FAILED' if script.stem in failed else 'done'} in {time.monotonic() - started:.0f} s", flush=True)
    print(f"{len(failed)} failed: {', '.join(failed)}" if failed else f"figures are in {HERE / 'results'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
