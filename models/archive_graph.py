"""The graph inside a torch.export archive (model.json, schema 8), as far as this project understands it.

torch turns the strings of this file into code: names of nodes, inputs and outputs become Python source that is executed
(``fx`` code generation), ``guards_code`` is executed as it stands, operator targets are looked up by ``getattr``, lengths go to
``sympify``, and tree specs import modules. So every string has a pattern here, everything else is refused, and what explains but is
not needed to run (stack traces, module stacks, guards) is left out of the copy that torch gets to see.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from models.archive_expressions import SYMBOL, expression_fault
from models.archive_operators import is_known
from models.archive_tree import identifier, plain_tree

DTYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2}
"""Bytes per number of torch's scalar types 1 (uint8) to 13 (bfloat16)."""
_MAX = 2**62


def _path(name: str) -> str:
    for part in name.split("."):
        if not part.isdigit():
            identifier(part)
    return name


def _target(target: str) -> str:
    if not is_known(target):
        raise ValueError(f"must be an operator of models/archive_operators.py, found {target!r:.120}")
    return target


def _formula(text: str) -> str:
    if fault := expression_fault(text):
        raise ValueError(fault)
    return text


def _symbol(name: str) -> str:
    if not SYMBOL.fullmatch(name):
        raise ValueError(f"must be a symbol like s0, found {name!r:.40}")
    return name


Name = Annotated[str, StringConstraints(max_length=200, pattern=r"\A[A-Za-z_][A-Za-z0-9_]*\z"), AfterValidator(identifier)]
DottedName = Annotated[str, StringConstraints(max_length=500, pattern=r"\A[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\z"), AfterValidator(_path)]
Word = Annotated[str, StringConstraints(max_length=1000, pattern=r"\A[ -~]*\z")]
Target = Annotated[str, AfterValidator(_target)]
Formula = Annotated[str, AfterValidator(_formula)]
Symbol = Annotated[str, AfterValidator(_symbol)]
Int = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Length = Annotated[int, Field(ge=0, le=_MAX)]
Float = float | Literal["Infinity", "-Infinity", "NaN"]
Dtype = Annotated[int, Field(ge=1, le=13)]
LeftOut = Annotated[dict[str, Any], AfterValidator(lambda _: {})]
"""Explains the graph to people; not needed to run it, so torch never sees it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Choice(_Part):
    """One of several fields, written as the only key of an object."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "_Choice":
        if len(self.model_fields_set) != 1:
            raise ValueError(f"must have exactly one key, found {sorted(self.model_fields_set)}")
        return self


class _Device(_Part):
    type: Literal["cpu"]
    index: None = None


class _Hint(_Choice):
    as_int: Int = 0
    as_bool: bool = False
    as_float: Float = 0.0


class _Expression(_Part):
    expr_str: Formula
    hint: _Hint | None = None


class SymInt(_Choice):
    """A length: a number or a formula."""

    as_expr: _Expression | None = None
    as_int: Int = 0


class _SymFloat(_Choice):
    as_expr: _Expression | None = None
    as_float: Float = 0.0


class _SymBool(_Choice):
    as_expr: _Expression | None = None
    as_bool: bool = False


class TensorMeta(_Part):
    """Form of a tensor."""

    dtype: Dtype
    sizes: list[SymInt]
    requires_grad: bool
    device: _Device
    strides: list[SymInt]
    storage_offset: SymInt
    layout: Annotated[int, Field(ge=0, le=8)]


class _TensorName(_Part):
    name: Name


class _OptionalTensor(_Choice):
    as_tensor: _TensorName | None = None
    as_none: Any = None


class _IntName(_Choice):
    as_name: Name = ""
    as_int: Int = 0


class _FloatName(_Choice):
    as_name: Name = ""
    as_float: Float = 0.0


class _BoolName(_Choice):
    as_name: Name = ""
    as_bool: bool = False


class _Subgraph(_Part):
    name: Name
    graph: "Graph"


class Argument(_Choice):
    """What a node takes or gives. Custom objects, operators as values and complex constants are not understood here."""

    as_none: bool = True
    as_tensor: _TensorName | None = None
    as_tensors: list[_TensorName] = []
    as_int: Int = 0
    as_ints: list[Int] = []
    as_float: Float = 0.0
    as_floats: list[Float] = []
    as_string: Word = ""
    as_sym_int: _IntName | None = None
    as_sym_ints: list[_IntName] = []
    as_sym_float: _FloatName | None = None
    as_sym_floats: list[_FloatName] = []
    as_sym_bool: _BoolName | None = None
    as_sym_bools: list[_BoolName] = []
    as_bool: bool = False
    as_bools: list[bool] = []
    as_scalar_type: Dtype = 1
    as_memory_format: Annotated[int, Field(ge=0, le=8)] = 0
    as_layout: Annotated[int, Field(ge=0, le=8)] = 0
    as_device: _Device | None = None
    as_optional_tensor: _OptionalTensor | None = None
    as_optional_tensors: list[_OptionalTensor] = []
    as_graph: _Subgraph | None = None


class _Input(_Part):
    name: Literal[""] | Name
    arg: Argument
    kind: Literal[0, 1, 2] | None = None


class Node(_Part):
    """One operation."""

    target: Target
    inputs: list[_Input]
    outputs: list[Argument]
    metadata: LeftOut
    is_hop_single_tensor_return: bool | None = None
    name: Name | None = None


class Graph(_Part):
    """Operations in order, with the form of every value."""

    inputs: list[Argument]
    outputs: list[Argument]
    nodes: list[Node]
    tensor_values: dict[Name, TensorMeta]
    sym_int_values: dict[Name, SymInt]
    sym_bool_values: dict[Name, _SymBool]
    is_single_tensor_return: bool = False
    custom_obj_values: Annotated[dict[str, Any], Field(max_length=0)] = {}
    sym_float_values: dict[Name, _SymFloat] = {}


class _UserInput(_Part):
    arg: Argument


class _Parameter(_Part):
    arg: _TensorName
    parameter_name: DottedName


class _Buffer(_Part):
    arg: _TensorName
    buffer_name: DottedName
    persistent: bool


class _Constant(_Part):
    arg: _TensorName
    tensor_constant_name: DottedName


class _InputSpec(_Choice):
    user_input: _UserInput | None = None
    parameter: _Parameter | None = None
    buffer: _Buffer | None = None
    tensor_constant: _Constant | None = None


class _OutputSpec(_Choice):
    """Only what the caller gets: a model that writes into its own weights has a memory, and golden vectors mean nothing."""

    user_output: _UserInput | None = None


class _Signature(_Part):
    input_specs: list[_InputSpec]
    output_specs: list[_OutputSpec]


Tree = Annotated[str, StringConstraints(max_length=100_000), AfterValidator(plain_tree)]


class _CallSignature(_Part):
    inputs: list[Argument]
    outputs: list[Argument]
    in_spec: Tree
    out_spec: Tree
    forward_arg_names: list[Name] | None = None


class _Call(_Part):
    fqn: Literal[""]
    signature: _CallSignature


class _GraphModule(_Part):
    graph: Graph
    signature: _Signature
    module_call_graph: list[_Call]
    metadata: LeftOut = {}
    treespec_namedtuple_fields: Annotated[dict[str, Any], Field(max_length=0)] = {}


class _Range(_Part):
    min_val: Int | None
    max_val: Int | None


class _Version(_Part):
    major: Literal[8]
    minor: Annotated[int, Field(ge=0, le=999)]


class ExportedGraph(_Part):
    """The whole of model.json."""

    graph_module: _GraphModule
    opset_version: dict[Name, Int]
    range_constraints: dict[Symbol, _Range]
    schema_version: _Version
    verifiers: list[Literal["TRAINING", "ATEN", "CORE_ATEN", ""]] = []
    torch_version: Annotated[str, StringConstraints(max_length=80, pattern=r"\A[0-9A-Za-z.+_<=-]*\z")] = ""
    guards_code: Annotated[list[str], AfterValidator(lambda _: [])] = []
    """Left out: torch would execute it. :class:`models.program.Program` checks the inputs itself."""


class TensorPayload(_Part):
    """Where the numbers of a parameter, buffer or constant lie."""

    path_name: Annotated[str, StringConstraints(pattern=r"\A(weight|tensor|constant)_[0-9]{1,6}\z")]
    is_param: bool
    use_pickle: Literal[False]
    tensor_meta: TensorMeta


class Payloads(_Part):
    """A weights or constants list."""

    config: dict[DottedName, TensorPayload]


def clean_graph(value: Any) -> tuple[dict[str, Any], list[str]]:
    """Return (the graph with only what is needed to run it, []) or ({}, the reasons why it is refused)."""
    try:
        module = value["graph_module"]
        # how submodules call each other serves un-flattening only; the outermost call says how arguments are laid out
        outermost = [call for call in module["module_call_graph"] if call["fqn"] == ""]
        value = {**value, "graph_module": {**module, "module_call_graph": outermost}}
    except (KeyError, TypeError):
        return {}, ["model.json must hold an exported program with a graph module"]
    return _checked(ExportedGraph, value, "model.json")


def clean_payloads(value: Any, *, where: str) -> tuple[dict[str, Any], list[str]]:
    """Return (the list of payloads as torch will read it, []) or ({}, the reasons why it is refused)."""
    return _checked(Payloads, value, where)


def _checked(kind: type[BaseModel], value: Any, where: str) -> tuple[dict[str, Any], list[str]]:
    try:
        return kind.model_validate(value).model_dump(exclude_unset=True), []
    except ValidationError as problem:
        return {}, list(_reasons(problem, where))


def _reasons(problem: ValidationError, where: str) -> Iterator[str]:
    for error in problem.errors(include_url=False):
        place = ".".join(str(part) for part in error["loc"] if not (isinstance(part, str) and part.startswith("function-")))
        yield f"{where}: {_words(place, str(error['msg']).removeprefix('Value error, '), error['input'])}"[:400]


def _words(place: str, message: str, found: Any) -> str:
    if place.endswith("use_pickle") and found is not False:
        return f"{place} is {found!r}: the numbers would be unpickled, which runs code"
    return f"{place} {message}" + ("" if "found" in message or isinstance(found, dict | list) else f", found {found!r:.80}")
