"""The codec: what Triton's documents say, and that no bytes whatever raise anything but ProtocolError."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving import protocol, tensors
from serving.errors import ProtocolError
from serving.protocol import HEADER_LENGTH, InferenceRequest, InferenceResponse, RequestedOutput

FLUX = np.arange(6, dtype=np.float32).reshape(2, 3)


def tensor(**changes):
    return {"name": "flux", "datatype": "FP32", "shape": [2, 3], "data": [0, 1, 2, 3, 4, 5], **changes}


def decode(envelope, raw=None):
    head = json.dumps(envelope).encode()
    if raw is None:
        return protocol.decode_request(head)
    return protocol.decode_request(head + raw, header_length=str(len(head)))


def test_the_example_of_the_binary_extension_document_is_read():
    # Given the request printed in Triton's extension_binary_data.md: a raw UINT32 tensor, a JSON one, a raw INT8 one
    envelope = {
        "model_name": "mymodel",
        "inputs": [
            {"name": "input0", "shape": [2, 2], "datatype": "UINT32", "parameters": {"binary_data_size": 16}},
            {"name": "input1", "shape": [3], "datatype": "BOOL", "parameters": {"binary_data_size": 3}},
        ],
        "outputs": [{"name": "output0", "parameters": {"binary_data": True}}, {"name": "output1"}],
    }
    raw = bytes.fromhex("01000000 02000000 03000000 04000000 01 00 01".replace(" ", ""))
    # When it is decoded
    request = decode(envelope, raw)
    # Then values, shapes and the wish for binary answers are as the document says
    assert request.inputs["input0"].tolist() == [[1, 2], [3, 4]]
    assert request.inputs["input1"].tolist() == [True, False, True]
    assert request.outputs == (RequestedOutput(name="output0", binary=True), RequestedOutput(name="output1", binary=False))


def test_binary_tensors_are_views_on_the_body_and_not_copies():
    message = protocol.encode_request(InferenceRequest(inputs={"flux": FLUX}))
    body = bytearray(message.body)
    request = protocol.decode_request(memoryview(body), header_length=message.headers[HEADER_LENGTH])
    body[-4:] = np.float32(99).tobytes()
    assert request.inputs["flux"][1, 2] == 99


def test_json_data_may_be_flat_or_nested():
    flat, nested = decode({"inputs": [tensor()]}), decode({"inputs": [tensor(data=[[0, 1, 2], [3, 4, 5]])]})
    np.testing.assert_array_equal(flat.inputs["flux"], FLUX)
    np.testing.assert_array_equal(nested.inputs["flux"], FLUX)


def test_texts_and_bytes_come_back_as_they_were_sent_json_or_raw():
    words = np.array([["Å".encode(), b""], [b"desi", b"long" * 100]], dtype=object)
    for binary in (True, False):
        message = protocol.encode_request(InferenceRequest(inputs={"word": words}), binary=binary)
        back = protocol.decode_request(message.body, header_length=message.headers.get(HEADER_LENGTH))
        assert (back.kinds, back.inputs["word"].tolist()) == ({"word": "BYTES"}, words.tolist())
    raw = {"name": "word", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}
    for bad in (b"\x03\0\0\0ab", b"\x01\0\0\0ab", b"\xff\xff\xff\xffab"):
        with pytest.raises(ProtocolError, match="word"):
            decode({"inputs": [raw]}, raw=bad)
    with pytest.raises(ProtocolError, match="takes 1000 elements"):
        decode({"inputs": [{**raw, "shape": [1000]}]}, raw=b"\0" * 6)


def test_bytes_that_are_no_text_can_only_be_sent_raw():
    response = InferenceResponse(model="m", version="1", outputs={"word": np.array([b"\xff"], dtype=object)})
    assert protocol.encode_response(response, binary={"word": True}).body.endswith(b"\x01\0\0\0\xff")
    with pytest.raises(ProtocolError, match="binary"):
        protocol.encode_response(response, binary={"word": False})


def test_bfloat16_travels_in_two_bytes_and_only_raw():
    values = np.array([1.0, -2.5, 3.0e38], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    entry = {"name": "x", "datatype": "BF16", "shape": [3], "parameters": {"binary_data_size": 6}}
    request = decode({"inputs": [entry]}, raw=halves)
    assert (request.kinds["x"], request.inputs["x"].dtype) == ("BF16", np.float32)
    np.testing.assert_allclose(request.inputs["x"], values, rtol=2**-7)
    response = InferenceResponse(model="m", version="1", outputs=request.inputs)
    assert protocol.encode_response(response, binary={"x": True}, kinds={"x": "BF16"}).body.endswith(halves)
    with pytest.raises(ProtocolError, match="BF16 must be sent as binary"):
        decode({"inputs": [{"name": "x", "datatype": "BF16", "shape": [1], "data": [1]}]})


def test_a_timeout_in_microseconds_is_read_and_foreign_wishes_are_refused():
    assert decode({"inputs": [tensor()], "parameters": {"timeout": 250_000}}).timeout == 0.25
    assert decode({"inputs": [tensor()], "parameters": {"timeout": 0}}).timeout is None
    for timeout in (-1, 0.5, "1", True, 10**15):
        with pytest.raises(ProtocolError, match="timeout"):
            decode({"inputs": [tensor()], "parameters": {"timeout": timeout}})
    for foreign in ({"classification": 3}, {"shared_memory_region": "r"}):
        with pytest.raises(ProtocolError, match="does not offer"):
            decode({"inputs": [tensor()], "outputs": [{"name": "out", "parameters": foreign}]})


BAD_MESSAGES = {
    "not-json": (b"{", None, "JSON object"),
    "not-an-object": (b"[]", None, "JSON object"),
    "not-utf8": (b'{"inputs": "\xff"}', None, "JSON object"),
    "deep-nesting": (b'{"inputs":' + b"[" * 100_000, None, "JSON object"),
    "header-length-beyond-body": (b"{}", "3", "must not exceed the body of 2 bytes"),
    "header-length-negative": (b"{}", "-1", "number of bytes"),
    "header-length-in-other-digits": (b"{}", "\u0663", "number of bytes"),
    "duplicate-key": (b'{"inputs":[],"inputs":[]}', None, "one twice"),
    "nan": (b'{"inputs":[{"name":"a","datatype":"FP32","shape":[1],"data":[NaN]}]}', None, "finite"),
    "trailing-bytes": (b'{"inputs":[{"name":"a","datatype":"FP32","shape":[1],"data":[1]}]}xx', "66", "belong to tensors"),
}


@pytest.mark.parametrize(("body", "header", "sentence"), BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
def test_a_message_that_is_not_the_protocol_is_refused_with_the_reason(body, header, sentence):
    with pytest.raises(ProtocolError, match=sentence):
        protocol.decode_request(body, header_length=header)


BAD_TENSORS = {
    "no-name": ({"name": ""}, "'name'"),
    "foreign-datatype": ({"datatype": "FLOAT"}, "datatype"),
    "unhashable-datatype": ({"datatype": []}, "datatype"),
    "negative-shape": ({"shape": [-1, 3]}, "shape"),
    "boolean-shape": ({"shape": [True, 3]}, "shape"),
    "huge-shape": ({"shape": [2**31 - 1] * 8}, "takes"),
    "too-few-values": ({"data": [1, 2]}, "takes 6 values, got 2"),
    "ragged": ({"data": [[1, 2, 3], [4]]}, "ragged"),
    "transposed": ({"data": [[1, 2], [3, 4], [5, 6]]}, "like its shape"),
    "text": ({"data": ["1"] * 6}, "only numbers"),
    "null": ({"data": [None] * 6}, "only numbers"),
    "out-of-float-range": ({"data": [1e39] + [0] * 5}, "range of FP32"),
    "overflowing-json": ({"data": [1.5e999] + [0] * 5}, "finite|range"),
    "fraction-for-integer": ({"datatype": "INT32", "data": [0.5] * 6}, "fit INT32"),
    "out-of-integer-range": ({"datatype": "UINT8", "data": [256] * 6}, "range of UINT8"),
    "number-for-boolean": ({"datatype": "BOOL"}, "fit BOOL"),
    "huge-integer": ({"datatype": "INT64", "data": [10**30] * 6}, "only numbers"),
    "size-without-header": ({"data": None, "parameters": {"binary_data_size": 24}}, "header"),
    "size-of-wrong-type": ({"parameters": {"binary_data_size": "24"}}, "number of bytes"),
    "parameters-not-an-object": ({"parameters": []}, "object"),
}


@pytest.mark.parametrize(("changes", "sentence"), BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_a_tensor_that_does_not_fit_is_refused_with_the_reason(changes, sentence):
    with pytest.raises(ProtocolError, match=sentence):
        decode({"inputs": [tensor(**changes)]})


def test_wide_unsigned_integers_in_json_are_not_rounded():
    values = [0, 2**63, 2**64 - 1]
    wide = decode({"inputs": [tensor(datatype="UINT64", shape=[3], data=values)]})
    assert wide.inputs["flux"].tolist() == values
    with pytest.raises(ProtocolError, match="fit UINT64"):
        decode({"inputs": [tensor(datatype="UINT64", shape=[2], data=[0.5, 2**63])]})


def test_duplicate_names_and_wrong_binary_lengths_are_refused():
    binary = {"name": "flux", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}}
    with pytest.raises(ProtocolError, match="twice"):
        decode({"inputs": [tensor(), tensor()]})
    with pytest.raises(ProtocolError, match="20 left"):
        decode({"inputs": [binary]}, raw=b"\0" * 20)
    with pytest.raises(ProtocolError, match="takes 24 bytes, got 20"):
        decode({"inputs": [{**binary, "parameters": {"binary_data_size": 20}}]}, raw=b"\0" * 20)
    with pytest.raises(ProtocolError, match="bytes 0 and 1, got 2"):
        decode({"inputs": [{"name": "m", "datatype": "BOOL", "shape": [1], "parameters": {"binary_data_size": 1}}]}, raw=b"\2")


def test_nan_in_an_output_cannot_go_as_json_but_can_go_raw():
    response = InferenceResponse(model="m", version="1", outputs={"chi2": np.array([1, np.nan], dtype=np.float32)})
    with pytest.raises(ProtocolError, match="'chi2' is not finite in row 1"):
        protocol.encode_response(response, binary={"chi2": False})
    message = protocol.encode_response(response, binary={"chi2": True})
    decoded = protocol.decode_response(message.body, header_length=message.headers[HEADER_LENGTH])
    assert np.isnan(decoded.outputs["chi2"][1])


def test_outputs_are_selected_as_asked_and_unknown_ones_refused():
    everything = InferenceRequest(inputs={"flux": FLUX}, binary=True)
    one = InferenceRequest(inputs={"flux": FLUX}, outputs=(RequestedOutput(name="b", binary=False),))
    assert protocol.select_outputs(everything, available=["a", "b"]) == {"a": True, "b": True}
    assert protocol.select_outputs(one, available=["a", "b"]) == {"b": False}
    with pytest.raises(ProtocolError, match="among a, got 'b'"):
        protocol.select_outputs(one, available=["a"])


arrays = st.sampled_from(sorted({dtype for dtype in tensors.DTYPES.values() if dtype.kind != "O"}, key=str)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4), elements=finite_elements(dtype))
)


def finite_elements(dtype):
    options = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    return hnp.from_dtype(dtype, **options)


@settings(max_examples=150, deadline=None, database=None)
@given(inputs=st.dictionaries(st.text("abc", min_size=1, max_size=3), arrays, min_size=1, max_size=3), binary=st.booleans())
def test_every_tensor_comes_back_as_it_was_sent_json_or_raw(inputs, binary):
    message = protocol.encode_request(InferenceRequest(inputs=inputs, id="7"), binary=binary)
    back = protocol.decode_request(message.body, header_length=message.headers.get(HEADER_LENGTH))
    assert back.id == "7"
    assert list(back.inputs) == list(inputs)
    for name, array in inputs.items():
        assert back.inputs[name].dtype == array.dtype
        np.testing.assert_array_equal(back.inputs[name], array)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
almost_tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["a", "b", ""]) | json_values,
        "datatype": st.sampled_from(sorted(tensors.DTYPES)) | json_values,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | json_values,
        "data": st.lists(st.integers(-300, 300) | st.floats() | st.booleans(), max_size=6) | json_values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 20) | json_values}) | json_values,
    },
)
almost_messages = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(almost_tensors, max_size=3) | json_values,
        "outputs": json_values,
        "parameters": json_values,
        "id": json_values,
    },
)


@settings(max_examples=400, deadline=None, database=None)
@given(message=almost_messages, raw=st.binary(max_size=40), shift=st.integers(-3, 3), header=st.booleans())
def test_nearly_valid_messages_raise_protocol_errors_only(message, raw, shift, header):
    head = json.dumps(message).encode()
    try:
        request = protocol.decode_request(head + raw, header_length=str(max(0, len(head) + shift)) if header else None)
    except ProtocolError:
        return
    assert request.inputs


@settings(max_examples=200, deadline=None, database=None)
@given(body=st.binary(max_size=200), header=st.none() | st.text(max_size=6))
def test_arbitrary_bytes_raise_protocol_errors_only(body, header):
    for decode_any in (protocol.decode_request, protocol.decode_response):
        with pytest.raises(ProtocolError):
            decode_any(body, header_length=header)
