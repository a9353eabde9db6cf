"""The model card in the lab's schema 1.0.0, as YAML and as a page.

The lab's form is written for models of vendors: what a vendor claims is here what the trainer handed over, public evidence is what this
pipeline measured itself, and where the form asks for an assessment, verdicts and risk scores answer. ``model_card.schema.json`` beside this
file is the schema, which the lab's own repository plans and does not have yet.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from governance.documents import parse_yaml
from governance.errors import EvidenceError
from governance.papers.decision import decision_of
from governance.papers.facts import NO_EVIDENCE, Claim, PaperFacts, line, plain, tidy, walk, words
from governance.papers.page import Part, render

SCHEMA_VERSION = "1.0.0"
_SCHEMA = Path(__file__).parent / "model_card.schema.json"
_HARDWARE = ("benchmark.hardware.cores", "benchmark.hardware.processor", "benchmark.hardware.memory_gib")
_MOST_SLICES = 20
_TITLES = {"rmf_function_mapping": "Functions of the NIST AI RMF"}


def make(facts: PaperFacts) -> bytes:
    """Return model-card.yaml. Raises EvidenceError when no document names the release or a time."""
    return yaml.safe_dump(plain(_tree(facts)), sort_keys=False, allow_unicode=True, width=1000).encode()


def make_page(facts: PaperFacts) -> bytes:
    """Return model-card.html: the same card, each value with the place in the evidence it came from."""
    tree = _tree(facts)
    known, wanted = _filled(tree)
    return render(
        title=f"Model card: {facts.first('hand_off.name', 'subject.model')}, version {facts.claim('registration.version')}",
        kicker=f"Release {facts.release} · schema {SCHEMA_VERSION} of the lab's model card",
        lead=f"{known} of {wanted} fields have evidence; the others say “{NO_EVIDENCE}”. Small print names the place in the evidence folder.",
        parts=[
            Part(title=_TITLES.get(key, key.replace("_", " ").capitalize()), tree=value)
            for key, value in tree.items()
            if isinstance(value, Mapping)
        ],
    )


def check(data: bytes) -> None:
    """Raise EvidenceError unless ``data`` (YAML) follows the schema of the card."""
    problem = next(iter(_validator().iter_errors(parse_yaml(data, "the model card", EvidenceError))), None)
    if problem is not None:
        place = ".".join(map(str, problem.absolute_path)) or "the card"
        raise EvidenceError(f"a model card must follow schema {SCHEMA_VERSION}, {place} does not: {problem.message[:200]}")


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(_SCHEMA.read_bytes()))


def _tree(facts: PaperFacts) -> dict[str, Any]:
    tree = {
        "schema_version": SCHEMA_VERSION,
        "model_identity": _identity(facts),
        "technical_specifications": _specifications(facts),
        "capabilities": _capabilities(facts),
        "training_information": _training(facts),
        "intended_use": _use(facts),
        "trustworthiness_assessment": _trustworthiness(facts),
        "evaluation_guidance": _guidance(facts),
        "rmf_function_mapping": _functions(facts),
        "references": _references(facts),
    }
    known, wanted = _filled(tree)
    return {
        **tree,
        "metadata": _metadata(facts, completeness=f"{known} of {wanted} fields above have evidence; {wanted - known} have none yet"),
    }


def _filled(tree: Mapping[str, Any]) -> tuple[int, int]:
    claims = list(walk({key: value for key, value in tree.items() if key != "metadata"}))
    return sum(claim.is_known for claim in claims), len(claims)


def _identity(facts: PaperFacts) -> dict[str, Any]:
    return {
        "name": facts.first("hand_off.name", "subject.model", "release.model"),
        "vendor": facts.phrase("trained in house by {}", "hand_off.trainer.name"),
        "model_family": facts.claim("hand_off.recipe.family"),
        "version": facts.claim("registration.version"),
        "release_date": facts.claim("hand_off.created"),
        "model_type": _arrays(facts, "takes {} and gives {}"),
        "vendor_model_card_url": facts.claim("hand_off.recipe.model_card"),
        "license": facts.claim("hand_off.recipe.license"),
        "deprecation_status": facts.claim("release.status"),
        "model_digest": facts.first("hand_off.model_digest", "registration.model_digest", "subject.model_digest"),
        "handoff_digest": facts.first("hand_off.handoff_digest", "release.handoff_digest"),
    }


def _specifications(facts: PaperFacts) -> dict[str, Any]:
    recipe = facts.claim("hand_off.recipe")
    return {
        "architecture": {
            "base_architecture": facts.claim("hand_off.recipe.architecture"),
            "parameter_count": facts.claim("hand_off.recipe.parameters"),
            "context_window": _arrays(facts, "not applicable: {} of fixed length, not text"),
            "training_data_cutoff": facts.phrase("not later than {}, when the model was handed over", "hand_off.created"),
            "architectural_details": Claim(value=words(recipe.value), sources=recipe.sources),
        },
        "modalities": {
            "supported_inputs": _tensors(facts, "hand_off.model.inputs", "unit"),
            "supported_outputs": _tensors(facts, "hand_off.model.outputs", "meaning"),
        },
        "performance_characteristics": {
            "speed_tier": facts.claim("backend.summary"),
            "cost_tier": facts.phrase("measured on {} cores of {} with {} GiB", *_HARDWARE),
            "latency": _points(facts, "latency_ms_p50", "ms in the middle"),
            "throughput": _points(facts, "spectra_per_second", "spectra/s"),
        },
    }


def _capabilities(facts: PaperFacts) -> dict[str, Any]:
    return {
        "vendor_claimed_strengths": facts.first("evaluation.claimed", "hand_off.metrics"),
        "benchmark_performance": facts.said("evaluation.summary", "benchmark.summary"),
        "special_capabilities": {
            "tools_support": _numbers(facts, "gives", "outputs"),
            "vision_support": _numbers(facts, "takes", "inputs"),
            "reasoning_support": _numbers(facts, "gives", "outputs"),
            "image_generation": _numbers(facts, "gives", "outputs"),
            "additional_capabilities": _roles(facts),
        },
        "known_limitations": {
            "vendor_disclosed": facts.claim("hand_off.not_for"),
            "common_failure_modes": _weak_slices(facts),
            "unsuitable_use_cases": facts.claim("hand_off.not_for"),
        },
    }


def _training(facts: PaperFacts) -> dict[str, Any]:
    return {
        "training_data_description": facts.claim("hand_off.data.description"),
        "training_data_uri": facts.claim("hand_off.data.uri"),
        "training_data_sha256": facts.claim("hand_off.data.sha256"),
        "training_data_spectra": facts.claim("hand_off.data.spectra"),
        "training_data_checks": facts.claim("data.summary"),
        "training_methodology": facts.claim("hand_off.recipe"),
        "training_environment": facts.claim("hand_off.environment"),
        "git_commit": facts.claim("hand_off.git_commit"),
        "data_privacy_considerations": facts.phrase("data class {}", "hand_off.data_class"),
    }


def _use(facts: PaperFacts) -> dict[str, Any]:
    return {
        "vendor_intended_use": facts.claim("hand_off.purpose"),
        "suitable_domains": _as_list(facts.claim("hand_off.purpose")),
        "out_of_scope_use": facts.claim("hand_off.not_for"),
    }


def _trustworthiness(facts: PaperFacts) -> dict[str, Any]:
    """The seven characteristics of NIST AI RMF 1.0, section 3."""
    return {
        "valid_and_reliable": {
            "vendor_claims": facts.claim("hand_off.metrics"),
            "public_evidence": facts.said("evaluation.summary", "golden.summary", "canary.summary"),
            "assessment_notes": _verdicts(facts, "data", "evaluation", "golden", "canary"),
        },
        "safe": {
            "safety_measures": facts.said("serving.summary", "rehearsal.summary"),
            "known_safety_issues": _risks(facts, "R07", "F02", "F03"),
            "assessment_notes": facts.claim("risk.summary"),
        },
        "secure_and_resilient": {
            "security_features": _platform(facts),
            "known_vulnerabilities": _risks(facts, "R05", "F05", "R11"),
            "assessment_notes": _verdicts(facts, "hand_off", "registration", "serving", "rehearsal"),
        },
        "accountable_and_transparent": {
            "transparency_level": facts.claim("register.summary"),
            "auditability": facts.phrase("evidence digest {}, decision {}", "subject.evidence_digest", "subject.decision_id"),
            "assessment_notes": facts.claim("sign_off.summary"),
        },
        "explainable_and_interpretable": {
            "explainability_features": _meanings(facts),
            "interpretability_limitations": facts.claim("hand_off.not_for"),
            "assessment_notes": facts.claim("evaluation.explanations.summary"),
        },
        "privacy_enhanced": {
            "privacy_features": facts.phrase("data class {}", "hand_off.data_class"),
            "privacy_concerns": _risks(facts, "R01", "R02", "R08"),
            "assessment_notes": _verdicts(facts, "hand_off"),
        },
        "fair_with_harmful_bias_managed": {
            "bias_mitigation": facts.claim("bias.summary"),
            "known_biases": _weak_slices(facts),
            "assessment_notes": _verdicts(facts, "bias"),
        },
    }


def _guidance(facts: PaperFacts) -> dict[str, Any]:
    expected = [f"{row.get('table', '')}: {row.get('column') or 'table'} {row.get('rule', '')}" for row in facts.rows("data.expectations")]
    return {
        "recommended_tests": _listed(expected, "data.expectations"),
        "key_evaluation_questions": _listed([str(row.get("what_can_happen", "")) for row in _scenarios(facts)], "risk.scenarios"),
        "comparison_considerations": facts.said("benchmark.summary", "canary.summary"),
    }


def _functions(facts: PaperFacts) -> dict[str, Any]:
    decided = decision_of(facts)
    return {
        "govern": {
            "notes": facts.said("sign_off.summary", "subject.requirement.band", "subject.requirement.roles"),
            "approvals": decided.makers,
            "conditions": decided.conditions,
            "residual_risk": facts.phrase("{} of 25, {}", "risk.overall", "risk.band"),
            "next_review_due": decided.look_again,
        },
        "map": {
            "context_considerations": facts.said("hand_off.purpose", "hand_off.not_for", "hand_off.data_class"),
            "risk_categories": _listed([f"{row.get('id')} {row.get('title')}" for row in _scenarios(facts)], "risk.scenarios"),
        },
        "measure": {"suggested_metrics": facts.first("evaluation.metrics", "hand_off.metrics")},
        "manage": {
            "risk_management_considerations": _listed(
                [f"{row.get('id')}: {row.get('watched_after')}" for row in _scenarios(facts)], "risk.scenarios"
            ),
        },
        "subcategories": facts.claim("register.counts"),
    }


def _references(facts: PaperFacts) -> dict[str, Any]:
    return {
        "vendor_documentation": [
            {"url": f"../{name}", "description": facts.claim(f"{_stem(name)}.summary"), "sha256": digest}
            for name, digest in facts.digests.items()
            if _stem(name) == "hand_off"
        ],
        "benchmarks": [
            {"name": name, "url": f"../evidence/{name}.json", "result": facts.claim(f"{name}.summary")}
            for name in ("evaluation", "bias", "benchmark", "backend")
            if name in facts.evidence
        ],
        "third_party_evaluations": facts.claim("third_party.evaluations"),
    }


def _metadata(facts: PaperFacts, *, completeness: str) -> dict[str, Any]:
    return {
        "card_version": facts.claim("release.papers"),
        "card_author": facts.phrase("firstlight {}", "release.firstlight"),
        "card_creation_date": facts.opened,
        "last_updated": facts.moment,
        "information_sources": [{"name": name, "sha256": digest} for name, digest in sorted(facts.digests.items())],
        "completeness_assessment": completeness,
        "change_log": [
            {"date": facts.collected(name), "author": f"stage {name.replace('_', ' ')}", "changes": facts.claim(f"{name}.summary")}
            for name in facts.documents
        ],
    }


def _stem(name: str) -> str:
    return Path(name).stem


def _as_list(claim: Claim) -> Claim:
    return Claim(value=[claim.value], sources=claim.sources) if claim.is_known else claim


def _listed(items: list[str], source: str) -> Claim:
    return Claim(value=tidy(items) or NO_EVIDENCE, sources=(source,))


def _scenarios(facts: PaperFacts) -> list[Mapping[str, Any]]:
    return facts.rows("risk.scenarios")


def _arrays(facts: PaperFacts, template: str, *sides: str) -> Claim:
    """Return ``template`` with the model's inputs and outputs (or the sides named) put in, each as names and shapes."""
    shown = []
    for side in sides or ("inputs", "outputs")[: template.count("{}")]:
        rows = facts.rows(f"hand_off.model.{side}")
        shown.append(", ".join(f"{row.get('name')} {_shape(row)}" for row in rows))
    sources = tuple(f"hand_off.model.{side}" for side in sides or ("inputs", "outputs")[: template.count("{}")])
    return Claim(value=line(template.format(*shown)) if all(shown) else NO_EVIDENCE, sources=sources)


def _numbers(facts: PaperFacts, verb: str, side: str) -> Claim:
    """Return why a capability of language and image models does not apply: what goes in and out are arrays of numbers."""
    names = ", ".join(str(row.get("name")) for row in facts.rows(f"hand_off.model.{side}"))
    said = line(f"not applicable: the model {verb} arrays of numbers ({names})")
    return Claim(value=said if names else NO_EVIDENCE, sources=(f"hand_off.model.{side}",))


def _shape(row: Mapping[str, Any]) -> str:
    shape = row.get("shape")
    lengths = ["rows" if length == -1 else words(length) for length in shape] if isinstance(shape, list) else []
    return f"{row.get('dtype', '')}[{' × '.join(lengths)}]"


def _tensors(facts: PaperFacts, source: str, says: str) -> Claim:
    return _listed([f"{row.get('name')} {_shape(row)}, {row.get(says, '')}" for row in facts.rows(source)], source)


def _points(facts: PaperFacts, key: str, unit: str) -> Claim:
    rows = [row for row in facts.rows("benchmark.points") if row.get("who") == "candidate" and key in row]
    return _listed([f"batch {row.get('batch')}: {words(row[key])} {unit}" for row in rows], "benchmark.points")


def _roles(facts: PaperFacts) -> Claim:
    roles = facts.mapping("hand_off.model.roles")
    return _listed([f"{role}: output {output}" for role, output in roles.items()], "hand_off.model.roles")


def _meanings(facts: PaperFacts) -> Claim:
    return _listed(
        [f"{row.get('name')}: {row.get('meaning', '')}" for row in facts.rows("hand_off.model.outputs")], "hand_off.model.outputs"
    )


def _weak_slices(facts: PaperFacts) -> Claim:
    """Return the slices that are shown to be worse, or about which too little is known, worst first."""
    order = {"fail": 0, "cannot tell": 1}
    rows = sorted((row for row in facts.rows("bias.slices") if row.get("verdict") in order), key=lambda row: order[str(row["verdict"])])
    said = [f"{row.get('metric')}, {row.get('dimension')} {row.get('slice')}: {row.get('verdict')}; {row.get('why', '')}" for row in rows]
    more = [f"and {len(said) - _MOST_SLICES} more in the evidence"] if len(said) > _MOST_SLICES else []
    if facts.rows("bias.slices") and not said:
        return facts.claim("bias.summary")
    return _listed(said[:_MOST_SLICES] + more, "bias.slices")


def _verdicts(facts: PaperFacts, *names: str) -> Claim:
    found = [(name, facts.claim(f"{name}.verdict")) for name in names]
    said = [f"{name.replace('_', ' ')}: {claim}" for name, claim in found if claim.is_known]
    return Claim(value="; ".join(said) or NO_EVIDENCE, sources=tuple(claim.sources[0] for _, claim in found))


def _risks(facts: PaperFacts, *ids: str) -> Claim:
    said = [
        f"{row.get('id')} {row.get('title')}: residual {row.get('residual')} of 25, {row.get('band')}"
        for row in _scenarios(facts)
        if row.get("id") in ids
    ]
    return _listed(said, "risk.scenarios")


def _platform(facts: PaperFacts) -> Claim:
    known = [f"{key.replace('_', ' ')}: {words(value)}" for key, value in facts.mapping("serving").items() if isinstance(value, bool)]
    signature = facts.phrase("model folder signed by {}, key {}", "registration.signature.method", "registration.signature.key_fingerprint")
    signed = [str(signature)] if signature.is_known else []
    return Claim(value=tidy([*known, *signed]) or NO_EVIDENCE, sources=("serving", "registration.signature"))
