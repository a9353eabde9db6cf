"""Fill the register of a framework from the evidence of one release. Pure: nothing is typed in, and what is not there is said not to be."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from firstlight.digest import sha256_json
from governance.register.framework import Category, Framework, Subcategory, load_framework
from governance.scenario import MISSING, Rule, in_words, look_up

State = Literal["answered", "contradicted", "no evidence yet"]

ANSWERED: State = "answered"
CONTRADICTED: State = "contradicted"
NOTHING: State = "no evidence yet"

STATES: tuple[State, ...] = (ANSWERED, CONTRADICTED, NOTHING)

OWN_NAME = "register"
"""Name of the register among the evidence documents; it is no evidence for itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One reference into the evidence, and what was found there."""

    evidence: str
    """Dotted path: document, then its keys."""
    rule: str
    found: str
    held: bool
    there: bool
    """Whether there was anything to hold the rule against; *cannot tell* is nothing."""
    sha256: str | None
    """Of the evidence document; None where the release has none of that name."""
    because: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One subcategory, filled."""

    nist_ref: str
    function: str
    category: str
    category_title: str
    title: str
    owner: str
    state: State
    answers: tuple[Answer, ...]
    scenarios: tuple[str, ...]
    """Risk scenarios of this release that speak to it."""
    lab_refs: tuple[str, ...]
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Register:
    """The register of one release."""

    framework: str
    framework_digest: str
    lab_labels_version: int
    summary: str
    counts: Mapping[str, Any]
    """State -> how many, and ``by_function`` -> function -> the same."""
    rows: tuple[Row, ...]
    disagreements: tuple[Mapping[str, str], ...]
    """Where the lab's labels and NIST's ids do not go together."""
    definition: Mapping[str, Any]
    """The framework itself, so that a reader can fill the register again from the evidence."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values for the evidence folder (``evidence/register.json``)."""
        plain = asdict(self)
        rows = [{**row, "answers": list(row["answers"])} for row in plain["rows"]]
        lists = [{key: list(value) if isinstance(value, tuple) else value for key, value in row.items()} for row in rows]
        return {**plain, "rows": lists, "disagreements": list(plain["disagreements"])}


def fill(evidence: Mapping[str, Mapping[str, Any]], *, framework: Framework | None = None) -> Register:
    """Return the register of a release with these ``evidence`` documents (name -> document). Pure.

    A subcategory is *answered* when every reference it has was found and held, *contradicted* when one was found and did not hold, else *no evidence
    yet*; that says what this release shows, not that an organisation does all that NIST describes. ``framework``: default is the one that comes with
    firstlight; a verifier gives :func:`~governance.register.framework.framework_of` the filled document.
    """
    used = framework or load_framework()
    documents = {name: document for name, document in evidence.items() if name != OWN_NAME}
    digests = {name: sha256_json(document) for name, document in documents.items()}
    speaking = _scenarios_by_ref(documents.get("risk", {}))
    rows = tuple(
        _row(category, subcategory, used, documents, digests, speaking)
        for function in used.functions
        for category in function.categories
        for subcategory in category.subcategories
    )
    counts = _counts(rows)
    return Register(
        framework=used.name,
        framework_digest=used.digest,
        lab_labels_version=used.labels.version,
        summary=(
            f"{counts[ANSWERED]} of {len(rows)} subcategories of {used.name} are answered by evidence of this release, "
            f"{counts[CONTRADICTED]} contradicted, {counts[NOTHING]} have no evidence yet"
        ),
        counts=counts,
        rows=rows,
        disagreements=_disagreements(used),
        definition=used.to_dict(),
    )


def _row(
    category: Category,
    subcategory: Subcategory,
    framework: Framework,
    evidence: Mapping[str, Mapping[str, Any]],
    digests: Mapping[str, str],
    speaking: Mapping[str, tuple[str, ...]],
) -> Row:
    answers = tuple(_answer(rule, evidence, digests) for rule in subcategory.evidence)
    return Row(
        nist_ref=subcategory.id,
        function=subcategory.id.split(" ")[0],
        category=category.id,
        category_title=category.title,
        title=subcategory.title,
        owner=subcategory.owner,
        state=_state(answers),
        answers=answers,
        scenarios=speaking.get(subcategory.id, ()),
        lab_refs=framework.labels.of(category.id),
        note=subcategory.note,
    )


def _answer(rule: Rule, evidence: Mapping[str, Mapping[str, Any]], digests: Mapping[str, str]) -> Answer:
    value = look_up(evidence, rule.evidence)
    held = value != "cannot tell" and rule.holds(value)
    is_nothing = value is MISSING or value == "cannot tell" or (bool(rule.present) and not held)
    return Answer(
        evidence=rule.evidence,
        rule=rule.text,
        found=in_words(value),
        held=held,
        there=not is_nothing,
        sha256=digests.get(rule.evidence.split(".")[0]),
        because=rule.because,
    )


def _state(answers: tuple[Answer, ...]) -> State:
    if any(answer.there and not answer.held for answer in answers):
        return CONTRADICTED
    return ANSWERED if answers and all(answer.held for answer in answers) else NOTHING


def _scenarios_by_ref(risk: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return subcategory -> scenarios of the risk document that name it; nothing from a document of another form."""
    found: dict[str, tuple[str, ...]] = {}
    definitions = risk.get("definitions")
    for one in definitions if isinstance(definitions, list | tuple) else ():
        refs = one.get("nist") if isinstance(one, Mapping) else None
        for ref in refs if isinstance(refs, list | tuple) else ():
            found[str(ref)] = (*found.get(str(ref), ()), str(one.get("id")))
    return found


def _counts(rows: tuple[Row, ...]) -> dict[str, Any]:
    whole = Counter(row.state for row in rows)
    by_function = {
        function: Counter(row.state for row in rows if row.function == function) for function in dict.fromkeys(row.function for row in rows)
    }
    return {
        **{state: whole[state] for state in STATES},
        "by_function": {function: {state: counted[state] for state in STATES} for function, counted in by_function.items()},
    }


def _disagreements(framework: Framework) -> tuple[Mapping[str, str], ...]:
    labels = [{"lab_ref": label.lab_ref, "nist_ref": "", "what": label.disagrees} for label in framework.labels.labels if label.disagrees]
    missing = [{"lab_ref": "", "nist_ref": one.nist_ref, "what": one.disagrees} for one in framework.labels.unlabelled]
    return (*labels, *missing)
