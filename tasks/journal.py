"""The journal: one line of JSON for everything a person may want to see while a run works. Appended by steps, read by the command line.

It is for watching, not for deciding: losing it changes nothing. Lines are appended with one write below the pipe-buffer size, so
lines of two processes do not mix (POSIX write with O_APPEND).
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.settings import Settings

_MAX_TEXT = 1500


def path(settings: Settings) -> Path:
    """Return the journal's file."""
    return settings.folder("logs") / "journal.jsonl"


def note(settings: Settings, *, about: str, stage: str, event: str, **facts: Any) -> None:
    """Append one line: ``event`` is started, progress, finished, waiting or failed; ``about`` the release or run."""
    line = {"at": round(time.time(), 3), "about": about, "stage": stage, "event": event, **facts}
    text = json.dumps({key: value[:_MAX_TEXT] if isinstance(value, str) else value for key, value in line.items()}) + "\n"
    handle = os.open(path(settings), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


@dataclass
class Reader:
    """Reads the lines that were appended since the last look."""

    file: Path
    position: int = 0

    @classmethod
    def from_now(cls, settings: Settings) -> "Reader":
        """Return a reader of what will be appended from now on."""
        file = path(settings)
        return cls(file, file.stat().st_size if file.exists() else 0)

    def new(self) -> Iterator[dict[str, Any]]:
        """Yield the complete new lines; a line still being written waits for the next look."""
        if not self.file.exists():
            return
        with open(self.file, "rb") as stream:
            stream.seek(self.position)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self.position += len(line)
                try:
                    yield dict(json.loads(line))
                except ValueError:
                    continue
