"""A wall clock that a test can set: the machine's, and so many seconds beside it, as a file says. The steady clock stays what it is."""

import os
import time
from pathlib import Path

from rollout.clock import Clock

FILE = "FIRSTLIGHT_CHAOS_CLOCK"


def clock() -> Clock:
    """Return the clocks of this process. What it was started with names the file; without one they are the machine's."""
    path = os.environ.get(FILE)
    return Clock() if path is None else Clock(wall=lambda: time.time() + offset(Path(path)))


def offset(path: Path) -> float:
    """Return by how many seconds the wall clock is off."""
    try:
        return float(path.read_text() or 0)
    except (FileNotFoundError, ValueError):
        return 0.0


def put(path: Path, seconds: float) -> None:
    """Set the clock; no process ever reads half a number."""
    fresh = path.with_suffix(".new")
    fresh.write_text(str(seconds))
    fresh.replace(path)
