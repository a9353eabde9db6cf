"""What the store remembers for good: releases, champions, the ledger, rollouts, rehearsals, experiments and incidents."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from rollout.spec import RolloutStatus


class ReleaseStatus(StrEnum):
    """How a release stands. All but OPEN are ends."""

    OPEN = "open"
    """Running, waiting for a person, or waiting to be continued after its process died."""
    PROMOTED = "promoted"
    """Its version became champion."""
    FAILED = "failed"
    """A gate was shown not to hold."""
    CANNOT_TELL = "cannot-tell"
    """A gate had too little evidence."""
    ERROR = "error"
    """Something broke that says nothing about the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """One attempt to bring one hand-off to champion in one environment."""

    id: str
    """``<model>-<first 12 digits of the model digest>``, with ``-<attempt>`` from the second attempt on; unique in the store."""
    environment: str
    model: str
    attempt: int
    status: ReleaseStatus
    handoff_digest: str
    model_digest: str
    policy_digest: str
    opened_by: str
    opened_at: float
    closed_at: float | None = None
    summary: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion:
    """One line of the champion history; the line with the highest sequence is the champion."""

    environment: str
    model: str
    sequence: int
    """1, 2, 3 … without gaps within (environment, model)."""
    version: str
    digest: str
    """sha256 of model.pt2."""
    previous: str | None
    """The version a rollback from here goes to."""
    action: str
    """``promote`` or ``rollback``."""
    release_id: str | None
    """The release that promoted it; None for a rollback."""
    reason: str
    by: str
    at: float
    """Unix seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One entry of the ledger as one who asks about a model wants it."""

    number: int
    """Its sequence in the ledger, which tells of all models: not without gaps."""
    environment: str
    model: str
    what: str
    """``traffic``, ``promote``, ``rollback``, ``open-release``, ``close-release``, ``policy-changed``, …"""
    digest: str
    """What it was about: a model digest, or sha256 of the traffic's canonical JSON."""
    detail: str
    """One sentence."""
    by: str
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerEntry:
    """One entry of the ledger; see ``firstlight.chain``."""

    sequence: int
    """1, 2, 3 … without gaps."""
    at: float
    """Unix seconds by the writer's clock."""
    environment: str
    """Empty for what is about every environment."""
    model: str
    """Empty for what is about no model."""
    what: str
    digest: str
    """What it was about."""
    detail: str
    by: str
    adopted: bool
    """It was made before there was a ledger, and nobody sealed it then."""
    key_id: str | None
    """Whose seal it has; None: it has none."""
    previous: str
    """``entry_digest`` of the entry before, 64 zeros for the first."""
    entry_digest: str
    seal: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as ``firstlight.chain`` reads them."""
        return asdict(self)


class Severity(StrEnum):
    """How bad an incident is."""

    WARNING = "warning"
    CRITICAL = "critical"


class IncidentState(StrEnum):
    """How an incident stands."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    """Somebody looks at it."""
    RESOLVED = "resolved"


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """Something that a person must look at; one for each (environment, model, cause) until it is resolved."""

    id: str
    """``INC-YYYY-NNN``, unique in the store."""
    environment: str
    model: str
    cause: str
    """What it is about, in a form that is the same again: ``waiver-ended:<id>``, ``break-glass:<release>``, …"""
    severity: Severity
    state: IncidentState
    summary: str
    """One sentence."""
    evidence_digest: str
    owner: str
    release_id: str | None
    opened_by: str
    opened_at: float
    """Unix seconds."""
    acknowledged_by: str | None = None
    acknowledged_at: float | None = None
    resolved_by: str | None = None
    resolved_at: float | None = None
    resolved_because: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is not resolved yet."""
        return self.state is not IncidentState.RESOLVED


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutRecord:
    """The rollout of one model in one environment, running or the last one: enough for another process to go on with it."""

    environment: str
    model: str
    release_id: str
    token: int
    """The fencing token of its holder; a holder whose token is not the newest can do nothing."""
    holder: str
    """Who drives it: a sentence for a person."""
    spec: Mapping[str, Any]
    """canary, stable and policy, as plain JSON."""
    status: RolloutStatus | None = None
    """As saved last; None before the first time."""
    evidence: Mapping[str, Any] | None = None
    """As saved last, plain JSON."""
    paused: bool = False
    """A person wants no further step."""
    abort: bool = False
    """A person wants it to end; that is not taken back."""
    approved_by: str | None = None
    """Who gave the word that the policy asks for."""
    said: str = ""
    """The last order, by whom and why: one sentence."""
    updated_at: float = 0.0
    """Unix seconds of the last change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drill:
    """One rehearsal of a version's cold start, append-only."""

    environment: str
    model: str
    version: str
    digest: str
    """sha256 of the model.pt2 that was started."""
    verdict: str
    """``pass``, ``fail`` or ``cannot tell``."""
    seconds: float | None
    """From the request until it could take the traffic; None when it never could."""
    answered: int
    """Requests it answered, golden vectors and copies of live ones."""
    failed: int
    """Requests it did not answer, or not as it should."""
    reason: str
    """One sentence."""
    at: float
    """Unix seconds of its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """Two versions side by side until a date, for people to compare; not a rollout, and never one at the same time."""

    environment: str
    model: str
    name: str
    a: str
    """The champion, which answers the rest."""
    b: str
    share: int
    """Percent of requests that ``b`` answers, 1..99."""
    sticky: str | None
    """What keeps one caller on one version; None leaves the gateway's own option."""
    until: float
    """Unix seconds of its end; nobody has to be there to end it."""
    begun_by: str
    begun_at: float
    ended_at: float | None = None
    """When that was written down; an experiment whose ``until`` has passed is over all the same."""
    ended_by: str | None = None
    ended_because: str | None = None

    def is_running(self, now: float) -> bool:
        """Return whether it uses the traffic at ``now``, unix seconds."""
        return self.ended_at is None and now < self.until
