"""What is kept of a request for whoever is asked next, and one attempt to have it answered. ``forwarding`` makes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.flow import Budget
from serving.replicas import Replica
from serving.routes import Target
from serving.upstream import Link


@dataclass(slots=True)
class Kept:
    """What was sent of a request's body, for whoever is asked next. Counted against the memory of all."""

    budget: Budget
    limit: int
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    is_whole: bool = True
    """Whether nothing of what was sent is missing here."""

    def add(self, piece: bytes) -> bool:
        """Keep ``piece`` when there is room, and return whether it is kept; what did not fit ends the keeping."""
        self.is_whole = self.is_whole and self.size + len(piece) <= self.limit and self.budget.take(len(piece))
        if self.is_whole:
            self.pieces.append(piece)
            self.size += len(piece)
        return self.is_whole

    def drop(self) -> None:
        """Give the memory back."""
        self.budget.give(self.size)
        self.pieces, self.size = [], 0


@dataclass(slots=True)
class Tried:
    """One attempt and how it ended."""

    target: Target
    replica: Replica
    track: str = "other"
    """As what it was asked: stable, canary, baseline or other."""
    status: int = 0
    """0: there was no answer."""
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    rest: Link | None = None
    """Where the rest of a long answer comes from."""
    is_gone: bool = False
    """The answer was let go of: nobody can have it any more."""
    length: int | None = None
    seconds: float = 0.0
    why: str = ""

    @property
    def failed(self) -> bool:
        """No answer, or one of 500 and above: the version's fault."""
        return self.status == 0 or self.status >= 500
