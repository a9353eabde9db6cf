"""Which backend the model's own benchmark chooses, and which others can be had: asked once for a model and a machine, then kept."""

import json
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.subject import CACHE, Backend, Subject
from models.backend_choice import choose_backend
from models.backends import COMPILED, EAGER
from models.backends.compiling import compile_backend
from models.benchmark import BenchmarkPolicy
from models.errors import BackendUnavailable
from models.hardware import choose_device, fingerprint


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What was chosen and from what."""

    chosen: Backend
    available: tuple[Backend, ...]
    """Every backend that runs here, eager first."""
    report: dict[str, Any]
    """What models.backend_choice said."""

    @property
    def served(self) -> tuple[Backend, ...]:
        """Eager and the chosen one, each once; the chosen one last."""
        eager = next(backend for backend in self.available if backend.name == EAGER)
        return (eager,) if self.chosen.name == EAGER else (eager, self.chosen)


def choose(subject: Subject) -> Choice:
    """Return the choice of the release's own benchmark for this machine; compiling takes about a minute the first time."""
    compiled = CACHE / "compiled"
    compiled.mkdir(parents=True, exist_ok=True)
    compiled.chmod(0o700)
    machine = fingerprint(choose_device(), 1)["sha256"]
    note = CACHE / f"choice-{subject.papers.model_digest[:16]}-{machine[:16]}.json"
    if not note.exists():
        note.write_text(json.dumps(choose_backend(subject.folder, BenchmarkPolicy(), compiled=compiled).to_dict(), indent=2))
    report = json.loads(note.read_text())
    possible = [row["backend"] for row in report["backends"] if row["chosen"] or row["times_eager"] is not None]
    available = tuple(found for name in sorted(possible, key=lambda name: name != EAGER) if (found := _backend(subject, name)))
    chosen = next(backend for backend in available if backend.name == report["chosen"])
    return Choice(chosen=chosen, available=available, report=report)


def only_eager() -> Choice:
    """Return a choice without any compiling."""
    eager = Backend(name=EAGER)
    return Choice(chosen=eager, available=(eager,), report={})


def _backend(subject: Subject, name: str) -> Backend | None:
    if name not in COMPILED:
        return Backend(name=name)
    try:
        found = compile_backend(subject.papers, name, folder=CACHE / "compiled")
    except BackendUnavailable:
        return None
    return Backend(name=name, folder=CACHE / "compiled", digest=found.digest)
