"""Small YAML and JSON documents from people we do not trust: bounded size, no aliases (YAML bombs), no key given twice."""

import json
from pathlib import Path
from typing import Any

import yaml

from firstlight.digest import regular
from firstlight.errors import RefusedError
from governance.errors import GovernanceError

SIZE_LIMIT = 1 << 20
"""Bytes; the largest approvers or scenario file we would want to read is far below it."""

DEPTH_LIMIT = 20
"""Levels of nesting in a YAML document; ours have six."""

_OPENING = (yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken, yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken)
_CLOSING = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)


def read_bounded(path: Path, error: type[GovernanceError], *, limit: int = SIZE_LIMIT) -> bytes:
    """Return the bytes of the regular file ``path``; raises ``error`` when it is missing, a link, unreadable or above ``limit`` bytes."""
    if path.is_symlink():
        raise error(f"{path} must be a file of its own, found a symbolic link: put the file itself there")
    try:
        with open(path, "rb", opener=regular) as stream:
            data = stream.read(limit + 1)
    except OSError as problem:
        raise error(f"{path} must be a readable file, found: {problem.strerror or problem}") from problem
    if len(data) > limit:
        raise error(f"{path} must be at most {limit} bytes, found more: it is not the kind of file this is")
    return data


def parse_yaml(data: bytes, where: str, error: type[RefusedError]) -> Any:
    """Return the YAML document in ``data``; raises ``error`` on bad syntax, aliases, custom tags or a key given twice."""
    try:
        text = data.decode("utf-8")
        _refuse_tricks(text, where, error)
        _refuse_doubles(yaml.compose(text, Loader=yaml.SafeLoader), where, error)
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as problem:
        first = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise error(f"{where} must be plain YAML, found: {first}") from problem


def _refuse_tricks(text: str, where: str, error: type[RefusedError]) -> None:
    """Stop at the first alias or too deep a nesting, while scanning: the scanner takes quadratic time over deep brackets."""
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken):
            raise error(f"{where} must not use YAML aliases (*name), found one: write the value out")
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > DEPTH_LIMIT:
            raise error(f"{where} must be nested at most {DEPTH_LIMIT} deep, found more: it is not the kind of file this is")


def _refuse_doubles(node: yaml.Node | None, where: str, error: type[RefusedError]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_doubles(item, where, error)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            raise error(f"{where} must give each key once, found {key.value!r} twice at line {key.start_mark.line + 1}")
        seen.add(str(key.value))
        _refuse_doubles(value, where, error)


def parse_json(data: bytes, where: str, error: type[GovernanceError]) -> Any:
    """Return the JSON document in ``data``; raises ``error`` on bad syntax, NaN, or a key given twice."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, UnicodeDecodeError, RecursionError) as problem:
        raise error(f"{where} must be JSON, found: {problem}") from problem


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is given twice")
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
