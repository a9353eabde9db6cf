"""Lengths written as formulas. torch gives them to ``sympy.sympify``, which is Python's ``eval``: so only arithmetic may pass.

The text is parsed to a syntax tree, which runs nothing, and every node of the tree must be on a short list.
"""

import ast
import re

MAX_LENGTH = 2000
SYMBOL = re.compile(r"[suz][0-9]{1,6}|z?[fu]f?[0-9]{1,6}")
"""Names torch gives to unknown lengths: s0, s31, u3, zuf0 ..."""
_ARITHMETIC = """
Symbol Integer Float Rational Add Mul Max Min Abs Mod PythonMod FloorDiv CleanDiv CeilDiv ModularIndexing Where Identity floor ceiling
CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt ToFloat IntTrueDiv FloatTrueDiv Eq Ne Lt Le Gt Ge Equality Unequality
StrictLessThan LessThan StrictGreaterThan GreaterThan And Or Not IsNonOverlappingAndDenseIndicator
"""
_FUNCTIONS = frozenset(_ARITHMETIC.split())
_ASSUMPTIONS = frozenset(
    ["integer", "positive", "nonnegative", "nonzero", "real", "finite", "extended_real", "zero", "negative", "evaluate"]
)
_PLAIN_NODES = (
    ast.Expression
    | ast.BinOp
    | ast.UnaryOp
    | ast.BoolOp
    | ast.Compare
    | ast.Load
    | ast.keyword
    | ast.operator
    | ast.unaryop
    | ast.boolop
    | ast.cmpop
)
_FORBIDDEN = ast.Pow | ast.LShift | ast.RShift | ast.MatMult | ast.In | ast.NotIn | ast.Is | ast.IsNot


def expression_fault(text: str) -> str:
    """Return "" when ``text`` is arithmetic on lengths, otherwise what is in it that may not be.

    >>> expression_fault("Symbol('s31', positive=True, integer=True)"), expression_fault("2*s0 + 1")
    ('', '')
    >>> expression_fault("s0.__class__")
    "the expression holds Attribute: 's0.__class__'"
    """
    if len(text) > MAX_LENGTH:
        return f"an expression has {len(text)} characters, at most {MAX_LENGTH} are read"
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return f"an expression is no arithmetic: {text[:80]!r}"
    unwelcome = next((found for node in ast.walk(tree) if (found := _unwelcome(node))), "")
    return f"the expression holds {unwelcome}: {text[:80]!r}" if unwelcome else ""


def _unwelcome(node: ast.AST) -> str:
    """Return what is wrong with one node: its kind, name or value; "" when it is welcome. Its children are asked on their own."""
    if isinstance(node, _FORBIDDEN):
        return type(node).__name__
    if isinstance(node, ast.Call):
        return _unwelcome_call(node)
    if isinstance(node, ast.Name):
        return "" if node.id in _FUNCTIONS or SYMBOL.fullmatch(node.id) else f"the name {node.id}"
    if isinstance(node, ast.Constant):
        return _unwelcome_constant(node.value)
    return "" if isinstance(node, _PLAIN_NODES) else type(node).__name__


def _unwelcome_call(node: ast.Call) -> str:
    if not isinstance(node.func, ast.Name):
        return type(node.func).__name__
    if node.func.id not in _FUNCTIONS:
        return f"a call of {node.func.id}"
    strange = [
        str(keyword.arg) for keyword in node.keywords if keyword.arg not in _ASSUMPTIONS or not isinstance(keyword.value, ast.Constant)
    ]
    return f"the argument {strange[0]}" if strange else ""


def _unwelcome_constant(value: object) -> str:
    if isinstance(value, str):  # sympify parses text inside Integer('...') again: only names of lengths may be text
        return "" if SYMBOL.fullmatch(value) else f"the text {value!r}"
    if isinstance(value, bool | float):
        return ""
    return "" if isinstance(value, int) and abs(value) < 2**63 else f"the value {value!r:.40}"
