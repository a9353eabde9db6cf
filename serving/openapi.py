"""The model server's interface as an OpenAPI document and as a page for people; both name the tensors of the model that is here. Pure."""

import html
import json
from collections.abc import Iterable, Mapping
from typing import Any

from firstlight import __version__
from serving.signature import Signature, TensorSpec
from serving.tensors import DTYPES

PAGE_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'", "x-content-type-options": "nosniff"}
"""Headers of the page: it loads nothing and runs nothing."""

_JSON = "application/json"
_OCTETS = "application/octet-stream"
_ERRORS = {
    "400": "The request is not valid: what must hold and what was found",
    "404": "Another model or version is here",
    "408": "The body came too slowly",
    "413": "The body is too large",
    "415": "The content coding is not known",
    "422": "The answer has NaN, which JSON has not; ask for binary data",
    "500": "The model failed on a valid request",
    "503": "Not ready, or too much waits; Retry-After says when to come again",
    "504": "The request's deadline passed; rows that were not begun are not computed",
}


def document(model: str, version: str, *, signature: Signature | None) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document; ``signature`` None (the model is not open) leaves the tensors general."""
    paths: dict[str, Any] = {
        "/v2": {"get": _described("Name, version and extensions of this server", "ServerMetadata")},
        "/v2/health/live": {"get": _described("Whether the process runs", "Live")},
        "/v2/health/ready": {"get": _described("Whether the model answers", "Ready", errors=("503",))},
        "/metrics": {
            "get": {"summary": "Prometheus metrics", "responses": {"200": _answer("Text format", "text/plain", {"type": "string"})}}
        },
    }
    for base in (f"/v2/models/{model}", f"/v2/models/{model}/versions/{version}"):
        paths[base] = {"get": _described("What the model takes and gives", "ModelMetadata", errors=("503",))}
        paths[f"{base}/ready"] = {"get": _described("Whether the model answers", "Ready", errors=("503",))}
        paths[f"{base}/infer"] = {"post": _inference(signature)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{model}, version {version}",
            "version": __version__,
            "description": "Open Inference Protocol V2 with the binary tensor extension, both ways.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(signature)},
    }


def page(model: str, version: str, *, signature: Signature | None) -> str:
    """Return the page."""
    described = document(model, version, signature=signature)
    rows = [
        f"<tr><td>{verb.upper()}</td><td><code>{html.escape(path)}</code></td><td>{html.escape(operation['summary'])}</td></tr>"
        for path, verbs in described["paths"].items()
        for verb, operation in verbs.items()
    ]
    example = f"curl -s localhost:PORT/v2/models/{model}/infer -d '{json.dumps(_example(signature))}'"
    return _PAGE.format(
        title=html.escape(described["info"]["title"]),
        paths="\n".join(rows),
        inputs=_table(signature.inputs if signature else ()),
        outputs=_table(signature.outputs if signature else ()),
        errors="\n".join(f"<tr><td>{code}</td><td>{html.escape(why)}</td></tr>" for code, why in _ERRORS.items()),
        example=html.escape(example),
    )


def _described(summary: str, schema: str, *, errors: tuple[str, ...] = ()) -> dict[str, Any]:
    answers = {"200": _answer("As it is", _JSON, _reference(schema))}
    return {"summary": summary, "responses": answers | {code: _error(code) for code in errors}}


def _inference(signature: Signature | None) -> dict[str, Any]:
    def header(name: str, schema: Mapping[str, Any], meaning: str) -> dict[str, Any]:
        return {"name": name, "in": "header", "required": False, "schema": dict(schema), "description": meaning}

    octets = {"type": "string", "contentMediaType": _OCTETS}
    parameters = [
        header("x-request-id", {"type": "string", "pattern": "^[!-~]{1,128}$"}, "Comes back in the answer and stands in the logs"),
        header("x-firstlight-timeout-ms", {"type": "integer", "minimum": 1, "maximum": 86400000}, "After this the answer is 504"),
    ]
    answer = {
        "description": "The outputs; with binary data, Inference-Header-Content-Length splits JSON from raw bytes",
        "content": {_JSON: {"schema": _reference("InferenceResponse")}, _OCTETS: {"schema": octets}},
    }
    return {
        "summary": "Run the model",
        "description": "JSON, or JSON followed by raw tensors: then the header Inference-Header-Content-Length gives the length of the JSON.",
        "parameters": parameters,
        "requestBody": {"required": True, "content": {_JSON: {"schema": _reference("InferenceRequest"), "example": _example(signature)}}},
        "responses": {"200": answer} | {code: _error(code) for code in _ERRORS},
    }


def _schemas(signature: Signature | None) -> dict[str, Any]:
    parameters = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 256},
            "datatype": {"enum": list(DTYPES)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 8},
            "parameters": parameters,
            "data": {"type": "array"},
        },
    }
    request_parameters = {
        "type": "object",
        "properties": {
            "binary_data_output": {"type": "boolean"},
            "timeout": {"type": "integer", "minimum": 0, "maximum": 86400000000, "description": "Microseconds; 0 is none"},
        },
    }
    outputs = {"type": "array", "minItems": 1, "items": _reference("RequestedOutput")}
    request = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "maxLength": 256},
            "parameters": request_parameters,
            "inputs": _tensors(signature.inputs if signature else ()),
            "outputs": outputs,
        },
    }
    response = {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": _reference("Tensor")},
        },
    }
    names: dict[str, Any] = {"type": "string"}
    if signature is not None:
        names = {"enum": list(signature.output_names)}
    return {
        "Tensor": tensor,
        "RequestedOutput": {"type": "object", "required": ["name"], "properties": {"name": names, "parameters": _binary_choice()}},
        "InferenceRequest": request,
        "InferenceResponse": response,
        "Error": _object(error={"type": "string"}),
        "Live": _object(live={"type": "boolean"}),
        "Ready": _object(ready={"type": "boolean"}, state={"enum": ["loading", "ready", "refused"]}),
        "ServerMetadata": _object(name={"type": "string"}, version={"type": "string"}, extensions=_list({"type": "string"})),
        "ModelMetadata": _object(
            name={"type": "string"},
            versions=_list({"type": "string"}),
            platform={"type": "string"},
            inputs=_list(_reference("TensorMetadata")),
            outputs=_list(_reference("TensorMetadata")),
        ),
        "TensorMetadata": _object(name={"type": "string"}, datatype={"enum": list(DTYPES)}, shape=_list({"type": "integer"})),
    }


def _tensors(specs: Iterable[TensorSpec]) -> dict[str, Any]:
    each = [
        {
            "allOf": [_reference("Tensor")],
            "required": ["name", "datatype", "shape", "data"],
            "properties": {
                "name": {"const": spec.name},
                "datatype": {"const": spec.kind},
                "shape": {
                    "type": "array",
                    "prefixItems": [_length(size) for size in spec.shape],
                    "minItems": len(spec.shape),
                    "items": False,
                },
                "data": {"type": "array"},
            },
        }
        for spec in specs
    ]
    if not each:
        return {"type": "array", "minItems": 1, "items": _reference("Tensor")}
    return {"type": "array", "prefixItems": each, "minItems": len(each), "items": False}


def _length(size: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 1} if size < 0 else {"const": size}


def _binary_choice() -> dict[str, Any]:
    return {"type": "object", "properties": {"binary_data": {"type": "boolean"}}}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _reference(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _answer(description: str, media: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {media: {"schema": schema}}}


def _error(code: str) -> dict[str, Any]:
    if code == "503":
        return _answer(_ERRORS[code], _JSON, {"anyOf": [_reference("Error"), _reference("Ready")]})
    return _answer(_ERRORS[code], _JSON, _reference("Error"))


def _example(signature: Signature | None) -> dict[str, Any]:
    specs = signature.inputs if signature else (TensorSpec(name="input", dtype="float32", shape=(-1, 2)),)
    return {"inputs": [{"name": spec.name, "datatype": spec.kind, "shape": [1, *spec.shape[1:]], "data": ["…"]} for spec in specs]}


def _table(specs: Iterable[TensorSpec]) -> str:
    rows = [
        f"<tr><td><code>{html.escape(spec.name)}</code></td><td>{spec.kind}</td><td>{html.escape(str(list(spec.shape)))}</td></tr>"
        for spec in specs
    ]
    return "\n".join(rows) or '<tr><td colspan="3">known when the model is open</td></tr>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2733; background: #fff }}
h1 {{ font-size: 1.5rem }} h2 {{ font-size: 1.1rem; margin-top: 2rem }} td {{ padding: .25rem 1rem .25rem 0; vertical-align: top }}
code, pre {{ font: 14px/1.5 ui-monospace, monospace }} pre {{ background: #f3f5f7; padding: 1rem; overflow-x: auto }}
</style></head><body>
<h1>{title}</h1>
<p>Open Inference Protocol V2 with the binary tensor extension; an unmodified <code>tritonclient.http</code> works.
For programs: <a href="openapi.json">openapi.json</a>.</p>
<h2>Paths</h2><table>{paths}</table>
<h2>Inputs</h2><p>-1 is any number of rows, the same in all inputs.</p><table>{inputs}</table>
<h2>Outputs</h2><table>{outputs}</table>
<h2>Example</h2><pre>{example}</pre>
<h2>Errors</h2><p>Every error is <code>{{"error": "a sentence"}}</code>.</p><table>{errors}</table>
</body></html>
"""
