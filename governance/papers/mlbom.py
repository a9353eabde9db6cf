"""The machine-learning bill of materials: CycloneDX 1.6 JSON with the model, its data sets, and the software that was there when it was released.

The library has no class for model cards, so the document is built as the specification's JSON and validated by the library (its copy of the
official schema). Only what can be checked against bytes is listed with a hash. The one door to cyclonedx.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from governance.errors import EvidenceError
from governance.papers.facts import PaperFacts, json_bytes, line, words
from governance.scenario import MISSING

SPEC_VERSION = "1.6"
_DATA_FILES = {
    "reference.parquet": "table of the training rows, which live use is compared with",
    "holdout.parquet": "table of the held-out rows",
    "holdout.safetensors": "held-out inputs",
    "golden.safetensors": "golden vectors: inputs and the outputs the trainer saw",
}
_PREFIX = "firstlight:"


def make(facts: PaperFacts) -> bytes:
    """Return mlbom.cdx.json. Raises EvidenceError when no document names the release or a time."""
    return json_bytes(_document(facts))


def check(data: bytes) -> None:
    """Raise EvidenceError unless ``data`` follows the schema of CycloneDX 1.6."""
    problem = _validator().validate_str(data.decode())
    if problem is not None:
        raise EvidenceError(f"a bill of materials must follow CycloneDX {SPEC_VERSION}, found: {line(str(problem))[:300]}")


@cache
def _validator() -> Any:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6)


def _document(facts: PaperFacts) -> dict[str, Any]:
    model, data, software = _model(facts), _data(facts), _software(facts)
    components = [*data, *software]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{facts.uuid('mlbom', *sorted(facts.digests.values()))}",
        "version": 1,
        "metadata": {
            "timestamp": facts.moment,
            "tools": {"components": [_tool(facts)]},
            "component": model,
            "properties": _properties(
                {"release": facts.release, "environment": facts.first("release.environment", "subject.environment").value}
            ),
        },
        "components": components,
        "dependencies": _dependencies(facts, model, components),
    }


def _tool(facts: PaperFacts) -> dict[str, Any]:
    return _with({"type": "application", "name": "firstlight"}, version=_known(facts, "release.firstlight"))


def _model(facts: PaperFacts) -> dict[str, Any]:
    digest = facts.first("hand_off.model_digest", "registration.model_digest", "subject.model_digest")
    trainer = _with({}, name=_known(facts, "hand_off.trainer.name"), email=_known(facts, "hand_off.trainer.email"))
    made = {"type": "machine-learning-model", "bom-ref": "model", "name": words(facts.first("hand_off.name", "subject.model").value)}
    return _with(
        made,
        version=_known(facts, "registration.version"),
        description=_known(facts, "hand_off.purpose"),
        authors=[trainer] if trainer else None,
        hashes=_hashes(digest.value),
        externalReferences=_references(facts),
        modelCard=_card(facts),
        properties=_properties(
            {
                "hand-off sha256": facts.claim("hand_off.handoff_digest").value,
                "data class": facts.claim("hand_off.data_class").value,
                "git commit": facts.claim("hand_off.git_commit").value,
                "backend": facts.claim("backend.chosen").value,
                "backend sha256": facts.claim("backend.digest").value,
                "model signature method": facts.claim("registration.signature.method").value,
                "model signature key": facts.claim("registration.signature.key_fingerprint").value,
                "model signature sha256": facts.claim("registration.signature.signature_sha256").value,
                "license": facts.claim("hand_off.recipe.license").value,
                **{f"recipe {key}": value for key, value in facts.mapping("hand_off.recipe").items()},
            }
        ),
    )


def _card(facts: PaperFacts) -> dict[str, Any]:
    parameters = {
        "datasets": [{"ref": item["bom-ref"]} for item in _data(facts)],
        "inputs": [{"format": _tensor(row, "unit")} for row in facts.rows("hand_off.model.inputs")],
        "outputs": [{"format": _tensor(row, "meaning")} for row in facts.rows("hand_off.model.outputs")],
    }
    considerations = {
        "useCases": _listed(facts, "hand_off.purpose"),
        "technicalLimitations": _listed(facts, "hand_off.not_for"),
        "performanceTradeoffs": _listed(facts, "backend.summary"),
        "ethicalConsiderations": [
            {"name": line(f"{row.get('id')} {row.get('title')}"), "mitigationStrategy": line(str(row.get("watched_after", "")))}
            for row in facts.rows("risk.scenarios")
        ],
        "fairnessAssessments": [
            {
                "groupAtRisk": line(f"spectra with {row.get('dimension')} {row.get('slice')}"),
                "harms": line(f"{row.get('metric')}: {row.get('why', '')}"),
            }
            for row in facts.rows("bias.slices")
            if row.get("verdict") == "fail"
        ],
    }
    return {
        "bom-ref": "model-card",
        "modelParameters": {key: value for key, value in parameters.items() if value},
        "quantitativeAnalysis": {"performanceMetrics": [*_metrics(facts), *_slices(facts)]},
        "considerations": {key: value for key, value in considerations.items() if value},
    }


def _tensor(row: Mapping[str, Any], says: str) -> str:
    return line(f"{row.get('name')}: {row.get('dtype')} {words(row.get('shape'))}; {row.get(says, '')}")


def _metrics(facts: PaperFacts) -> list[dict[str, Any]]:
    intervals = facts.mapping("evaluation.intervals")
    return [
        _with({"type": line(name), "value": words(value)}, confidenceInterval=_interval(intervals.get(name)))
        for name, value in facts.mapping("evaluation.metrics").items()
    ]


def _slices(facts: PaperFacts) -> list[dict[str, Any]]:
    return [
        _with(
            {
                "type": line(str(row.get("metric"))),
                "value": words(row["rate"]),
                "slice": line(f"{row.get('dimension')} {row.get('slice')} ({words(row.get('rows'))} rows): {row.get('verdict')}"),
            },
            confidenceInterval=_interval([row.get("low"), row.get("high")]),
        )
        for row in facts.rows("bias.slices")
        if row.get("rate") is not None
    ]


def _interval(value: Any) -> dict[str, str] | None:
    if not isinstance(value, list) or len(value) != 2 or None in value:
        return None
    return {"lowerBound": words(value[0]), "upperBound": words(value[1])}


def _data(facts: PaperFacts) -> list[dict[str, Any]]:
    """The training data, and the files of the hand-off that hold data."""
    listed = facts.mapping("hand_off.files")
    found = []
    if facts.at("hand_off.data") is not MISSING:
        content = _with({}, properties=_properties({"uri": facts.claim("hand_off.data.uri").value}))
        found.append(
            _with(
                {"type": "data", "bom-ref": "data:training", "name": "training spectra"},
                description=_known(facts, "hand_off.data.description"),
                hashes=_hashes(facts.claim("hand_off.data.sha256").value),
                data=[_with({"type": "dataset"}, contents=content or None, classification=_known(facts, "hand_off.data_class"))],
                properties=_properties({"spectra": facts.claim("hand_off.data.spectra").value}),
            )
        )
    for name, about in _DATA_FILES.items():
        entry = listed.get(name)
        if isinstance(entry, Mapping):
            made = {"type": "data", "bom-ref": f"data:{name}", "name": name, "description": about}
            found.append(_with(made, hashes=_hashes(entry.get("sha256")), properties=_properties({"bytes": entry.get("bytes")})))
    return found


def _software(facts: PaperFacts) -> list[dict[str, Any]]:
    """The packages of the environment that released the model; without that evidence, what the hand-off and the benchmark name."""
    packages = [row for row in facts.rows("environment.packages") if row.get("name")]
    if packages:
        return [_package(row) for row in packages]
    named = {
        "python": facts.first("backend.hardware.python", "hand_off.environment.python"),
        "torch": facts.first("backend.hardware.torch", "hand_off.environment.torch"),
    }
    return [
        {
            "type": "platform" if name == "python" else "framework",
            "bom-ref": f"software:{name}",
            "name": name,
            "version": words(claim.value),
        }
        for name, claim in named.items()
        if claim.is_known
    ]


def _package(row: Mapping[str, Any]) -> dict[str, Any]:
    record = {"sha256 of RECORD": row.get("record_sha256"), "pinned": row.get("pinned")}
    made = {"type": "library", "bom-ref": _ref(row), "name": line(str(row["name"])), "version": line(str(row.get("version", "")))}
    licence = row.get("license")
    return _with(
        made,
        licenses=[{"license": {"name": line(str(licence))}}] if licence else None,
        purl=_ref(row),
        properties=_properties({key: value for key, value in record.items() if value is not None}),
    )


def _ref(row: Mapping[str, Any]) -> str:
    return line(str(row.get("purl") or f"pkg:pypi/{row['name']}@{row.get('version', '')}"))


def _dependencies(facts: PaperFacts, model: Mapping[str, Any], components: list[dict[str, Any]]) -> list[dict[str, Any]]:
    refs = {str(row["name"]): _ref(row) for row in facts.rows("environment.packages") if row.get("name")}
    used = [refs[name] for name in (str(facts.at("environment.root")),) if name in refs]
    direct = sorted({item["bom-ref"] for item in components if not refs or item["type"] == "data"} | set(used))
    graph = [{"ref": model["bom-ref"], "dependsOn": direct}]
    for row in facts.rows("environment.packages"):
        if row.get("name"):
            needs = sorted({refs[name] for name in row.get("requires", []) if name in refs})
            graph.append(_with({"ref": refs[str(row["name"])]}, dependsOn=needs or None))
    return graph


def _references(facts: PaperFacts) -> list[dict[str, Any]]:
    kinds = {"risk": "risk-assessment", "bias": "quality-metrics", "evaluation": "quality-metrics", "sign_off": "attestation"}
    return [
        {
            "type": kinds.get(name.removeprefix("evidence/").removesuffix(".json"), "evidence"),
            "url": f"../{name}",
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }
        for name, digest in sorted(facts.digests.items())
    ]


def _hashes(value: Any) -> list[dict[str, str]] | None:
    good = isinstance(value, str) and len(value) == 64
    return [{"alg": "SHA-256", "content": value}] if good else None


def _properties(values: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": f"{_PREFIX}{line(key).replace(' ', '-')}", "value": words(value)} for key, value in values.items()]


def _known(facts: PaperFacts, path: str) -> str | None:
    claim = facts.claim(path)
    return str(claim) if claim.is_known else None


def _listed(facts: PaperFacts, path: str) -> list[str]:
    known = _known(facts, path)
    return [known] if known is not None else []


def _with(made: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return ``made`` with those of ``more`` that are something: the schema knows no null."""
    return {**made, **{key: value for key, value in more.items() if value is not None and value not in ([], {})}}
