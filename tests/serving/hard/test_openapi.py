"""The OpenAPI document against the running server: whatever fits it, or nearly fits it, gets an answer that the document names."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks as declared

_CHECKS = [
    schemathesis.checks.not_a_server_error,
    declared.status_code_conformance,
    declared.content_type_conformance,
    declared.response_schema_conformance,
]
_CASES = {"get": 2, "post": 30}


@pytest.fixture(scope="module")
def operations(house):
    """What the document says can be asked."""
    document = schemathesis.openapi.from_url(f"{house.url('model')}/openapi.json")
    return [result.ok() for result in document.get_all_operations()]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_what_the_document_allows_or_nearly_allows_is_answered_as_it_says(house, operations, mode):
    asked = 0
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.method == "get":
            continue  # nothing about it can be wrong

        @settings(max_examples=_CASES[operation.method], deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def each(case):
            nonlocal asked
            asked += 1
            answer = case.call(base_url=house.url("model"), timeout=30)
            case.validate_response(answer, checks=_CHECKS)

        each()
    assert asked >= 2 * _CASES["post"] // 3


@settings(max_examples=30, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_gateway_passes_the_same_questions_on_without_failing_on_any(house, operations, data):
    operation = data.draw(st.sampled_from([operation for operation in operations if operation.method == "post"]))
    case = data.draw(operation.as_strategy())
    answer = case.call(base_url=house.url("gateway"), timeout=30)
    assert answer.status_code < 500
    assert answer.status_code == 200 or "error" in answer.json()
