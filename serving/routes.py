"""Who answers the next request. Pure: the routes as a value, and a choice that hits its weight within one request.

A random choice at 5 % gives 40 requests anything from none to six canary answers; an error-diffusing counter gives exactly two.
"""

from collections.abc import Collection
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Target(BaseModel):
    """One model server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = Field(min_length=1, max_length=100)
    url: str = Field(max_length=300)

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url must start with http:// or https://, got {url!r}")
        return url.rstrip("/")


class Routes(BaseModel):
    """Where requests go; the body of PUT /routes. Nobody at all is allowed: then every request is answered 503."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generation: int = Field(default=0, ge=0)
    stable: Target | None = None
    canary: Target | None = None
    canary_weight: int = Field(default=0, ge=0, le=100)

    @model_validator(mode="after")
    def _consistent(self) -> "Routes":
        if self.canary_weight and self.canary is None:
            raise ValueError(f"canary_weight must be 0 without a canary, got {self.canary_weight}")
        if self.stable and self.canary and self.stable.version == self.canary.version:
            raise ValueError(f"stable and canary must be two versions, got {self.stable.version!r} twice")
        return self

    @property
    def targets(self) -> tuple[Target, ...]:
        """Both targets, those that exist, stable first."""
        return tuple(target for target in (self.stable, self.canary) if target is not None)

    def target(self, version: str) -> Target | None:
        """Return the target of ``version``, or None."""
        return next((target for target in self.targets if target.version == version), None)


@dataclass(slots=True)
class Chooser:
    """Spreads requests by weight: after n choices at w percent the canary got n·w/100 of them, give or take one half."""

    credit: int = 50

    def choose(self, routes: Routes, *, avoid: Collection[str] = ()) -> Target | None:
        """Return who answers the next request, or None when nobody can. URLs in ``avoid`` have failed it and come last."""
        if avoid:
            return _another(routes, avoid=avoid)
        if routes.stable is None or routes.canary is None:
            return routes.stable or (routes.canary if routes.canary_weight else None)
        self.credit += routes.canary_weight
        if self.credit < 100:
            return routes.stable
        self.credit -= 100
        return routes.canary


def _another(routes: Routes, *, avoid: Collection[str]) -> Target | None:
    # A canary of weight 0 gets nothing, not even what stable failed on: capacity comes before traffic.
    able = [target for target in routes.targets if target is routes.stable or routes.canary_weight]
    fresh = [target for target in able if target.url not in avoid]
    return next(iter(fresh or able), None)
