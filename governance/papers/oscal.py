"""What was assessed, as an OSCAL assessment-results document (NIST OSCAL 1.1.2, JSON).

Each evidence document is an observation, each risk scenario a risk with its scores before and after the controls, each row of the register of
NIST AI RMF subcategories a finding, each signature an attestation. What the document refers to lies in the back matter with its sha256.
NIST has no OSCAL catalog of the AI RMF: control ids are the framework's own labels in OSCAL's form (``measure-2.11``).
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from governance.documents import parse_json
from governance.errors import EvidenceError
from governance.papers.facts import NO_EVIDENCE, PaperFacts, json_bytes, line, words
from governance.scenario import MISSING

OSCAL_VERSION = "1.1.2"
NAMESPACE = "urn:firstlight:oscal"
"""Of our properties and risk facets."""

_SCHEMA = Path(__file__).parent / "oscal.schema.json"
_EXAMINED = ("release", "hand_off", "registration", "environment", "register", "sign_off")
"""Documents that were looked at; the others were measured."""
_OUTCOMES = {"answered": ("satisfied", "pass"), "contradicted": ("not-satisfied", "fail")}
"""State of a register row -> objective status and its reason; anything else is not satisfied for want of evidence."""
_FACETS = (
    ("impact", "impact", "initial"),
    ("expectancy", "expectancy", "initial"),
    ("inherent", "inherent-risk", "initial"),
    ("maturity", "control-maturity", "adjusted"),
    ("residual_impact", "residual-impact", "adjusted"),
    ("residual_expectancy", "residual-expectancy", "adjusted"),
    ("residual", "residual-risk", "adjusted"),
)


def make(facts: PaperFacts) -> bytes:
    """Return assessment-results.oscal.json. Raises EvidenceError when no document names the release or a time."""
    return json_bytes({"assessment-results": _results(facts)})


def check(data: bytes) -> None:
    """Raise EvidenceError unless ``data`` follows oscal.schema.json: the part of OSCAL that we write, in our own words."""
    problem = next(iter(_validator().iter_errors(parse_json(data, "the assessment results", EvidenceError))), None)
    if problem is not None:
        place = ".".join(map(str, problem.absolute_path)) or "the document"
        raise EvidenceError(f"assessment results must follow OSCAL {OSCAL_VERSION}, {place} does not: {problem.message[:200]}")


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(_SCHEMA.read_bytes()))


def _results(facts: PaperFacts) -> dict[str, Any]:
    return {
        "uuid": _id(facts, "assessment-results", *sorted(facts.digests.values())),
        "metadata": _metadata(facts),
        "import-ap": {
            "href": f"#{_id(facts, 'resource', 'policy.yaml')}",
            "remarks": "What is assessed, and against which limits, is the policy in force; it is not an OSCAL assessment plan.",
        },
        "results": [_result(facts)],
        "back-matter": {"resources": _resources(facts)},
    }


def _metadata(facts: PaperFacts) -> dict[str, Any]:
    people = _people(facts)
    made = {
        "title": line(f"Assessment of release {facts.release}"),
        "last-modified": facts.moment,
        "version": line(f"{facts.release}, {facts.moment}"),
        "oscal-version": OSCAL_VERSION,
        "props": _props(
            {
                "model": facts.first("hand_off.name", "subject.model").value,
                "model-version": facts.claim("registration.version").value,
                "model-sha256": facts.first("hand_off.model_digest", "registration.model_digest", "subject.model_digest").value,
                "environment": facts.first("release.environment", "subject.environment").value,
                "decision-id": facts.claim("subject.decision_id").value,
                "change-id": facts.claim("subject.change_id").value,
            }
        ),
    }
    if people:
        roles = sorted({role for *_, role in people})
        made["roles"] = [{"id": role, "title": role.replace("-", " ")} for role in roles]
        made["parties"] = list({_party(facts, mail): _as_party(facts, name, mail) for name, mail, _ in people}.values())
        made["responsible-parties"] = [
            {"role-id": role, "party-uuids": sorted({_party(facts, mail) for _, mail, one in people if one == role})} for role in roles
        ]
    return made


def _people(facts: PaperFacts) -> list[tuple[str, str, str]]:
    """Name, address and role of the trainer and of everybody whose signature counted."""
    found = []
    trainer = facts.mapping("hand_off.trainer") or facts.mapping("subject.trainer")
    if trainer.get("name") and trainer.get("email"):
        found.append((line(str(trainer["name"])), line(str(trainer["email"])), "trainer"))
    found += [
        (line(str(row["name"])), line(str(row["email"])), _token(str(row.get("role"))))
        for row in facts.rows("sign_off.accepted")
        if row.get("name") and row.get("email")
    ]
    return [person for person in found if person[0] and "@" in person[1].strip("@")]


def _party(facts: PaperFacts, mail: str) -> str:
    return _id(facts, "party", mail)


def _as_party(facts: PaperFacts, name: str, mail: str) -> dict[str, Any]:
    return {"uuid": _party(facts, mail), "type": "person", "name": name, "email-addresses": [mail]}


def _result(facts: PaperFacts) -> dict[str, Any]:
    made: dict[str, Any] = {
        "uuid": _id(facts, "result", *sorted(facts.digests.values())),
        "title": line(f"Release {facts.release}"),
        "description": str(facts.first("release.summary", "sign_off.summary", "risk.summary")),
        "start": facts.opened,
        "end": facts.moment,
        "local-definitions": {
            "components": [_component(facts)],
            "assessment-assets": {
                "assessment-platforms": [{"uuid": _id(facts, "firstlight"), "title": f"firstlight {facts.claim('release.firstlight')}"}]
            },
        },
        "reviewed-controls": _controls(facts),
    }
    parts = {
        "attestations": _attestations(facts),
        "observations": [_observation(facts, name) for name in facts.documents],
        "risks": [_risk(facts, row) for row in facts.rows("risk.scenarios")],
        "findings": [_finding(facts, row) for row in facts.rows("register.rows")],
    }
    return {**made, **{key: value for key, value in parts.items() if value}}


def _component(facts: PaperFacts) -> dict[str, Any]:
    live = {"promoted": "operational", "open": "under-development"}.get(str(facts.at("release.status")), "other")
    return {
        "uuid": _id(facts, "component"),
        "type": "software",
        "title": str(facts.first("hand_off.name", "subject.model")),
        "description": str(facts.claim("hand_off.purpose")),
        "purpose": str(facts.claim("hand_off.purpose")),
        "props": _props({"sha256": facts.first("hand_off.model_digest", "registration.model_digest", "subject.model_digest").value}),
        "status": {"state": live},
    }


def _controls(facts: PaperFacts) -> dict[str, Any]:
    ids = sorted({_control(str(row.get("nist_ref"))) for row in facts.rows("register.rows")})
    chosen: dict[str, Any] = {"include-controls": [{"control-id": one} for one in ids]} if ids else {"include-all": {}}
    framework = facts.claim("register.framework")
    said = f"{len(ids)} subcategories of {framework}" if ids else f"the register of subcategories: {NO_EVIDENCE}"
    return {"description": said, "control-selections": [{"description": said, **chosen}]}


def _control(reference: str) -> str:
    return _token(reference.lower().replace(" ", "-"))


def _attestations(facts: PaperFacts) -> list[dict[str, Any]]:
    known = {mail for _, mail, _ in _people(facts)}
    made = []
    for row in facts.rows("sign_off.accepted"):
        mail = line(str(row.get("email")))
        if mail not in known:
            continue
        said = [("decision", row.get("decision")), ("reason", row.get("reason")), ("conditions", row.get("conditions"))]
        made.append(
            {
                "responsible-parties": [{"role-id": _token(str(row.get("role"))), "party-uuids": [_party(facts, mail)]}],
                "parts": [{"name": name, "ns": NAMESPACE, "title": name, "prose": words(value)} for name, value in said if value],
            }
        )
    return made


def _observation(facts: PaperFacts, name: str) -> dict[str, Any]:
    verdict = facts.claim(f"{name}.verdict")
    return {
        "uuid": _observed(facts, name),
        "title": name.replace("_", " "),
        "description": str(facts.claim(f"{name}.summary")),
        "props": _props({"verdict": verdict.value}),
        "methods": ["EXAMINE" if name in _EXAMINED else "TEST"],
        "types": ["control-objective"],
        "subjects": [{"subject-uuid": _id(facts, "component"), "type": "component"}],
        "relevant-evidence": [{"href": f"#{_id(facts, 'resource', f'evidence/{name}.json')}", "description": f"evidence/{name}.json"}],
        "collected": facts.collected(name),
    }


def _observed(facts: PaperFacts, name: str) -> str:
    return _id(facts, "observation", name)


def _risk(facts: PaperFacts, row: Mapping[str, Any]) -> dict[str, Any]:
    rules = [found for found in row.get("findings", []) if isinstance(found, Mapping)]
    used = sorted({str(found.get("rule")).partition(".")[0] for found in rules} & facts.evidence.keys())
    tool = {"actors": [{"type": "assessment-platform", "actor-uuid": _id(facts, "firstlight")}]}
    facets = [
        {"name": name, "system": NAMESPACE, "value": words(row[key]), "props": [{"name": "state", "value": state}]}
        for key, name, state in _FACETS
        if row.get(key) is not None
    ]
    made: dict[str, Any] = {
        "uuid": _id(facts, "risk", str(row.get("id"))),
        "title": line(f"{row.get('id')} {row.get('title')}"),
        "description": words(row.get("what_can_happen")),
        "statement": line(
            f"{_inapplicable(row)}Residual {words(row.get('residual'))} of 25 ({row.get('band')}) after controls of maturity {words(row.get('maturity'))} of 8."
        ),
        "status": _risk_status(facts, row),
    }
    held = [found for found in rules if found.get("held")]
    parts = {
        "characterizations": [{"origin": tool, "facets": facets}] if facets else [],
        "mitigating-factors": [
            {
                "uuid": _id(facts, "factor", str(row.get("id")), str(place)),
                "description": line(f"{found.get('because')}: {found.get('rule')}, found {found.get('found')}"),
            }
            for place, found in enumerate(held)
        ],
        "related-observations": [{"observation-uuid": _observed(facts, name)} for name in used],
    }
    return {**made, **{key: value for key, value in parts.items() if value}}


def _inapplicable(row: Mapping[str, Any]) -> str:
    reasons = row.get("not_applicable_because")
    return f"Not applicable because {words(reasons)}. " if reasons else ""


def _risk_status(facts: PaperFacts, row: Mapping[str, Any]) -> str:
    """Closed when it does not apply, accepted (OSCAL: deviation-approved) when the people asked have signed, asked for after a break-glass, else open."""
    if row.get("not_applicable_because"):
        return "closed"
    if facts.at("sign_off.verdict") != "pass":
        return "open"
    return "deviation-requested" if facts.at("sign_off.break_glass.ratified") is False else "deviation-approved"


def _finding(facts: PaperFacts, row: Mapping[str, Any]) -> dict[str, Any]:
    state, reason = _OUTCOMES.get(str(row.get("state")), ("not-satisfied", "other"))
    answers = [one for one in row.get("answers", []) if isinstance(one, Mapping)]
    used = sorted({str(one.get("evidence")).partition(".")[0] for one in answers} & facts.evidence.keys())
    said = "; ".join(f"{words(one.get('evidence'))}: found {words(one.get('found'))}" for one in answers)
    note = words(row["note"]) if row.get("note") else ""
    made: dict[str, Any] = {
        "uuid": _id(facts, "finding", str(row.get("nist_ref"))),
        "title": line(f"{row.get('nist_ref')} {row.get('title')}"),
        "description": line(said or note) or NO_EVIDENCE,
        "props": _props({"state": row.get("state"), "owner": row.get("owner")}),
        "target": {
            "type": "objective-id",
            "target-id": _control(str(row.get("nist_ref"))),
            "status": {"state": state, "reason": reason, "remarks": words(row.get("state"))},
        },
    }
    return {**made, **({"related-observations": [{"observation-uuid": _observed(facts, name)} for name in used]} if used else {})}


def _resources(facts: PaperFacts) -> list[dict[str, Any]]:
    made = []
    for name in sorted({*facts.digests, "policy.yaml"}):
        one: dict[str, Any] = {"uuid": _id(facts, "resource", name), "title": name}
        digest = facts.digests.get(name)
        if digest is None:
            one["description"] = f"The policy in force; {NO_EVIDENCE}, it is put beside the evidence when people are asked."
        else:
            one["rlinks"] = [{"href": f"../{name}", "hashes": [{"algorithm": "SHA-256", "value": digest}]}]
        made.append(one)
    return made


def _props(values: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {"name": key, "ns": NAMESPACE, "value": NO_EVIDENCE if value in (None, "", MISSING) else words(value)}
        for key, value in values.items()
    ]


def _token(text: str) -> str:
    """Return ``text`` as an OSCAL token: letters, digits, ``.``, ``-``, ``_``, beginning with a letter."""
    made = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")
    return made if made[:1].isalpha() else f"id-{made or 'unnamed'}"


def _id(facts: PaperFacts, *parts: str) -> str:
    return str(facts.uuid("oscal", *parts))
