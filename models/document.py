"""What handoff.yaml says, as types. ``handoff.schema.json`` says the same to other programs; a test holds the two together."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, model_validator

from models.errors import HandOffError

FORMAT = "firstlight/hand-off/v1"
DOCUMENT = "handoff.yaml"
MODEL, GOLDEN, HOLDOUT, HOLDOUT_TABLE, REFERENCE_TABLE = REQUIRED_FILES = (
    "model.pt2",
    "golden.safetensors",
    "holdout.safetensors",
    "holdout.parquet",
    "reference.parquet",
)
DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "bfloat16", "float16", "float32", "float64")
ROLES = ("score", "class_probabilities", "latent", "chi2", "reconstruction")

_TEXTS = ("bytes", "string", "str", "text", "object", "utf8", "utf-8")
TEXT_REFUSED = (
    "must be a type of numbers, found {found!r}: an exported program takes and gives tensors, and no tensor holds BYTES; "
    "encode text as rows of uint8 or int64 of a fixed length"
)

# `$` of Python also matches before a last newline, that of JSON Schema does not: the look-ahead makes them agree.
_END = r"$(?!\n)"


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 3.0 is the integer 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _listed(value: Any) -> Any:
    """A strict tuple asks for a Python tuple; documents and dumps carry lists."""
    return tuple(value) if isinstance(value, list) else value


Text = Annotated[str, Field(min_length=1, max_length=4000, pattern=r"\S")]
Name = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?" + _END)]
Identifier = Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9_]*" + _END)]
FileName = Annotated[str, Field(max_length=127, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*" + _END)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}" + _END)]
Email = Annotated[str, Field(max_length=254, pattern=r"^[^@\s]+@[^@\s]+" + _END)]
Commit = Annotated[str, Field(pattern=r"^(?:none|[0-9a-f]{7,64}(?:-dirty)?)" + _END)]
Instant = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|\+00:00)" + _END)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=10**12)]
Tolerance = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, regex_engine="python-re", allow_inf_nan=False, protected_namespaces=()
    )


class Trainer(_Part):
    """The person who trained the model and answers for it. May not sign it off (governance)."""

    name: Text
    email: Email


class Data(_Part):
    """Where the training spectra were read from, and the digest that pins them (see :func:`models.handoff.data_digest`)."""

    uri: Text
    sha256: Sha256
    spectra: Count
    description: Text


class Environment(_Part):
    """Versions the archive was made with."""

    python: Text
    torch: Text
    platform: Text


class Epsilon(_Part):
    """How far a replay may be from the golden outputs: |new - old| <= atol + rtol * |old| (numpy.isclose)."""

    rtol: Tolerance = 1e-4
    atol: Tolerance = 1e-4


def _batched(shape: tuple[int, ...]) -> tuple[int, ...]:
    if shape[0] != -1 or any(length < 1 for length in shape[1:]):
        raise ValueError("the first length must be -1 (any number of rows), the others at least 1")
    return shape


Shape = Annotated[
    tuple[Annotated[int, BeforeValidator(_whole), Field(ge=-1, le=2**31)], ...],
    BeforeValidator(_listed),
    Field(min_length=1, max_length=6),
]


def _of_numbers(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in _TEXTS:
        raise ValueError(TEXT_REFUSED.format(found=value))
    return value


Dtype = Annotated[
    Literal["bool", "uint8", "int8", "int16", "int32", "int64", "bfloat16", "float16", "float32", "float64"], BeforeValidator(_of_numbers)
]


class _Tensor(_Part):
    name: Identifier
    dtype: Dtype
    shape: Shape
    """First length -1: the number of rows is free. Other lengths are fixed."""

    @model_validator(mode="after")
    def _first_axis_is_rows(self) -> "_Tensor":
        _batched(self.shape)
        return self


class InputSpec(_Tensor):
    """One array a model takes, with the unit of its numbers."""

    unit: Text


class OutputSpec(_Tensor):
    """One array a model gives, with what its numbers mean."""

    meaning: Text


class Model(_Part):
    """The form of the model: what goes in, what comes out, and what the outputs are for."""

    file: Literal["model.pt2"]
    inputs: Annotated[tuple[InputSpec, ...], BeforeValidator(_listed), Field(min_length=1, max_length=32)]
    outputs: Annotated[tuple[OutputSpec, ...], BeforeValidator(_listed), Field(min_length=1, max_length=32)]
    epsilon: Epsilon
    classes: Annotated[tuple[Text, ...], BeforeValidator(_listed), Field(max_length=1000)] = ()
    """Names of the columns of the output in the role class_probabilities."""
    roles: dict[Literal["score", "class_probabilities", "latent", "chi2", "reconstruction"], Identifier] = Field(default_factory=dict)
    """Which output plays which part; all optional, so that other models fit."""
    score_threshold: float | None = None
    """An object is flagged as an anomaly when its score is at least this."""


class FileEntry(_Part):
    """What a file of the folder must be."""

    sha256: Sha256
    bytes: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=2**40)]


class Document(_Part):
    """The whole of handoff.yaml."""

    format: Literal["firstlight/hand-off/v1"]
    name: Name
    created: Instant
    trainer: Trainer
    purpose: Text
    not_for: Text
    data_class: Literal["Public-Internal", "Public-External", "Protected", "Secrets"]
    data: Data
    git_commit: Commit
    environment: Environment
    recipe: dict[str, JsonValue]
    metrics: dict[Text, float]
    model: Model
    files: Annotated[dict[FileName, FileEntry], Field(max_length=64)]

    @model_validator(mode="after")
    def _lists_what_every_hand_off_has(self) -> "Document":
        missing = [name for name in REQUIRED_FILES if name not in self.files]
        if missing:
            raise ValueError(f"files must list {', '.join(missing)}")
        return self


def parse_document(value: Any) -> Document:
    """Return the hand-off document that the JSON value ``value`` spells. Raises HandOffError with every fault, one per line."""
    try:
        return Document.model_validate(value)
    except ValidationError as problem:
        raise HandOffError("\n".join(faults(problem))) from None


def parse_model(value: Any) -> Model:
    """Return the model section that the JSON value ``value`` spells. Raises HandOffError with every fault, one per line."""
    try:
        return Model.model_validate(value)
    except ValidationError as problem:
        raise HandOffError("\n".join(f"model.{fault}" for fault in faults(problem))) from None


def faults(problem: ValidationError) -> list[str]:
    """Return one "field: what is wrong" per fault pydantic found."""
    return [f"{_field(error['loc'])}: {_words(dict(error))}" for error in problem.errors(include_url=False)]


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location if part != "[key]") or "the document"


def _words(error: dict[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ").replace(_END, "$")
    if error["type"] in ("missing", "value_error"):
        return message[0].lower() + message[1:]
    return f"{message[0].lower()}{message[1:]}, found {error['input']!r:.120}"
