"""A risk framework as data: its categories and subcategories, who answers each, and the evidence that would; and the lab's own labels for them.

NIST AI RMF 1.0 (NIST AI 100-1, January 2023, tables 1 to 4) comes with firstlight: 19 categories, 72 subcategories, NIST's ids, our words.
A new edition is a new set of files; a register that was filled keeps the edition it was filled by.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from firstlight.digest import sha256_json
from governance.documents import parse_yaml, read_bounded
from governance.errors import RegisterError
from governance.scenario import Rule

SHIPPED = Path(__file__).parent
"""The folder of the framework that comes with firstlight."""

EDITION = "nist-ai-rmf-1.0"
"""First part of the names of its files, one for each function."""

LABELS = "lab-labels-v1.yaml"
"""The lab's own labels, in the version in force."""

FUNCTIONS = ("GOVERN", "MAP", "MEASURE", "MANAGE")

_File = TypeVar("_File", bound=BaseModel)
_Function = Literal["GOVERN", "MAP", "MEASURE", "MANAGE"]
_Owner = Literal[
    "system-owner",
    "ai-risk-officer",
    "cto",
    "board",
    "security-lead",
    "operations-lead",
    "senior-engineering",
    "research-domain-expert",
]


class Subcategory(BaseModel):
    """One subcategory: what it asks for, who answers, and what a release has to show."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^(GOVERN|MAP|MEASURE|MANAGE) [1-9]\.[1-9][0-9]?$")
    title: str = Field(min_length=10, max_length=160)
    """In our own words."""
    owner: _Owner
    """Role of the lab that answers for it."""
    evidence: tuple[Rule, ...] = ()
    """All of them must hold for an answer; none where a release cannot answer."""
    note: str = Field(default="", max_length=300)
    """What the evidence does not cover, or why there is none."""

    @model_validator(mode="after")
    def _says_why_not(self) -> "Subcategory":
        if not self.evidence and not self.note:
            raise ValueError(f"{self.id} must name its evidence or say in a note why there is none, found neither")
        return self


class Category(BaseModel):
    """One category with its subcategories."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^(GOVERN|MAP|MEASURE|MANAGE) [1-9]$")
    title: str = Field(min_length=10, max_length=160)
    subcategories: tuple[Subcategory, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _numbered(self) -> "Category":
        wanted = [f"{self.id}.{number}" for number in range(1, len(self.subcategories) + 1)]
        found = [one.id for one in self.subcategories]
        if found != wanted:
            raise ValueError(f"subcategories of {self.id} must be numbered {wanted[0]} to {wanted[-1]}, found {found}")
        return self


class FunctionFile(BaseModel):
    """One file: a function of the framework."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["firstlight/register-function/v1"]
    framework: str = Field(min_length=3, max_length=60)
    """Name and edition, e.g. ``NIST AI RMF 1.0``."""
    function: _Function
    categories: tuple[Category, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _numbered(self) -> "FunctionFile":
        wanted = [f"{self.function} {number}" for number in range(1, len(self.categories) + 1)]
        found = [one.id for one in self.categories]
        if found != wanted:
            raise ValueError(f"categories of {self.function} must be numbered {wanted[0]} to {wanted[-1]}, found {found}")
        return self


class Label(BaseModel):
    """One label of the lab and the NIST category it is taken for; none where there is no such category."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lab_ref: str = Field(pattern=r"^AI\.[1-9][0-9]?$")
    function: _Function
    """The function the lab counts it to."""
    position: int = Field(ge=1, le=9)
    """Which of that function's categories it is, by the lab's count."""
    nist_ref: str | None = None
    disagrees: str = Field(default="", max_length=300)
    """How the lab's numbering differs from NIST's here."""

    @model_validator(mode="after")
    def _says_why_not(self) -> "Label":
        if (self.nist_ref is None) != bool(self.disagrees):
            raise ValueError(f"{self.lab_ref} must have a nist_ref, or say how the numberings disagree, and not both")
        return self


class Unlabelled(BaseModel):
    """A NIST category that the lab has no label for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nist_ref: str
    disagrees: str = Field(min_length=10, max_length=300)


class Labels(BaseModel):
    """The table of the lab's labels, in one version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["firstlight/lab-labels/v1"]
    version: int = Field(ge=1)
    framework: str
    labels: tuple[Label, ...]
    unlabelled: tuple[Unlabelled, ...] = ()

    def of(self, category: str) -> tuple[str, ...]:
        """Return the lab's labels for NIST ``category``."""
        return tuple(label.lab_ref for label in self.labels if label.nist_ref == category)


class Framework(BaseModel):
    """A whole framework, with the labels it goes by in the lab."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    functions: tuple[FunctionFile, ...] = Field(min_length=1)
    labels: Labels

    @model_validator(mode="after")
    def _of_one_edition(self) -> "Framework":
        editions = {self.name, self.labels.framework, *(one.framework for one in self.functions)}
        categories = {category.id for one in self.functions for category in one.categories}
        labelled = {label.nist_ref for label in self.labels.labels} - {None} | {one.nist_ref for one in self.labels.unlabelled}
        if len(editions) != 1:
            raise ValueError(f"all files must be of one framework, found {sorted(editions)}")
        if labelled != categories:
            raise ValueError(f"labels must cover exactly the categories, they differ in {sorted(map(str, labelled ^ categories))}")
        return self

    @property
    def digest(self) -> str:
        """sha256 of the framework as canonical JSON."""
        return sha256_json(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, from which :func:`framework_of` makes the framework again."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)


@lru_cache(maxsize=4)
def load_framework(folder: Path = SHIPPED) -> Framework:
    """Return the framework in ``folder``. Raises RegisterError naming the file that is not usable."""
    functions = tuple(_read(folder / f"{EDITION}-{function.lower()}.yaml", FunctionFile) for function in FUNCTIONS)
    labels = _read(folder / LABELS, Labels)
    return _made({"name": labels.framework, "functions": functions, "labels": labels}, str(folder))


def framework_of(register: Mapping[str, Any]) -> Framework:
    """Return the framework that the document of a filled register was filled by. Raises RegisterError when it holds none."""
    return _made(register.get("definition"), "the register's definition")


def _made(fields: Any, where: str) -> Framework:
    try:
        return Framework.model_validate(fields)
    except ValidationError as problem:
        raise RegisterError(f"{where}: {_first(problem)}") from problem


def _read(path: Path, kind: type[_File]) -> _File:
    data = parse_yaml(read_bounded(path, RegisterError), str(path), RegisterError)
    try:
        return kind.model_validate(data)
    except ValidationError as problem:
        raise RegisterError(f"{path}: {_first(problem)}") from problem


def _first(problem: ValidationError) -> str:
    first = problem.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the document"
    return f"{where} must follow the framework's schema, found: {first['msg']}"
