"""Who must sign at which residual risk, and for how long: the ``risk`` section of the policy file of one environment."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from firstlight.digest import sha256_json
from governance.documents import parse_yaml
from governance.errors import PolicyError
from governance.reassessment import ReassessmentPolicy

_PLACEHOLDERS = (
    r"to-?do\b.*|t\.?b\.?[dac]\.?|fix-?me\b.*|n[/.]?a\.?|none|null|nil|unknown|undefined|anonymous.*|nobody|no one|someone|somebody",
    r"x{2,}( x+)*|\.+|-+|_+|\?+|\*+",
    r"(your|my|the|full|first|last|first last|approver'?s?|reviewer'?s?|signer'?s?)? ?names?( here)?|(your|my) .*",
    r".*[\[\]<>{}].*",
    r"admin|administrator|root|user|username|guest|operator|system|service|bot|ci|approver|reviewer|signer|me|self",
    r"(the )?(test|tester|testing|example|sample|dummy|placeholder|foo|bar|baz|foobar|fake)( ?(user|name|person|approver|reviewer|\d+))?",
    r"(john|jane) (doe|smith|q\.? public)|lorem ipsum.*|asdf.*|qwert.*|abc+|human( via .*)?|human_via_.*",
    r".*\b(yyyy|dd-mm|mm-dd)\b.*",
)


class Band(BaseModel):
    """One band of residual risk and what it asks for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    """What people call it."""
    low: int = Field(ge=1, le=25)
    """Lowest residual (impact × expectancy after maturity) in the band."""
    high: int = Field(ge=1, le=25)
    """Highest residual in the band."""
    approvers: dict[str, int] = Field(min_length=1)
    """Role -> how many different people in that role must approve."""
    documents: tuple[str, ...] = ()
    """Papers the lab wants at this band: those of ``made_documents`` the release makes itself, the others must be attached by who approves."""

    @field_validator("approvers")
    @classmethod
    def _at_least_one_each(cls, value: dict[str, int]) -> dict[str, int]:
        if any(count < 1 for count in value.values()):
            raise ValueError("each role must be asked for at least one person")
        return value


_LAB_BANDS = (
    Band(name="Low", low=1, high=4, approvers={"system-owner": 1}, documents=("AI system impact assessment",)),
    Band(name="Medium", low=5, high=9, approvers={"ai-risk-officer": 1}, documents=("AI system impact assessment",)),
    Band(name="Medium-High", low=10, high=15, approvers={"cto": 1}, documents=("AI system impact assessment", "risk acceptance memo")),
    Band(
        name="High",
        low=16,
        high=25,
        approvers={"cto": 1, "board": 4},
        documents=("AI system impact assessment", "board minutes", "risk acceptance document"),
    ),
)


class WaiverRule(BaseModel):
    """Who may accept a risk above its limit, and for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenarios: tuple[str, ...] = Field(min_length=1)
    """Scenario ids; ``*`` is every one."""
    roles: tuple[str, ...] = ()
    """Roles that may sign such a waiver; none means that nobody may."""
    longest_days: int = Field(ge=1, le=366)
    """Days from the signature to the last day of the waiver."""


class BreakGlass(BaseModel):
    """Who may let a release go on before its quorum has signed, and what follows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    roles: tuple[str, ...] = ("cto",)
    """Roles that may; none means that nobody may. The lab lets its CTO decide in an emergency (AI governance policy 01, appendix D)."""
    valid_hours: int = Field(default=24, ge=1, le=168)
    """Hours in which it can be used."""
    ratify_hours: int = Field(default=72, ge=1, le=2160)
    """Hours in which the quorum must have signed after all."""


_WAIVERS = (WaiverRule(scenarios=("*",), roles=("cto",), longest_days=90),)
_UNWRITTEN = (
    r"^\W*(to-?do\b.*|t\.?b\.?[dac]\.?|fix-?me\b.*|n[/.]?a\.?|none|null|nil|unknown|x{2,}|lorem ipsum.*|asdf.*|qwert.*)?\W*$",
    r"\b(yyyy|dd-mm|mm-dd)\b",
    r"\[(your |the |my |insert )?(name|names|date|reason|reasons|control|controls|condition|text|role|signature)s?( here)?\]",
)


class RiskPolicy(BaseModel):
    """The ``risk`` section of deployments/policies/<environment>.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bands: tuple[Band, ...] = _LAB_BANDS
    """Residual bands, lowest first; together they cover 1 to 25 without gap or overlap. Defaults: the lab's (AI risk standard 02, section 3)."""
    seats: dict[str, int] = {"board": 6}
    """Role -> how many people hold it, for the words "4 of 6"; the lab's AI Review Board has six."""
    highest_residual: int = Field(default=25, ge=1, le=25)
    """A release whose overall residual is above this fails without anybody being asked. 25 = people decide, as the lab does."""
    highest_by_scenario: dict[str, int] = {}
    """Scenario id -> the highest residual tolerated for that scenario alone, for risks nobody may accept in this environment."""
    validity_days: int = Field(default=30, ge=1, le=366)
    """Days a sign-off may be used after it was given; a release that waits longer must be looked at again."""
    clock_skew_minutes: int = Field(default=5, ge=0, le=60)
    """How far in the future a sign-off may be dated, for clocks that disagree; minutes."""
    longest_reason: int = Field(default=2000, ge=50, le=20000)
    """Characters; a reason is read by people, not stored for its bulk."""
    placeholder_names: tuple[str, ...] = _PLACEHOLDERS
    """Regular expressions (whole name, case ignored) of names that are nobody: the lab's own papers show "Approved" beside them."""

    placeholder_words: tuple[str, ...] = _UNWRITTEN
    """Regular expressions (found anywhere, case ignored) of reasons, conditions and controls that nobody has written yet."""
    made_documents: tuple[str, ...] = ("AI system impact assessment",)
    """Documents of the bands that every release makes out of its own evidence, so that nobody has to attach them."""
    change_id_required: bool = False
    """Whether a release must name its change (CR-YYYY-NNN) before anybody may sign it."""
    waivers: tuple[WaiverRule, ...] = _WAIVERS
    """Who may waive which scenario for how long; the first rule that names a scenario decides, and one that none names cannot be waived."""
    break_glass: BreakGlass = BreakGlass()
    """Who may let a release go on before its quorum has signed. It is loud, and stays open until the quorum has."""
    reassessment: ReassessmentPolicy = ReassessmentPolicy()
    """How often a release that is live is put before its approvers again."""

    @model_validator(mode="after")
    def _bands_cover_everything(self) -> "RiskPolicy":
        covered = [value for band in self.bands for value in range(band.low, band.high + 1)]
        if covered != list(range(1, 26)):
            raise ValueError("bands must cover 1 to 25 in order, without gap or overlap")
        return self

    @field_validator("placeholder_names", "placeholder_words")
    @classmethod
    def _patterns_compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as problem:
                raise ValueError(f"{pattern!r} is not a regular expression: {problem}") from problem
        return value

    def band_of(self, residual: int) -> Band:
        """Return the band that ``residual`` (1 to 25) falls in."""
        return next(band for band in self.bands if band.low <= residual <= band.high)

    def is_placeholder(self, name: str) -> bool:
        """Say whether ``name`` is nobody's name: too few letters, too long, or one of the placeholder patterns."""
        letters = sum(character.isalpha() for character in name)
        return letters < 2 or len(name) > 200 or self.is_placeholder_word(name)

    def is_placeholder_word(self, word: str) -> bool:
        """Say whether ``word`` (a name, or what stands before the @ of an address) is one of the placeholder patterns, look-alikes included."""
        visible = "".join(character for character in unicodedata.normalize("NFKC", word) if unicodedata.category(character) != "Cf")
        plain = " ".join(visible.split())
        return any(pattern.fullmatch(plain) for pattern in self._placeholder_patterns)

    def is_unwritten(self, words: str) -> bool:
        """Say whether ``words`` (a reason, a condition, a control) still wait to be written: nothing, TODO, or a date like [YYYY-MM-DD].

        Only the first ``longest_reason`` characters are looked at.
        """
        plain = " ".join(unicodedata.normalize("NFKC", words[: self.longest_reason]).split())
        return any(pattern.search(plain) for pattern in self._unwritten_patterns)

    def documents_to_attach(self, documents: Iterable[str]) -> tuple[str, ...]:
        """Return those of ``documents`` that people must bring."""
        return tuple(name for name in documents if name not in self.made_documents)

    def waiver_rule(self, scenario: str) -> WaiverRule | None:
        """Return the rule by which ``scenario`` may be waived; None when nothing is said of it."""
        return next((rule for rule in self.waivers if scenario in rule.scenarios or "*" in rule.scenarios), None)

    @cached_property
    def _unwritten_patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(pattern, re.IGNORECASE) for pattern in self.placeholder_words)

    @cached_property
    def _placeholder_patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(pattern, re.IGNORECASE) for pattern in self.placeholder_names)

    def asked(self, approvers: Mapping[str, int]) -> str:
        """Say in words who is asked, e.g. ``1 cto and 4 board (of 6)``."""
        parts = [f"{count} {role}{f' (of {self.seats[role]})' if role in self.seats else ''}" for role, count in sorted(approvers.items())]
        return " and ".join(parts)


def parse_risk_policy(data: bytes, where: str = "the policy file") -> RiskPolicy:
    """Return the ``risk`` section of the policy file in ``data``; without one, the defaults. Raises PolicyError naming the wrong field."""
    document = parse_yaml(data, where, PolicyError)
    section = document.get("risk") if isinstance(document, Mapping) else None
    try:
        return RiskPolicy.model_validate(section or {})
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in ("risk", *first["loc"]))
        raise PolicyError(f"{where}: {place} must follow the risk policy, found: {first['msg']}") from problem


def section_digest(data: bytes, where: str = "the policy file") -> str:
    """Return the sha256 of the ``risk`` section as the policy file in ``data`` has it, without the defaults of today. Raises PolicyError."""
    document = parse_yaml(data, where, PolicyError)
    return sha256_json(document.get("risk") if isinstance(document, Mapping) else None)
