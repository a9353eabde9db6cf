"""What a caller may do: one table of roles, scopes of models, and a pure decision. Nothing here looks at a clock, a file or a header."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

MODEL_PATTERN = r"^(?:[a-z*][a-z0-9*-]{0,60})$"
"""A model's name, or a pattern in which ``*`` stands for any run of characters."""
EVERYTHING = "*"


class Action(StrEnum):
    """What somebody asks the gateway for."""

    INFER = "infer"
    METADATA = "metadata"
    """Which models and versions there are, what they take and give, whether they are ready."""
    METRICS = "metrics"
    ROUTES_READ = "routes-read"
    ROUTES_WRITE = "routes-write"


class Role(StrEnum):
    """What somebody is here."""

    READER = "reader"
    """Uses models."""
    OPERATOR = "operator"
    """Keeps them running: sees metrics and routes, and may ask a model whether it answers."""
    APPROVER = "approver"
    """Answers for them: sees what runs, uses nothing. Approval itself is an SSH signature, never a call to the gateway."""
    ADMIN = "admin"
    """May send traffic anywhere: past every sign-off, so nobody should have it in daily work."""


ALLOWED: Mapping[Role, frozenset[Action]] = {
    Role.READER: frozenset({Action.INFER, Action.METADATA}),
    Role.OPERATOR: frozenset({Action.INFER, Action.METADATA, Action.METRICS, Action.ROUTES_READ}),
    Role.APPROVER: frozenset({Action.METADATA, Action.METRICS, Action.ROUTES_READ}),
    Role.ADMIN: frozenset(Action),
}
"""The one table of what a role may do."""

_SHARED = frozenset({Action.METADATA, Action.METRICS})
"""Actions that are answered without naming a model; the answer shows only models that the caller may see."""


class Decision(StrEnum):
    """Whether a caller may."""

    ALLOWED = "allowed"
    FORBIDDEN = "forbidden"
    """403: the caller may not do this."""
    HIDDEN = "hidden"
    """404: the model is outside of the caller's scope and must not even be admitted to exist."""


@dataclass(frozen=True)
class Grant:
    """Roles over models."""

    roles: frozenset[Role]
    models: tuple[str, ...]
    """Names and patterns (:data:`MODEL_PATTERN`)."""

    def may(self, action: Action) -> bool:
        """Return whether one of the roles includes ``action``."""
        return any(action in ALLOWED[role] for role in self.roles)

    def covers(self, model: str) -> bool:
        """Return whether ``model`` is in the scope."""
        return self._scope.fullmatch(model) is not None

    @property
    def covers_everything(self) -> bool:
        """Whether every model there is or will be is in the scope."""
        return EVERYTHING in self.models

    @cached_property
    def _scope(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(pattern).replace(r"\*", ".*") for pattern in self.models), re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much one caller may ask for; None is without limit."""

    requests_per_second: float | None = None
    rows_per_second: float | None = None
    megabytes_per_second: float | None = None
    body_bytes: int | None = None
    """Largest request body."""
    rows: int | None = None
    """Largest number of rows in one request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks, as the access file or an issuer vouches for it."""

    name: str
    """Goes to the inference log and the access log; printable, no spaces."""
    grants: tuple[Grant, ...]
    limits: Limits = field(default_factory=Limits)
    proof: str = ""
    """By what it was recognised, never a secret: ``key <id>``, ``token of <issuer>``, ``certificate``, or nothing without access control."""

    @property
    def roles(self) -> frozenset[Role]:
        """Every role the caller has over some model."""
        return frozenset(role for grant in self.grants for role in grant.roles)

    def may_see(self, model: str) -> bool:
        """Return whether the caller may know that ``model`` exists."""
        return any(grant.covers(model) for grant in self.grants)


ANYBODY = Caller(name="", grants=(Grant(frozenset(Role), (EVERYTHING,)),))
"""Every caller of a gateway without access control, which listens on loopback only."""


def decide(grants: tuple[Grant, ...], action: Action, model: str | None) -> Decision:
    """Return whether somebody with ``grants`` may do ``action`` to ``model`` (None: to the gateway as a whole).

    The role is judged before the scope: 403 says nothing about which models exist. An action on the gateway as a whole needs a grant over
    every model, but for those whose answer shows each caller its own models only.
    """
    able = [grant for grant in grants if grant.may(action)]
    if not able:
        return Decision.FORBIDDEN
    if model is None:
        whole = action in _SHARED or any(grant.covers_everything for grant in able)
        return Decision.ALLOWED if whole else Decision.FORBIDDEN
    if any(grant.covers(model) for grant in able):
        return Decision.ALLOWED
    return Decision.FORBIDDEN if any(grant.covers(model) for grant in grants) else Decision.HIDDEN
