"""Risk scenarios as data: one YAML file each, so that adding one needs no code.

A scenario says what can happen, how bad (impact 1-5) and how often (expectancy 1-5) it would be with no controls at all, and
lists for each of four dimensions of control maturity up to two rules over the evidence of a release. A rule that holds is one point.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from governance.documents import parse_yaml, read_bounded
from governance.errors import ScenarioError

SHIPPED = Path(__file__).parent / "scenarios"
"""The folder of scenarios that come with firstlight."""

MISSING = object()
"""What :func:`look_up` answers where there is nothing; None in a document counts as nothing too."""

DIMENSIONS = ("implementation", "operation", "reliability", "verification")


def look_up(evidence: Mapping[str, Any], path: str) -> Any:
    """Return the value at the dotted ``path`` (document first, then its keys), or MISSING.

    ``*`` stands for every entry of a list and answers the list of what was found there; MISSING where one entry has nothing, or there is none.
    """
    return _climb(evidence, path.split("."))


def _climb(value: Any, parts: Sequence[str]) -> Any:
    for place, part in enumerate(parts):
        if part == "*":
            found = [_climb(entry, parts[place + 1 :]) for entry in value] if isinstance(value, list | tuple) else []
            return MISSING if not found or any(entry is MISSING for entry in found) else found
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return MISSING if value is None else value


def in_words(value: Any) -> str:
    """Return what a rule found (or MISSING) as a reader sees it, in at most 80 characters."""
    if value is MISSING:
        return "missing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        text = ", ".join(sorted(map(str, value))[:20]) or "nothing"
    elif isinstance(value, list | tuple):
        text = _listed(value)
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _listed(values: Sequence[Any]) -> str:
    if not values:
        return "nothing"
    if not all(isinstance(entry, str | int | float) for entry in values):
        return f"{len(values)} in a list"
    if len(values) > 1 and len(set(values)) == 1:
        return f"{in_words(values[0])} ({len(values)} times)"
    return ", ".join(in_words(entry) for entry in values[:20])


class Rule(BaseModel):
    """One written test of the evidence; exactly one of ``is``, ``at_least``, ``at_most``, ``each_of``, ``present`` is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    evidence: str = Field(pattern=r"^[a-z][a-z0-9_]*(\.([A-Za-z0-9_-]+|\*))+$")
    """Dotted path: document, then keys, e.g. ``bias.verdict``; ``*`` is every entry of a list, e.g. ``hand_off.model.inputs.*.dtype``."""
    equals: str | bool | int | None = Field(default=None, alias="is")
    """The value must be this and of this type."""
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    """The value must be a finite number not below this."""
    at_most: float | None = Field(default=None, allow_inf_nan=False)
    """The value must be a finite number not above this."""
    each_of: tuple[str, ...] | None = Field(default=None, min_length=1)
    """The value must be a list that is not empty, and each entry one of these."""
    present: Literal[True] | None = None
    """The value must be there and not empty, ``none`` or ``unknown``."""
    because: str = Field(min_length=10)
    """What the rule shows about the control, for the reader of the dossier."""

    @model_validator(mode="after")
    def _one_test(self) -> "Rule":
        given = [value for value in (self.equals, self.at_least, self.at_most, self.each_of, self.present) if value is not None]
        if len(given) != 1:
            raise ValueError(
                f"rule on {self.evidence!r} must give exactly one of is, at_least, at_most, each_of, present; found {len(given)}"
            )
        return self

    @property
    def text(self) -> str:
        """The rule as a reader sees it, e.g. ``golden.rows at least 8``."""
        if self.present:
            return f"{self.evidence} present"
        if self.at_least is not None:
            return f"{self.evidence} at least {self.at_least:g}"
        if self.at_most is not None:
            return f"{self.evidence} at most {self.at_most:g}"
        if self.each_of is not None:
            return f"{self.evidence} each one of {', '.join(self.each_of)}"
        shown = {True: "yes", False: "no"}.get(self.equals, self.equals) if isinstance(self.equals, bool) else self.equals
        return f"{self.evidence} is {shown}"

    def holds(self, value: Any) -> bool:
        """Say whether ``value`` (or MISSING) satisfies the rule; the wrong type never does."""
        if value is MISSING:
            return False
        if self.present:
            return _is_something(value)
        if self.each_of is not None:
            return (
                isinstance(value, list | tuple) and bool(value) and all(isinstance(entry, str) and entry in self.each_of for entry in value)
            )
        if self.equals is not None:
            return (
                isinstance(value, type(self.equals)) and isinstance(value, bool) == isinstance(self.equals, bool) and value == self.equals
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return value >= self.at_least if self.at_least is not None else value <= self.at_most  # type: ignore[operator]


def _is_something(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and not any(entry in ("", "none", "unknown") for entry in value if isinstance(entry, str))
    return value not in ("", "none", "unknown", {}, False) and not (isinstance(value, float) and math.isnan(value))


_Rules = tuple[Rule, ...]


class MaturityRules(BaseModel):
    """The rules of the four dimensions; two points at most in each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    implementation: _Rules = Field(default=(), max_length=2)
    """The control exists in this release."""
    operation: _Rules = Field(default=(), max_length=2)
    """It ran on this release."""
    reliability: _Rules = Field(default=(), max_length=2)
    """It keeps working when something breaks."""
    verification: _Rules = Field(default=(), max_length=2)
    """Something independent showed that it works."""


class Scenario(BaseModel):
    """One risk scenario file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["firstlight/risk-scenario/v1"]
    id: str = Field(pattern=r"^[A-Z]{1,3}[0-9]{2}$")
    """R01 to R12 are the lab's numbers; our own start with F."""
    title: str = Field(min_length=5, max_length=80)
    origin: str = Field(min_length=3)
    """Where the scenario comes from."""
    what_can_happen: str = Field(min_length=20)
    """The story in two or three sentences."""
    impact: int = Field(ge=1, le=5)
    """How bad it would be, with no controls."""
    expectancy: int = Field(ge=1, le=5)
    """How likely it would be, with no controls."""
    why_these_numbers: str = Field(min_length=20)
    """The reason for impact and expectancy, for whoever wants to change them."""
    nist: tuple[str, ...] = ()
    """Subcategories of NIST AI RMF 1.0 this scenario speaks to, e.g. ``MEASURE 2.11``."""
    requires: tuple[str, ...] = Field(min_length=1)
    """Evidence documents without which the residual of this scenario cannot be told."""
    not_applicable_when: tuple[Rule, ...] | None = Field(default=None, min_length=1)
    """Rules that all hold only for a release that this scenario cannot happen to; without their evidence the scenario applies."""
    maturity: MaturityRules
    """The written rules that turn evidence into control maturity."""
    watched_after: str = Field(min_length=10)
    """What watches this risk once the model is live."""


def load_scenarios(folder: Path | str = SHIPPED) -> tuple[Scenario, ...]:
    """Return the scenarios in ``folder`` (``*.yaml``), by id. Raises ScenarioError naming the file on a bad one, a double id, or none."""
    found = [_load(path) for path in sorted(Path(folder).glob("*.yaml"))]
    if not found:
        raise ScenarioError(
            f"{folder} must hold at least one scenario (*.yaml), found none: a release without risk scenarios is not assessed"
        )
    by_id: dict[str, Scenario] = {}
    for path, scenario in found:
        if scenario.id in by_id:
            raise ScenarioError(f"{path} must have an id of its own, found {scenario.id!r} in two files: give the new one the next free id")
        by_id[scenario.id] = scenario
    return tuple(by_id[key] for key in sorted(by_id))


def _load(path: Path) -> tuple[Path, Scenario]:
    data = parse_yaml(read_bounded(path, ScenarioError), str(path), ScenarioError)
    try:
        return path, Scenario.model_validate(data)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ScenarioError(f"{path}: {where} must follow the scenario schema, found: {first['msg']}") from problem
