"""How arguments and answers are nested (torch's tree specs), as far as tuples, lists and dicts with plain names go.

torch imports modules and looks up classes for other kinds (defaultdict, enum keys, named tuples), so those are refused.
"""

import json
import keyword
import re
from typing import Any


def identifier(name: str) -> str:
    """Return ``name`` when generated Python source may use it as a variable, otherwise raise ValueError."""
    if keyword.iskeyword(name) or name.startswith("__"):
        raise ValueError(f"must be a plain name, found {name!r}")
    return name


def plain_tree(text: str) -> str:
    """Return the tree spec ``text`` written anew from its understood parts. Raises ValueError when it has others."""
    try:
        protocol, tree = json.loads(text)
    except (TypeError, RecursionError):
        raise ValueError("a tree spec must be a protocol number and a tree") from None
    if protocol != 1:
        raise ValueError(f"a tree spec must be of protocol 1, found {protocol!r:.40}")
    return json.dumps([1, _branch(tree)])


def _branch(tree: Any) -> dict[str, Any]:
    """Return a tree of tuples, lists, dicts with plain names, and leaves. Other kinds import modules when torch reads them."""
    if not isinstance(tree, dict) or set(tree) != {"type", "context", "children_spec"} or not isinstance(tree["children_spec"], list):
        raise ValueError("a tree spec must have type, context and children_spec")
    children = [_branch(child) for child in tree["children_spec"]]
    if tree["type"] is None and tree["context"] is None and not children:
        return {"type": None, "context": None, "children_spec": []}
    if tree["type"] in ("builtins.tuple", "builtins.list") and tree["context"] == "null":
        return {"type": tree["type"], "context": "null", "children_spec": children}
    if tree["type"] == "builtins.dict" and isinstance(tree["context"], str):
        return {"type": "builtins.dict", "context": json.dumps(_keys(tree["context"])), "children_spec": children}
    raise ValueError(f"a tree spec must be of tuples, lists and dicts, found {tree['type']!r:.80}")


def _keys(context: str) -> list[str]:
    keys = json.loads(context)
    if not isinstance(keys, list) or not all(isinstance(key, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", key) for key in keys):
        raise ValueError(f"the keys of a tree spec must be plain names, found {context!r:.80}")
    return [identifier(key) for key in keys]
