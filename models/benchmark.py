"""Is the candidate fast enough, and no slower than the champion? Measured in turns, judged as a ratio.

The two versions run in processes of their own and are measured alternately, round by round, on the same rows, so that whatever
else the machine does falls on both. What is judged is the ratio of a round's two medians; the spread of that ratio over the rounds
says whether it can be judged at all. A figure is never compared with one that was measured at another time.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from firstlight.digest import finite
from firstlight.errors import RefusedError
from firstlight.verdict import Verdict, worst
from models.backends import ALL, AOT, CUDA, EAGER, ONNX
from models.contestant import Contender, Contestant, Footprint
from models.hardware import fingerprint

CANDIDATE, CHAMPION = "candidate", "champion"


class BenchmarkPolicy(BaseModel):
    """How fast is fast enough."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    device: str = Field(default="auto", pattern="^(auto|cpu|cuda)$")
    """Where versions may run: `cpu` tries no backend of a GPU, `cuda` refuses a machine without one, `auto` takes what there is."""
    backends: tuple[str, ...] = (EAGER, ONNX, AOT, CUDA)
    """Ways to run a version that are tried: eager, eager-bf16, onnx, aot, cuda, cuda-bf16. The fastest whose answers are the model's is chosen."""
    batch_weights: dict[int, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    """Batch size -> its weight in the choice, a geometric mean over the batch sizes; one that is not named weighs 1."""
    backend_gain: float = Field(default=1.05, ge=1, allow_inf_nan=False)
    """How many times as fast as eager a backend must be to be worth it: less is within what a busy machine makes of the same figure."""
    compile_seconds: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    """A backend that is not compiled by then, in seconds, is done without. The reference model takes 30 s of one core."""
    threads: int = Field(default=1, ge=1, le=256)
    """CPU threads of the model: 1, as it is served; two OpenMP threads beside another process are slower than one."""
    batches: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field(default=(1, 16, 64), min_length=1)
    """Batch sizes to measure, spectra a call."""
    rounds: int = Field(default=5, ge=3, le=100)
    """Turns of candidate and champion; the ratio has one value a round."""
    spectra_per_round: int = Field(default=64, ge=1)
    """Spectra measured per round and batch size."""
    calls_at_least: int = Field(default=3, ge=1)
    """Calls per round and batch size even where fewer would do: one interruption does not move the middle of three."""
    seconds_per_turn: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """A version that is slow makes fewer calls a turn, at least one, so that a benchmark ends."""
    latency_ratio_limit: float = Field(default=1.5, gt=0, allow_inf_nan=False)
    """Largest ratio candidate/champion of the time per call, at any batch size."""
    latency_limit_seconds: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """Largest median time of a call with one spectrum, in seconds, champion or not."""
    memory_limit_mib: float = Field(default=3000.0, gt=0, allow_inf_nan=False)
    """Largest peak memory of the process that holds the model, in MiB."""
    call_timeout_seconds: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """A version that does not answer one call for this long, in seconds, is refused."""

    @field_validator("backends")
    @classmethod
    def _known_and_eager(cls, backends: tuple[str, ...]) -> tuple[str, ...]:
        if EAGER not in backends or not set(backends) <= set(ALL) or len(set(backends)) < len(backends):
            raise ValueError(f"backends must be some of {list(ALL)}, each once, with {EAGER!r} among them, found {list(backends)}")
        return backends

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if strange := sorted(set(self.batch_weights) - set(self.batches)):
            raise ValueError(f"batch_weights must name sizes that are measured, {list(self.batches)}, found {strange}")
        if not any(self.weight(batch) for batch in self.batches):
            raise ValueError("batch_weights must leave one batch size with a weight above 0")
        if self.device == "cuda" and not any(name.startswith(CUDA) for name in self.backends):
            raise ValueError(f"device 'cuda' needs {CUDA!r} among the backends, found {list(self.backends)}")
        return self

    def weight(self, batch: int) -> float:
        """Return how much ``batch`` counts in the choice of a backend."""
        return self.batch_weights.get(batch, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One version at one batch size."""

    who: str
    batch: int
    seconds: tuple[tuple[float, ...], ...]
    """Seconds of every call, round by round."""

    @property
    def calls(self) -> list[float]:
        """Seconds of every call of every round, sorted."""
        return sorted(second for turn in self.seconds for second in turn)

    def to_dict(self) -> dict[str, Any]:
        """Figures for charts and tables; None where there was no call."""
        calls = self.calls
        median = statistics.median(calls) if calls else math.nan
        figures = {
            "who": self.who,
            "batch": self.batch,
            "calls": len(calls),
            "latency_ms_p50": 1e3 * median,
            "latency_ms_p99": 1e3 * calls[min(len(calls) - 1, int(0.99 * len(calls)))] if calls else math.nan,
            "spectra_per_second": self.batch / median if median > 0 else math.nan,
        }
        return dict(finite(figures))


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkReport:
    """Verdict and figures of one benchmark."""

    verdict: Verdict
    summary: str
    reasons: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    footprints: tuple[Footprint, ...]
    ratios: Mapping[int, float | None]
    """Batch size -> median over the rounds of candidate/champion time per call; None without a champion."""
    hardware: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "verdict": self.verdict.value,
            "summary": self.summary,
            "reasons": list(self.reasons),
            "hardware": dict(self.hardware),
            "points": [measurement.to_dict() for measurement in self.measurements],
            "footprints": [footprint.to_dict() for footprint in self.footprints],
            "ratios": {str(batch): finite(ratio) for batch, ratio in self.ratios.items()},
        }


def benchmark(
    candidate: Contender,
    champion: Contender | None,
    policy: BenchmarkPolicy,
    *,
    progress: Callable[[float], None] = lambda fraction: None,
) -> BenchmarkReport:
    """Measure two versions in turns, each as it is served, and judge the candidate.

    ``champion`` None means there is none to compare with. A version whose compiled file is not here is run eagerly, as a server would.
    Raises RefusedError when a version cannot be measured, TransientError when its process is killed from outside.
    """
    contenders = {CANDIDATE: candidate, **({} if champion is None else {CHAMPION: champion})}
    with ExitStack() as stack:
        contestants = [
            stack.enter_context(Contestant(who, contender, threads=policy.threads, timeout=policy.call_timeout_seconds))
            for who, contender in contenders.items()
        ]
        devices = [str(contestant.first_answer().get("device", "cpu")) for contestant in contestants]
        measurements = in_turns(contestants, policy, progress)
        footprints = tuple(contestant.footprint() for contestant in contestants)
    return judge(measurements, footprints, policy, fingerprint(devices[0], policy.threads))


def judge(
    measurements: Sequence[Measurement], footprints: Sequence[Footprint], policy: BenchmarkPolicy, hardware: Mapping[str, Any]
) -> BenchmarkReport:
    """Decide by the policy. Pure: the same figures give the same report."""
    found = {(item.who, item.batch): item for item in measurements}
    has_champion = CHAMPION in {*(item.who for item in measurements), *(item.who for item in footprints)}
    ratios: dict[int, float | None] = {}
    findings: list[tuple[Verdict, str]] = []
    for batch in policy.batches:
        rounds = ratios_of(found.get((CANDIDATE, batch)), found.get((CHAMPION, batch)))
        ratios[batch] = statistics.median(rounds) if rounds else None
        findings.append(_judge_ratio(batch, rounds, policy, has_champion=has_champion))
    findings += [_judge_latency(found.get((CANDIDATE, min(policy.batches))), policy), _judge_memory(footprints, policy)]
    verdict = worst(item for item, _ in findings)
    return BenchmarkReport(
        verdict=verdict,
        summary=_summary(found, ratios, policy, hardware),
        reasons=tuple(reason for item, reason in findings if item is not Verdict.PASS),
        measurements=tuple(measurements),
        footprints=tuple(footprints),
        ratios=ratios,
        hardware=hardware,
    )


def ratios_of(candidate: Measurement | None, champion: Measurement | None) -> list[float]:
    """Return candidate/champion of the time per call, for each round in which both were measured."""
    if candidate is None or champion is None:
        return []
    rounds = zip(candidate.seconds, champion.seconds, strict=False)
    pairs = [(statistics.median(ours), statistics.median(theirs)) for ours, theirs in rounds if ours and theirs]
    return [ours / theirs for ours, theirs in pairs if theirs > 0 and math.isfinite(ours / theirs)]


def _judge_ratio(batch: int, rounds: Sequence[float], policy: BenchmarkPolicy, *, has_champion: bool) -> tuple[Verdict, str]:
    """Fail when slower in the median and in three of four rounds, cannot tell when only the median says so."""
    if not has_champion:
        return Verdict.PASS, ""
    if len(rounds) < policy.rounds:
        return (
            Verdict.CANNOT_TELL,
            f"batch {batch} needs {policy.rounds} rounds of both versions, {len(rounds)} were measured; run the benchmark again",
        )
    median, limit = statistics.median(rounds), policy.latency_ratio_limit
    if median <= limit:
        return Verdict.PASS, ""
    slower = sum(ratio > limit for ratio in rounds) / len(rounds)
    sentence = f"at batch {batch} a call may take at most {limit:.2f} times the champion's, it takes {median:.2f} times ({slower:.0%} of the rounds)"
    return (Verdict.FAIL if slower >= 0.75 else Verdict.CANNOT_TELL), sentence


def _judge_latency(candidate: Measurement | None, policy: BenchmarkPolicy) -> tuple[Verdict, str]:
    calls = candidate.calls if candidate else []
    if candidate is None or not calls or not all(map(math.isfinite, calls)):
        return Verdict.CANNOT_TELL, "the candidate must be measured with the smallest batch, it was not; run the benchmark again"
    median, limit = statistics.median(calls), policy.latency_limit_seconds
    if median <= limit:
        return Verdict.PASS, ""
    return Verdict.FAIL, f"a call with a batch of {candidate.batch} may take {limit:.2f} s, it takes {median:.2f} s"


def _judge_memory(footprints: Sequence[Footprint], policy: BenchmarkPolicy) -> tuple[Verdict, str]:
    peaks = [footprint.peak_mib for footprint in footprints if footprint.who == CANDIDATE and footprint.peak_mib > 0]
    if not peaks:
        return Verdict.CANNOT_TELL, "the candidate's peak memory must be known, it is not; run the benchmark again"
    if max(peaks) <= policy.memory_limit_mib:
        return Verdict.PASS, ""
    return Verdict.FAIL, f"the model's process may use {policy.memory_limit_mib:.0f} MiB, its peak was {max(peaks):.0f} MiB"


def _summary(
    found: Mapping[tuple[str, int], Measurement], ratios: Mapping[int, float | None], policy: BenchmarkPolicy, hardware: Mapping[str, Any]
) -> str:
    figures = [found[CANDIDATE, batch].to_dict() for batch in sorted(policy.batches) if (CANDIDATE, batch) in found]
    told = [point for point in figures if point["spectra_per_second"] is not None]
    if not told:
        return "nothing was measured"
    best, first = max(told, key=lambda point: float(point["spectra_per_second"])), told[0]
    text = f"{best['spectra_per_second']:.0f} spectra/s at batch {best['batch']}"
    text += f", a batch of {first['batch']} in {first['latency_ms_p50']:.1f} ms on {hardware.get('device', '?')}"
    known = [ratio for ratio in ratios.values() if ratio is not None]
    return f"{text}; {max(known):.2f} × the champion's time per call at worst" if known else f"{text}; no champion to compare with"


def in_turns(
    contestants: Sequence[Contestant],
    policy: BenchmarkPolicy,
    progress: Callable[[float], None] = lambda fraction: None,
    *,
    refused: Callable[[str, RefusedError], None] | None = None,
) -> list[Measurement]:
    """Measure round by round; who begins changes with the round, so that coming first is nobody's advantage.

    ``refused`` is told of a contestant that fails, which then makes no further turn; None lets the error through.
    """
    taken: dict[tuple[str, int], list[tuple[float, ...]]] = {(c.who, batch): [] for batch in policy.batches for c in contestants}
    running, total = list(contestants), policy.rounds * len(policy.batches)
    for turn in range(policy.rounds):
        for place, batch in enumerate(policy.batches):
            calls = max(policy.calls_at_least, policy.spectra_per_round // batch)
            for contestant in list(running) if turn % 2 == 0 else list(reversed(running)):
                try:
                    taken[contestant.who, batch].append(contestant.measure(batch, calls=calls, seconds=policy.seconds_per_turn))
                except RefusedError as problem:
                    if refused is None:
                        raise
                    refused(contestant.who, problem)
                    running.remove(contestant)
            progress((turn * len(policy.batches) + place + 1) / total)
    return [Measurement(who=who, batch=batch, seconds=tuple(turns)) for (who, batch), turns in taken.items()]
