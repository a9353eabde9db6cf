"""YAML of untrusted people, read as the JSON value it stands for and nothing more.

No tags, no anchors or aliases (a nine-line file of aliases unfolds to gigabytes), no key twice, no dates or yes/no guesses,
bounded size and depth. Numbers follow YAML 1.2, so ``1e-4`` is a number.
"""

import math
import re
from typing import Any

import yaml

from models.errors import HandOffError

MAX_BYTES = 256 * 1024
"""A hand-off document is a page of text; a larger one is something else."""
MAX_DEPTH = 16
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader (no Python objects) without the guesses of YAML 1.1."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse merge keys, keys that are no text, and keys given twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.YAMLError(f"a key must be text, found {key.value!r} in line {key.start_mark.line + 1}")
            if key.value in seen:
                raise yaml.YAMLError(f"the key {key.value!r} is given twice, the second time in line {key.start_mark.line + 1}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|)$", ["~", "n", ""]),
    ("bool", r"^(?:true|false)$", list("tf")),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", list("-+0123456789")),
    ("float", r"^[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\.(?:inf|nan))$", list("-+.0123456789")),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def parse_yaml(data: bytes, *, where: str) -> Any:
    """Return the JSON value (dict, list, str, int, finite float, bool, None) written in ``data``.

    Raises HandOffError, naming ``where``, for anything a JSON document could not say, and for documents too large or deep.
    """
    if len(data) > MAX_BYTES:
        raise HandOffError(f"{where} must be at most {MAX_BYTES} bytes, found {len(data)}: keep tables and notes in files of their own")
    try:
        text = data.decode("utf-8")
        _refuse_tricks(text)
        return _plain(_StrictLoader(text).get_single_data())
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise HandOffError(f"{where} must be plain YAML in UTF-8, found {_one_line(problem)}: mend that line") from None


def _refuse_tricks(text: str) -> None:
    """Look at the token stream before anything is built: aliases, anchors, tags, depth."""
    if _NOT_TEXT.search(text):
        raise yaml.YAMLError("control characters")
    depth = 0
    for event in yaml.parse(text, Loader=_StrictLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if trick := _trick(event, depth):
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise yaml.YAMLError(f"{trick} in line {line}")


def _trick(event: yaml.Event, depth: int) -> str:
    """Return what in one event a JSON document could not say, "" when there is nothing."""
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        return "an anchor or alias (write the value out)"
    if tag := getattr(event, "tag", None):
        return f"the tag {tag!r}"
    return f"more than {MAX_DEPTH} levels" if depth > MAX_DEPTH else ""


def _plain(value: Any) -> Any:
    """Return ``value`` when every number in it is finite, otherwise raise ValueError."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number that is NaN or infinite (leave the entry out, or write null)")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:300] or type(problem).__name__
