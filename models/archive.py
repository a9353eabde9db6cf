"""Is this model.pt2 only numbers and arithmetic? Answered without torch, because torch.export.load can be made to run code.

A torch.export archive is a zip. Ways from its bytes to running code, read in torch 2.13 (``torch/export/pt2_archive/_package.py``,
``torch/_export/serde/serialize.py``, ``torch/export/_unlift.py``, ``torch/utils/_pytree.py``, ``torch/fx/graph.py``):

* pickles: payloads with ``use_pickle``, ``custom_obj_*``, ``opaque_obj_*``, sample inputs, the older ``*.pt`` files, and the whole
  archive once more as the format of torch 2.7 when a member ``version`` is there and reading fails;
* native libraries under ``data/aotinductor``;
* strings in model.json that are executed, evaluated, looked up or imported: see :mod:`models.archive_graph`.

:func:`rebuild` does not hand on the file: it writes a new one from the parts that were understood, so that nothing hidden
between two readings of a zip (Python's and torch's) can matter.
"""

import io
import json
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

from models.archive_graph import DTYPES, clean_graph, clean_payloads
from models.errors import HandOffError

MAX_BYTES = 2 << 30
MAX_MEMBERS = 10_000
MAX_JSON_BYTES = 64 << 20
_GRAPH = "models/model.json"
_CONFIGS = {"data/weights/": "data/weights/model_weights_config.json", "data/constants/": "data/constants/model_constants_config.json"}
_SAMPLES = "data/sample_inputs/model.pt"
_FIXED = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
_IGNORED = re.compile(r"\.data/(version|serialization_id)|\.format_version|\.storage_alignment")
_PAYLOAD = re.compile(r"data/(weights/weight|constants/(tensor|constant))_[0-9]{1,6}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
_SUSPECTS = (
    (re.compile(r".*(custom_obj|opaque_obj)_.*"), "is a pickled object: it runs code when it is read"),
    (re.compile(r".*data/aotinductor/.*|.*\.(so|dll|dylib|cpp|cubin|o)"), "is native code"),
    (re.compile(r".*\.(pkl|pt|pth|pickle)"), "is a pickle: it runs code when it is read"),
    (re.compile(r"(.*/)?code/.*|.*\.py"), "is program code"),
    (re.compile(r"(.*/)?version"), "selects an older format that is read with pickle"),
)


def inspect(archive: Path | str | bytes) -> list[str]:
    """Return the reasons why the model.pt2 at a path (or its bytes) is refused; [] when it is only numbers and arithmetic."""
    try:
        data = archive if isinstance(archive, bytes) else _read(Path(archive))
        return _understand(data)[1]
    except OSError as problem:
        return [f"the archive must be a readable file, found {problem.strerror!r}"]


def rebuild(data: bytes) -> bytes:
    """Return a new archive with only the understood parts of ``data``: the same bytes for the same content, without paths of the trainer.

    Raises HandOffError with the reasons of :func:`inspect`.
    """
    members, reasons = _understand(data)
    if reasons:
        more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
        raise HandOffError(f"model.pt2 is refused: {'; '.join(reasons[:3])}{more}: export it again with models.program.export")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for name, content in members.items():
            target.writestr(zipfile.ZipInfo(f"model/{name}"), content)
    return buffer.getvalue()


def _read(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _understand(data: bytes) -> tuple[dict[str, bytes], list[str]]:
    """Return (members for a new archive, []) or ({}, reasons); cheap questions first, and none after a failed one that it rests on."""
    if reasons := _not_a_zip(data):
        return {}, reasons
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source:
            if reasons := _listing_reasons(source.infolist(), len(data)):
                return {}, reasons
            members = {info.filename.partition("/")[2]: source.read(info) for info in source.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError, EOFError, struct.error) as problem:
        return {}, [f"the archive must be an undamaged zip, found {str(problem)!r:.200}"]
    return _cleaned(members)


def _not_a_zip(data: bytes) -> list[str]:
    if len(data) > MAX_BYTES:
        return [f"the archive must have at most {MAX_BYTES} bytes, found more"]
    if data[:4] == b"PK\x03\x04":
        return []
    if data[:1] == b"\x80":
        return ["the file is a pickle, not a torch.export archive: it runs code when it is read"]
    return [f"the file must be a torch.export archive (a zip), found one that starts with {data[:4]!r}"]


def _listing_reasons(infos: list[zipfile.ZipInfo], size: int) -> list[str]:
    """Judge the table of contents, before a member is read."""
    if len(infos) > MAX_MEMBERS:
        return [f"the archive must have at most {MAX_MEMBERS} members, found {len(infos)}"]
    names = [info.filename for info in infos]
    reasons = [f"member {name!r:.120} is there twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if sum(info.file_size for info in infos) > size:
        reasons.append(f"the members must be no larger together than the file of {size} bytes: this is a zip bomb")
    if len({name.partition("/")[0] for name in names}) > 1:
        reasons.append("all members must be in one folder")
    return reasons + [reason for info in infos if (reason := _member_reason(info))]


def _member_reason(info: zipfile.ZipInfo) -> str:
    name, inner = info.orig_filename, info.filename.partition("/")[2]
    if name != info.filename or not _PLAIN_NAME.fullmatch(name) or ".." in name.split("/") or "." in name.split("/"):
        return f"member {name!r:.120} must have a plain relative name"
    if info.flag_bits & 0x1:
        return f"member {name!r:.120} is encrypted"
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        return f"member {name!r:.120} is compressed; torch stores members as they are"
    if inner == _SAMPLES:
        return "" if info.file_size == 0 else "the sample inputs are a pickle: export without them"
    if inner in (_GRAPH, *_CONFIGS.values()):
        return "" if info.file_size <= MAX_JSON_BYTES else f"member {name!r} must have at most {MAX_JSON_BYTES} bytes"
    if inner in _FIXED or _IGNORED.fullmatch(inner) or _PAYLOAD.fullmatch(inner):
        return ""
    return f"member {name!r:.120} {next((words for pattern, words in _SUSPECTS if pattern.fullmatch(inner)), 'is not part of a model')}"


def _cleaned(members: dict[str, bytes]) -> tuple[dict[str, bytes], list[str]]:
    needed = (*_FIXED, _GRAPH, *_CONFIGS.values(), _SAMPLES)
    reasons = [f"member {name!r} must be there" for name in needed if name not in members]
    reasons += [
        f"{name} must be {value!r}, found {members[name]!r:.40}" for name, value in _FIXED.items() if members.get(name, value) != value
    ]
    if reasons:
        return {}, reasons
    clean: dict[str, bytes] = {".data/version": b"6\n", **_FIXED, _SAMPLES: b""}
    graph, reasons = _parsed(members[_GRAPH], _GRAPH)
    if not reasons:
        graph, reasons = clean_graph(graph)
    clean[_GRAPH] = _json(graph)
    for folder, name in _CONFIGS.items():
        config, faults = _parsed(members[name], name)
        if not faults:
            config, faults = clean_payloads(config, where=name)
        clean[name] = _json(config)
        reasons += faults or _payload_reasons(config, folder, members, clean)
    return ({}, reasons) if reasons else (clean, [])


def _payload_reasons(config: dict[str, Any], folder: str, members: dict[str, bytes], clean: dict[str, bytes]) -> list[str]:
    """Check that every tensor lies inside its member, and take those members over into ``clean``."""
    reasons = []
    for name, payload in config["config"].items():
        member = folder + payload["path_name"]
        if member not in members or not _PAYLOAD.fullmatch(member):
            reasons.append(f"the numbers of {name} must be in {member}, which is not there")
        elif reason := _misfit(payload["tensor_meta"], len(members[member])):
            reasons.append(f"the numbers of {name} in {member} {reason}")
        else:
            clean[member] = members[member]
    return reasons


def _misfit(meta: dict[str, Any], size: int) -> str:
    """Return "" when the strided tensor lies inside ``size`` bytes; torch fills an empty member with zeros of any size, so that is asked too."""
    lengths = [length.get("as_int") for length in (*meta["sizes"], *meta["strides"], meta["storage_offset"])]
    if any(length is None or length < 0 for length in lengths) or len(meta["sizes"]) != len(meta["strides"]):
        return "must have a fixed size and layout"
    sizes, strides = [length["as_int"] for length in meta["sizes"]], [length["as_int"] for length in meta["strides"]]
    if 0 in sizes:
        return ""
    if 0 in [stride for stride, length in zip(strides, sizes, strict=True) if length > 1]:
        return "must not repeat numbers (stride 0): call contiguous() before export"
    last = meta["storage_offset"]["as_int"] + sum((length - 1) * stride for length, stride in zip(sizes, strides, strict=True))
    needed = (last + 1) * DTYPES[meta["dtype"]]
    return "" if needed <= size else f"need {needed} bytes, found {size}"


def _parsed(data: bytes, name: str) -> tuple[Any, list[str]]:
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant), []
    except (ValueError, RecursionError) as problem:
        return {}, [f"{name} must be JSON, found {str(problem)!r:.120}"]


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()
