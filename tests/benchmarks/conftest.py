"""The tiny hand-off of tests/models/tiny.py (loaded by path, as its docstring says), the inputs of which are float32 too."""

import importlib.util
from pathlib import Path

import pytest

from benchmarks.serving.subject import subject

_TINY = Path(__file__).parent.parent / "models" / "tiny.py"


@pytest.fixture(scope="session")
def tiny_subject(tmp_path_factory):
    """Return the tiny hand-off as a subject of the benchmark."""
    spec = importlib.util.spec_from_file_location("tiny_of_benchmarks", _TINY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return subject(module.write_tiny_handoff(tmp_path_factory.mktemp("benchmarks") / "tiny"))
