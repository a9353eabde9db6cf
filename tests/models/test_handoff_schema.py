"""The JSON Schema and the types are two spellings of one format: they accept and refuse the same documents."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.document import parse_document
from models.errors import HandOffError
from models.strict_yaml import parse_yaml

SCHEMA = json.loads((Path(__file__).parents[2] / "models" / "handoff.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture(scope="session")
def good(tiny_handoff: Path) -> dict[str, Any]:
    return parse_yaml((tiny_handoff / "handoff.yaml").read_bytes(), where="handoff.yaml")


def types_accept(value: Any) -> bool:
    try:
        parse_document(value)
    except HandOffError:
        return False
    return True


def test_the_schema_is_itself_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_both_accept_a_good_document(good: dict[str, Any]) -> None:
    assert VALIDATOR.is_valid(good)
    assert types_accept(good)


def at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        *parents, last = path.split("/")
        for key in parents:
            document = document[int(key) if key.isdigit() else key]
        if value is KeyError:
            del document[last]
        else:
            document[int(last) if last.isdigit() else last] = value

    return change


REFUSED = [
    *[at(field, KeyError) for field in SCHEMA["required"]],
    *[at(f"trainer/{field}", KeyError) for field in ("name", "email")],
    *[at(f"model/{field}", KeyError) for field in ("file", "inputs", "outputs", "epsilon")],
    *[at(f"files/{name}", KeyError) for name in SCHEMA["properties"]["files"]["required"]],
    at("extra", 1),
    at("model/extra", 1),
    at("format", "firstlight/hand-off/v2"),
    at("name", "Tiny"),
    at("name", "tiny\n"),
    at("name", "-tiny"),
    at("name", 7),
    at("created", "yesterday"),
    at("created", "2026-01-01T00:00:00+02:00"),
    at("purpose", "   "),
    at("purpose", None),
    at("data_class", "Top-Secret"),
    at("data/sha256", "0" * 63),
    at("data/sha256", "G" * 64),
    at("data/spectra", 0),
    at("data/spectra", True),
    at("data/spectra", 1.5),
    at("data/spectra", "40"),
    at("trainer/email", "vera"),
    at("git_commit", "HEAD"),
    at("metrics/loss", "0.5"),
    at("metrics/loss", True),
    at("model/file", "model.pkl"),
    at("model/inputs", []),
    at("model/inputs/0/dtype", "complex64"),
    at("model/inputs/0/dtype", "BYTES"),
    at("model/inputs/0/shape", []),
    at("model/inputs/0/shape", [50]),
    at("model/inputs/0/shape", [-1, -1]),
    at("model/inputs/0/shape", [-1, 0]),
    at("model/inputs/0/shape", [-1, True]),
    at("model/inputs/0/name", "2fast"),
    at("model/inputs/0/name", "a.b"),
    at("model/epsilon/rtol", -1),
    at("model/epsilon/rtol", 2),
    at("model/roles/speed", "score"),
    at("model/roles/score", 3),
    at("model/classes", "calm"),
    at("files/model.pt2/bytes", -1),
    at("files/..", {"sha256": "0" * 64, "bytes": 1}),
    at("files/a\\b", {"sha256": "0" * 64, "bytes": 1}),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_both_refuse_the_same_faults(good: dict[str, Any], number: int) -> None:
    document = copy.deepcopy(good)
    REFUSED[number](document)
    assert not VALIDATOR.is_valid(document)
    assert not types_accept(document)


ACCEPTED = [
    at("model/classes", KeyError),
    at("model/inputs/0/dtype", "bfloat16"),
    at("model/roles", {}),
    at("model/score_threshold", None),
    at("model/score_threshold", 3),
    at("model/epsilon", {}),
    at("data/spectra", 40.0),
    at("git_commit", "0123456789abcdef0123456789abcdef01234567-dirty"),
    at("created", "2026-01-01T00:00:00Z"),
    at("recipe", {"steps": [1, {"deep": None}]}),
    at("files/README.md", {"sha256": "0" * 64, "bytes": 0}),
    at("metrics", {}),
]


@pytest.mark.parametrize("number", range(len(ACCEPTED)))
def test_both_accept_the_same_freedoms(good: dict[str, Any], number: int) -> None:
    document = copy.deepcopy(good)
    ACCEPTED[number](document)
    assert [error.message for error in VALIDATOR.iter_errors(document)] == []
    parse_document(document)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *[place for key, item in inner for place in places(item, (*path, key))]]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**41)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.just("a" * 64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_both_agree_wherever_any_value_is_put(good: dict[str, Any], data: st.DataObject) -> None:
    document = copy.deepcopy(good)
    *parents, last = data.draw(st.sampled_from([place for place in places(good) if place]))
    spot: Any = document
    for key in parents:
        spot = spot[key]
    if data.draw(st.booleans()):
        spot[last] = data.draw(JSON_VALUES)
    elif isinstance(spot, dict):
        spot[data.draw(st.text(max_size=6))] = spot.pop(last)
    assert VALIDATOR.is_valid(document) == types_accept(document)
