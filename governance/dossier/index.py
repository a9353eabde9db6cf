"""The list of all releases, newest first: state/releases/index.html."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from firstlight.digest import write_atomic
from governance.dossier.page import PAGE_FILE, environment


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexRow:
    """One release in the list."""

    release: str
    """Also the name of its folder."""
    model: str
    version: str
    environment: str
    verdict: str
    headline: str
    when: str
    """Date and time (UTC)."""
    live: bool
    """Whether it is the champion now."""

    @property
    def href(self) -> str:
        """Relative address of its page."""
        return f"{quote(self.release, safe='')}/{PAGE_FILE}"


def render_index(folder: Path, rows: Sequence[IndexRow]) -> Path:
    """Write index.html over ``rows`` (in the order given) into ``folder`` and return its path."""
    html = environment().get_template("index.html.j2").render(rows=rows)
    return write_atomic(folder / "index.html", html.encode())
