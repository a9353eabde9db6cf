"""The structure as decided: names that do not shadow anything, entrypoints that load, short modules, nothing that runs foreign code."""

import ast
import importlib
import importlib.metadata
from pathlib import Path

import prefect
import pytest
import yaml

ROOT = Path(__file__).parent.parent
ROOMS = ("expectations", "firstlight", "flows", "governance", "models", "monitoring", "rollout", "serving", "spectra", "tasks")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "base_utils"}
LONGEST_MODULE = 400
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_IMPORTS = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def test_no_flow_file_shadows_a_package() -> None:
    """A file in flows/ named like a package would be imported instead of it, were it ever loaded as a file."""
    flows = {path.stem for path in (ROOT / "flows").glob("*.py")} - {"__init__"}
    installed = set(importlib.metadata.packages_distributions())
    assert flows
    assert not flows & (set(ROOMS) | installed)


def test_our_top_level_names_belong_to_nobody_else() -> None:
    owners = importlib.metadata.packages_distributions()
    assert {room: set(owners.get(room, [])) - {"firstlight"} for room in ROOMS} == {room: set() for room in ROOMS}


def test_every_deployment_names_a_flow_by_module() -> None:
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert len(declared) == 6
    for deployment in declared:
        assert ".py:" not in deployment["entrypoint"]
        module, _, name = deployment["entrypoint"].rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), prefect.Flow)


def test_the_command_line_starts_the_deployments_that_are_declared() -> None:
    from flows import runs

    declared = {
        (d["entrypoint"].rpartition(".")[2].replace("_", "-"), d["name"])
        for d in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    }
    assert declared == {runs.RELEASE, runs.PREPARE, runs.DRIFT, runs.DRILL, runs.REASSESS, runs.ANCHOR}


def test_the_event_that_is_emitted_is_the_event_that_is_awaited() -> None:
    from tasks.registering import REGISTERED

    triggers = [t for d in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"] for t in d.get("triggers", [])]
    assert [trigger["expect"] for trigger in triggers] == [[REGISTERED]]


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_what_it_answers(room: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))
    assert docstring is not None
    assert len(docstring) > 60


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_has_a_noun_and_runs_nothing_foreign(path: Path) -> None:
    text = path.read_text()
    assert path.stem not in SAYS_NOTHING
    assert text.count("\n") <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        assert not _is_forbidden(node), f"{path}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)}"


def _is_forbidden(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in FORBIDDEN_IMPORTS for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in FORBIDDEN_IMPORTS
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    runs_a_shell = any(keyword.arg == "shell" and ast.unparse(keyword.value) != "False" for keyword in node.keywords)
    unpickles = called in ("torch.load", "yaml.load") or any(
        k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords
    )
    return called in FORBIDDEN_CALLS or runs_a_shell or unpickles


def test_the_check_for_foreign_code_sees_it() -> None:
    bad = [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "subprocess.run('x', shell=True)",
        "torch.load(f)",
        "np.load(f, allow_pickle=True)",
    ]
    for line in bad:
        assert any(_is_forbidden(node) for node in ast.walk(ast.parse(line))), line
