"""Who answers the next request. Pure: the routes as a value, and a choice that hits its weight within one request.

A random choice at 5 % gives 40 requests anything from none to six canary answers; an error-diffusing counter gives exactly two. A caller who
must stay on one side (A/B) is placed by a hash instead: its share is right over many callers, and when the weight grows nobody changes back.
"""

import hashlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

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
    """A version that gets copies of live requests; its answers are counted and thrown away."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    target: Target
    percent: int = Field(ge=0, le=100)
    """Share of inference requests that are copied."""


class Routes(BaseModel):
    """Where requests go; the body of PUT /routes. Nobody at all is allowed: then every request is answered 503."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    generation: int = Field(default=0, ge=0)
    stable: Target | None = None
    canary: Target | None = None
    canary_weight: int = Field(default=0, ge=0, le=100)
    others: tuple[Target, ...] = Field(default=(), max_length=20)
    """Versions that get no share, and answer whoever names them in the path."""
    sticky: str | None = Field(default=None, pattern=r"^(client|header:[a-z0-9-]{1,60})$")
    """Keep a caller on one side while weights allow it: by ``client``, or by the value of a header (``header:x-user-id``)."""
    shadow: Shadow | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Routes":
        if self.canary_weight and self.canary is None:
            raise ValueError(f"canary_weight must be 0 without a canary, got {self.canary_weight}")
        if self.stable and self.canary and self.stable.version == self.canary.version:
            raise ValueError(f"stable and canary must be two versions, got {self.stable.version!r} twice")
        versions = [target.version for target in self.everybody]
        if len(set(versions)) < len(versions):
            raise ValueError(f"every version must be named once, got {', '.join(versions)}")
        return self

    @property
    def targets(self) -> tuple[Target, ...]:
        """Both targets, those that exist, stable first."""
        return tuple(target for target in (self.stable, self.canary) if target is not None)

    @property
    def everybody(self) -> tuple[Target, ...]:
        """Every version that can be asked for by name."""
        return (*self.targets, *self.others)

    def urls(self) -> frozenset[str]:
        """Return every model server named here, a shadow's too."""
        shadow = self.shadow.target.urls if self.shadow else ()
        return frozenset((*(url for target in self.everybody for url in target.urls), *shadow))

    def target(self, version: str) -> Target | None:
        """Return the target of ``version``, or None."""
        return next((target for target in self.everybody if target.version == version), None)


@dataclass(slots=True)
class Chooser:
    """Spreads requests by weight: after n choices at w percent the canary got n·w/100 of them, give or take one half."""

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
            return routes.canary if place(key, routes.canary.version) < routes.canary_weight else routes.stable
        self.credit += routes.canary_weight
        if self.credit < 100:
            return routes.stable
        self.credit -= 100
        return routes.canary


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


def _another(routes: Routes, *, avoid: AbstractSet[str]) -> Target | None:
    # A canary of weight 0 gets nothing, not even what stable failed on: capacity comes before traffic.
    able = [target for target in routes.targets if target is routes.stable or routes.canary_weight]
    fresh = [target for target in able if not set(target.urls) <= avoid]
    return next(iter(fresh or able), None)
