"""Who answers the next request. Pure: the routes as a value, and a choice that hits its weight within one request.

A random choice at 5 % gives 40 requests anything from none to six canary answers; an error-diffusing counter gives exactly two. A caller who
must stay on one side (A/B) is placed by a hash instead: its share is right over many callers, and when the weight grows nobody changes back.
"""

import hashlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

REPLAY = "canary-replay"
"""Client name of a release's replay: many callers' requests in one, so it is never placed as one caller."""


class Target(BaseModel):
    """One version: its model servers."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    version: str = Field(min_length=1, max_length=100)
    url: str = Field(max_length=300)
    replicas: tuple[str, ...] = Field(default=(), max_length=100)
    """Further model servers of the same version."""

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url must start with http:// or https://, got {url!r}")
        return url.rstrip("/")

    @field_validator("replicas")
    @classmethod
    def _all_http(cls, replicas: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cls._http(url) for url in replicas)

    @property
    def urls(self) -> tuple[str, ...]:
        """Every model server, each once."""
        return tuple(dict.fromkeys((self.url, *self.replicas))) if self.replicas else (self.url,)


class Shadow(BaseModel):
    """A version that gets copies of live requests; its answers are compared and thrown away."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    target: Target
    percent: int = Field(ge=0, le=100)
    """Share of inference requests that are copied."""
    control: Target | None = None
    """Who gets the copy of a request that the target's own version answered: so there are pairs at every weight, 100 % too."""

    def copied_to(self, live: str) -> Target | None:
        """Return who gets the copy of a request that version ``live`` answered; None: nobody."""
        return self.target if live != self.target.version else self.control


class Routes(BaseModel):
    """Where requests go; the body of PUT /routes. Nobody at all is allowed: then every request is answered 503."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    generation: int = Field(default=0, ge=0)
    stable: Target | None = None
    canary: Target | None = None
    canary_weight: int = Field(default=0, ge=0, le=100)
    canary_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds of elapsed time after which, without another PUT, canary and baseline get nothing more; None: until told otherwise."""
    baseline: Target | None = None
    """A second, fresh server of stable's version: the canary is compared with it. It gets :attr:`baseline_weight` of the requests."""
    others: tuple[Target, ...] = Field(default=(), max_length=20)
    """Versions that get no share, and answer whoever names them in the path."""
    sticky: str | None = Field(default=None, pattern=r"^(client|header:[a-z0-9-]{1,60})$")
    """Keep a caller on one side while weights allow it: by ``client``, or by the value of a header (``header:x-user-id``)."""
    shadow: Shadow | None = None
    drill: Shadow | None = None
    """A server whose start is rehearsed: it gets copies too, compared with nothing."""

    @model_validator(mode="after")
    def _consistent(self) -> "Routes":
        if self.canary_weight and self.canary is None:
            raise ValueError(f"canary_weight must be 0 without a canary, got {self.canary_weight}")
        if self.stable and self.canary and self.stable.version == self.canary.version:
            raise ValueError(f"stable and canary must be two versions, got {self.stable.version!r} twice")
        versions = [target.version for target in self.everybody]
        if len(set(versions)) < len(versions):
            raise ValueError(f"every version must be named once, got {', '.join(versions)}")
        if self.baseline is not None:
            self._check_baseline(self.baseline)
        return self

    def _check_baseline(self, baseline: Target) -> None:
        if self.stable is None or self.canary is None or baseline.version != self.stable.version:
            raise ValueError(f"a baseline must be of stable's version and stand beside a canary, got version {baseline.version!r}")
        if shared := {*baseline.urls} & {*self.stable.urls}:
            raise ValueError(f"the baseline must have servers of its own, it shares {', '.join(sorted(shared))} with stable")

    @property
    def targets(self) -> tuple[Target, ...]:
        """Both targets, those that exist, stable first."""
        return tuple(target for target in (self.stable, self.canary) if target is not None)

    @property
    def everybody(self) -> tuple[Target, ...]:
        """Every version that can be asked for by name."""
        return (*self.targets, *self.others)

    @property
    def baseline_weight(self) -> int:
        """Percent of requests the baseline answers: the canary's share while there is as much, else what the canary leaves."""
        return min(self.canary_weight, 100 - self.canary_weight) if self.baseline is not None else 0

    def track(self, target: Target) -> str:
        """Return as what ``target`` answers: stable, canary, baseline, or other."""
        for name, known in (("stable", self.stable), ("canary", self.canary), ("baseline", self.baseline)):
            if target is known:
                return name
        if target == self.baseline:
            return "baseline"
        if self.stable is not None and target.version == self.stable.version:
            return "stable"
        return "canary" if self.canary is not None and target.version == self.canary.version else "other"

    def lapsed(self) -> Self:
        """Return what is left when nobody has renewed the canary's share in time: stable alone."""
        return self.model_copy(update={"canary_weight": 0, "canary_seconds": None, "baseline": None, "shadow": None})

    def says(self, other: "Routes") -> bool:
        """Return whether ``other`` sends every request the same way; for how long does not count."""
        return self.model_copy(update={"canary_seconds": None}) == other.model_copy(update={"canary_seconds": None})

    def urls(self) -> frozenset[str]:
        """Return every model server that is asked for answers, a shadow's too; a drill's is nobody's to rely on."""
        targets = [*self.everybody, *([self.baseline] if self.baseline else []), *([self.shadow.target] if self.shadow else [])]
        return frozenset(url for target in targets for url in target.urls)

    def target(self, version: str) -> Target | None:
        """Return the target of ``version``, or None."""
        return next((target for target in self.everybody if target.version == version), None)


@dataclass(slots=True)
class Chooser:
    """Spreads requests by weight: after n choices at w percent the canary got n·w/100 of them, give or take one half.

    A baseline of the same share answers half a period later, when the same counter passes 50: so it is within one, and so is stable, because
    floor(x) + floor(x + 1/2) = floor(2x) (Hermite's identity). Above 50 % nothing is left for stable: the baseline has what the canary leaves.
    """

    credit: int = 50

    def choose(self, routes: Routes, *, avoid: AbstractSet[str] = frozenset(), key: str = "") -> Target | None:
        """Return who answers the next request, or None when nobody can. URLs in ``avoid`` have failed it and come last.

        A request with a ``key`` (:func:`sticky_key`) goes where its key belongs and leaves the counter alone.
        """
        if avoid:
            return _another(routes, avoid=avoid)
        if routes.stable is None or routes.canary is None:
            return routes.stable or (routes.canary if routes.canary_weight else None)
        if key:
            return _placed(routes, place(key, routes.canary.version))
        before, weight = self.credit, routes.canary_weight
        self.credit += weight
        if self.credit >= 100:
            self.credit -= 100
            return routes.canary
        if routes.baseline is not None and (2 * weight > 100 or before < 50 <= self.credit):
            return routes.baseline
        return routes.stable


def sticky_key(routes: Routes, headers: Mapping[str, str], *, client: str) -> str:
    """Return by what a request is kept on its side; empty when it is spread like any other."""
    if routes.sticky is None or client == REPLAY:
        return ""
    return client if routes.sticky == "client" else headers.get(routes.sticky.removeprefix("header:"), "")


def place(key: str, canary: str) -> float:
    """Return where a caller stands among all of them, 0 to 100; the canary has those below its weight. Each canary draws anew.

    >>> 0 <= place("alice", "7") < 100
    True
    """
    drawn = hashlib.blake2b(f"{canary}\0{key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(drawn) * 100 / 2**64


def _placed(routes: Routes, at: float) -> Target | None:
    """Return who has the callers that stand at ``at`` (0 to 100): the canary those below its weight, the baseline as many from the top."""
    if at < routes.canary_weight:
        return routes.canary
    return routes.baseline if at >= 100 - routes.baseline_weight and routes.baseline is not None else routes.stable


def _another(routes: Routes, *, avoid: AbstractSet[str]) -> Target | None:
    # A canary of weight 0 gets nothing, not even what stable failed on: capacity comes before traffic. The same version comes first.
    shares = ((routes.stable, 1), (routes.baseline, routes.canary_weight), (routes.canary, routes.canary_weight))
    able = [target for target, share in shares if target is not None and share]
    fresh = [target for target in able if not set(target.urls) <= avoid]
    return next(iter(fresh or able), None)
