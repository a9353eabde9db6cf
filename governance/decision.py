"""What came of the signatures over one release: who counts, who does not, what is still missing. Shapes only; ``governance.signoff`` decides."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from firstlight.verdict import Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """One statement that counts."""

    name: str
    email: str
    role: str
    decision: str
    reason: str
    conditions: tuple[str, ...]
    """What must be kept or done for it to stand."""
    documents: Mapping[str, str]
    """Document it brings -> sha256 of the file."""
    fingerprint: str
    """Of the key that signed."""
    signed_at: str
    expires_at: str
    source: str
    digest: str
    """sha256 of the statement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnedDown:
    """One statement that does not count."""

    who: str
    """The address it claims, else its file."""
    why: str
    source: str
    digest: str
    """sha256 of the statement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokenGlass:
    """Somebody let the release go on before its quorum had signed."""

    name: str
    email: str
    role: str
    reason: str
    fingerprint: str
    signed_at: str
    expires_at: str
    """From then on it lets nothing go on any more."""
    ratify_by: str
    """By then the quorum must have signed."""
    ratified: bool
    """Whether it has."""
    source: str
    digest: str
    """sha256 of the statement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignOffDecision:
    """PASS: enough valid approvals, or a valid break-glass. FAIL: a valid rejection. CANNOT_TELL: still waiting."""

    verdict: Verdict
    summary: str
    reasons: tuple[str, ...]
    accepted: tuple[Accepted, ...]
    """Approvals and rejections that count; a break-glass is never one of them."""
    turned_down: tuple[TurnedDown, ...]
    missing: Mapping[str, int]
    """Role -> how many people are still wanted."""
    decided_at: str
    missing_documents: tuple[str, ...] = ()
    """Documents that nobody who approved has brought yet."""
    conditions: tuple[str, ...] = ()
    """Every condition of an approval that counts, with who set it."""
    break_glass: BrokenGlass | None = None
    decision_id: str | None = None
    change_id: str | None = None

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """(who or which file, why it does not count)."""
        return tuple((item.who, item.why) for item in self.turned_down)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values for the evidence folder."""
        plain = asdict(self)
        turned_down = plain.pop("turned_down")
        return {
            **plain,
            "verdict": str(self.verdict),
            "reasons": list(self.reasons),
            "missing_documents": list(self.missing_documents),
            "conditions": list(self.conditions),
            "accepted": [{**item, "conditions": list(item["conditions"])} for item in plain["accepted"]],
            "refused": list(turned_down),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class MaySign:
    """Somebody whose approval is still wanted."""

    name: str
    email: str
    role: str
