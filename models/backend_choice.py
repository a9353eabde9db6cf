"""Which way of running a version is the fastest whose answers are the model's? Tried once, on the machine that will serve it.

Every backend of the policy is made, opened in a process of its own, and asked three things: the golden vectors, further rows that eager
torch answers too (held-out ones, and rows no instrument should send: zeros, NaN, negative flux), and its time in turns with all others.
The ratio to eager is taken round by round. A backend that cannot be had, differs, fails or gains too little is left, with the reason.
"""

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.digest import finite
from firstlight.errors import RefusedError
from firstlight.verdict import Verdict
from models import golden
from models.backends import COMPILED, EAGER
from models.backends.compiling import compile_backend
from models.benchmark import BenchmarkPolicy, Measurement, in_turns, ratios_of
from models.contestant import Contender, Contestant, Footprint
from models.errors import BackendUnavailable
from models.handoff_folder import HandOff, load
from models.hardware import choose_device, fingerprint
from models.tensors import Array, read_tensors, write_tensors

_HELD_OUT_ROWS = 64


@dataclass(kw_only=True, slots=True)
class Trial:
    """One backend and what became of it."""

    backend: str
    problem: str = ""
    """Why it cannot be chosen; "" when it can."""
    digest: str | None = None
    """Of its compiled file."""
    compile_seconds: float | None = None
    """None where nothing is compiled."""
    golden_error: float | None = None
    """Largest difference to the golden outputs, over all outputs."""
    eager_error: float | None = None
    """Largest difference to eager's answers on the further rows."""
    footprint: Footprint | None = None
    measurements: list[Measurement] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendReport:
    """What was chosen, and why nothing else."""

    verdict: Verdict
    summary: str
    reasons: tuple[str, ...]
    backend: str
    digest: str | None
    rows: tuple[dict[str, Any], ...]
    """One a backend, for tables."""
    measurements: tuple[Measurement, ...]
    hardware: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        document = {
            "verdict": self.verdict.value,
            "summary": self.summary,
            "reasons": list(self.reasons),
            "chosen": self.backend,
            "digest": self.digest,
            "backends": list(self.rows),
            "points": [measurement.to_dict() for measurement in self.measurements],
            "hardware": dict(self.hardware),
        }
        return dict(finite(document))


def choose_backend(
    folder: Path, policy: BenchmarkPolicy, *, compiled: Path, progress: Callable[[float], None] = lambda fraction: None
) -> BackendReport:
    """Try every backend of the policy on the hand-off in ``folder`` and choose; compiled files are kept in ``compiled``.

    Raises RefusedError when not even eager can be measured, TransientError when a process is killed from outside.
    """
    papers = load(folder)
    trials = [_made(papers, backend, policy, compiled) for backend in sorted(policy.backends, key=lambda name: name != EAGER)]
    with ExitStack() as stack:
        contestants = _opened(papers, trials, policy, compiled, stack)
        _compare(papers, trials, contestants)
        named = {trial.backend: trial for trial in trials}
        running = [contestants[trial.backend] for trial in trials if not trial.problem]

        def refused(who: str, problem: RefusedError) -> None:
            with _charged_to(named[who]):
                raise problem

        for measurement in in_turns(running, policy, progress, refused=refused):
            named[measurement.who].measurements.append(measurement)
        for trial in trials:
            trial.footprint = None if trial.problem else contestants[trial.backend].footprint()
    return decide(trials, policy, fingerprint("cuda" if _uses_gpu(trials) else "cpu", policy.threads))


def _uses_gpu(trials: Sequence[Trial]) -> bool:
    return any(trial.backend.startswith("cuda") and not trial.problem for trial in trials)


def _made(papers: HandOff, backend: str, policy: BenchmarkPolicy, compiled: Path) -> Trial:
    trial = Trial(backend=backend)
    if backend.startswith("cuda") and choose_device(policy.device) != "cuda":
        trial.problem = "it needs a GPU that may be used, there is none"
    if backend in COMPILED:
        try:
            found = compile_backend(papers, backend, folder=compiled, seconds=policy.compile_seconds)
            trial.digest, trial.compile_seconds = found.digest, found.seconds
        except BackendUnavailable as problem:
            trial.problem = str(problem)
    return trial


def _opened(papers: HandOff, trials: Sequence[Trial], policy: BenchmarkPolicy, compiled: Path, stack: ExitStack) -> dict[str, Contestant]:
    """Start a process for each backend, all at once, then wait for each; a process that cannot is its trial's problem."""
    contestants = {}
    for trial in trials:
        if not trial.problem:
            contender = Contender(folder=papers.folder, backend=trial.backend, compiled=compiled, digest=trial.digest)
            found = Contestant(trial.backend, contender, threads=policy.threads, timeout=policy.call_timeout_seconds, strict=True)
            contestants[trial.backend] = stack.enter_context(found)
    for trial in trials:
        if trial.backend in contestants:
            with _charged_to(trial):
                said = contestants[trial.backend].first_answer()["golden"]
                trial.golden_error = max((error for error in said["worst"].values() if error is not None), default=None)
                if said["verdict"] != Verdict.PASS.value:
                    trial.problem = f"its golden vectors do not come out: {'; '.join(said['reasons'][:2])}"
    return contestants


@contextmanager
def _charged_to(trial: Trial) -> Iterator[None]:
    """What a backend is refused for becomes its trial's problem; behind eager there is nothing to fall back to, so that is raised."""
    try:
        yield
    except RefusedError as problem:
        if trial.backend == EAGER:
            raise
        trial.problem = str(problem)


def _compare(papers: HandOff, trials: Sequence[Trial], contestants: Mapping[str, Contestant]) -> None:
    """Hold every backend's answers to further rows against eager's."""
    with tempfile.TemporaryDirectory(prefix="firstlight-rows-") as scratch:
        asked, told = Path(scratch) / "rows.safetensors", Path(scratch) / "answers.safetensors"
        eager = _eager_answers(papers, contestants[EAGER], asked, told)
        for trial in trials:
            if trial.problem or trial.backend == EAGER:
                continue
            with _charged_to(trial):
                contestants[trial.backend].answer(asked, told)
                answers = read_tensors(told.read_bytes(), where=f"the answers of {trial.backend}")
                found = golden.compare(eager, answers, epsilon=papers.model.epsilon)
                trial.eager_error = max((error for error in found.worst.values() if math.isfinite(error)), default=None)
                if found.verdict is not Verdict.PASS:
                    trial.problem = f"it answers otherwise than eager: {'; '.join(found.reasons[:2])}"


def _eager_answers(papers: HandOff, eager: Contestant, asked: Path, told: Path) -> dict[str, Array]:
    """Write the rows to ask into ``asked`` and return eager's answers; a model that does not take odd rows is asked held-out ones only."""
    held_out = held_out_rows(papers)
    try:
        asked.write_bytes(write_tensors(with_odd_rows(papers, held_out)))
        eager.answer(asked, told)
    except RefusedError:
        asked.write_bytes(write_tensors(held_out))
        eager.answer(asked, told)
    return read_tensors(told.read_bytes(), where="the answers of eager")


def held_out_rows(papers: HandOff) -> dict[str, Array]:
    """Return the first held-out rows."""
    return {name: array[:_HELD_OUT_ROWS] for name, array in papers.holdout_inputs().items()}


def with_odd_rows(papers: HandOff, rows: Mapping[str, Array]) -> dict[str, Array]:
    """Return ``rows``, and after them a golden row with each real input in turn zero, NaN, half NaN and negative."""
    plain = {name: array[:1] for name, array in papers.golden()[0].items()}
    parts = [dict(rows)]
    for spec in papers.model.inputs:
        if not spec.dtype.startswith(("float", "bfloat")):
            continue
        row = plain[spec.name]
        half = np.where(np.arange(row.size).reshape(row.shape) % 2 == 0, row, np.nan).astype(row.dtype)
        parts += [{**plain, spec.name: odd} for odd in (np.zeros_like(row), np.full_like(row, np.nan), half, -row)]
    return {name: np.concatenate([part[name] for part in parts]) for name in rows}


def decide(trials: Sequence[Trial], policy: BenchmarkPolicy, hardware: Mapping[str, Any]) -> BackendReport:
    """Choose by the policy. Pure: the same trials give the same report."""
    eager = next(trial for trial in trials if trial.backend == EAGER)
    gains = {trial.backend: gain for trial in trials if not trial.problem and (gain := _gain(trial, eager, policy)) is not None}
    chosen = max(gains, key=lambda name: gains[name], default=EAGER)
    if gains.get(chosen, 0.0) < policy.backend_gain:
        chosen = EAGER
    reasons = {trial.backend: _reason(trial, gains, chosen, policy) for trial in trials}
    rows = tuple(_row(trial, gains, chosen=trial.backend == chosen, reason=reasons[trial.backend]) for trial in trials)
    others = "; ".join(f"{name} {gain:.2f} ×" for name, gain in gains.items() if name not in (chosen, EAGER))
    summary = f"{chosen}, {gains.get(chosen, math.nan):.2f} × as fast as eager" if chosen != EAGER else "eager"
    return BackendReport(
        verdict=Verdict.FAIL if eager.problem else Verdict.PASS,
        summary=summary + (f" ({others})" if others else "; no other gains enough"),
        reasons=tuple(f"{name}: {reason}" for name, reason in reasons.items() if reason),
        backend=chosen,
        digest=next(trial.digest for trial in trials if trial.backend == chosen),
        rows=rows,
        measurements=tuple(measurement for trial in trials for measurement in trial.measurements),
        hardware=hardware,
    )


def _gain(trial: Trial, eager: Trial, policy: BenchmarkPolicy) -> float | None:
    """Return how many times as fast as eager it is: a geometric mean over the batch sizes; None when one was not measured."""
    total = weights = 0.0
    ours = {measurement.batch: measurement for measurement in trial.measurements}
    theirs = {measurement.batch: measurement for measurement in eager.measurements}
    for batch in policy.batches:
        ratios = ratios_of(theirs.get(batch), ours.get(batch))
        if not ratios or min(ratios) <= 0:
            return None
        total += policy.weight(batch) * math.log(statistics.median(ratios))
        weights += policy.weight(batch)
    return math.exp(total / weights)


def _reason(trial: Trial, gains: Mapping[str, float], chosen: str, policy: BenchmarkPolicy) -> str:
    """Return why a backend was not chosen; "" for the one that was."""
    if trial.problem:
        return trial.problem
    if trial.backend == chosen:
        return ""
    if trial.backend not in gains:
        return "it was not measured at every batch size"
    gain, best = gains[trial.backend], gains[chosen]
    if trial.backend != EAGER and gain < policy.backend_gain:
        return f"{gain:.2f} × as fast as eager, {policy.backend_gain:.2f} × is the least that is worth it"
    return f"{gain:.2f} × as fast as eager, {chosen} reaches {best:.2f} ×"


def _row(trial: Trial, gains: Mapping[str, float], *, chosen: bool, reason: str) -> dict[str, Any]:
    figures = {measurement.batch: measurement.to_dict()["spectra_per_second"] for measurement in trial.measurements}
    prints = trial.footprint
    return {
        "backend": trial.backend,
        "chosen": chosen,
        "times_eager": gains.get(trial.backend),
        **{f"spectra_per_second_{batch}": figure for batch, figure in sorted(figures.items())},
        "golden_error": trial.golden_error,
        "eager_error": trial.eager_error,
        "compile_seconds": trial.compile_seconds,
        "first_answer_seconds": prints.first_answer_seconds if prints else None,
        "peak_mib": prints.peak_mib if prints else None,
        "why_not": reason,
    }
