"""What the figures say about the targets. Pure: a report in, verdicts out; nothing here is typed by hand.

A figure is compared only with one of the same round, measured seconds apart, and what counts is the median of the rounds' ratios. Rounds beside
another load are left out where quiet ones exist; where none is quiet the answer is "cannot tell".
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.contenders import GATEWAY, MODEL, PEER
from benchmarks.serving.plan import BINARY, JSON, OTHERS_CORES, Point, point
from firstlight.verdict import Verdict, worst

Report = Mapping[str, Any]

OF_LIMIT, NEAR_PEER, BATCHING, BEST_BACKEND = 0.95, 1.0, 1.4, 1.5
ADDED_MS, GATEWAY_MS, GATEWAY_SHARE, WORKER_MB = 1.0, 0.3, 0.9, 700


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """One set-up against another at one point."""

    point: str
    against: str
    value: float
    """Median over the rounds."""
    least: float
    most: float
    rounds: int
    quiet: bool

    def __str__(self) -> str:
        spread = f" ({self.least:.2f} to {self.most:.2f})" if self.rounds > 1 else ""
        return f"{self.value:.2f}{spread}{'' if self.quiet else ' beside another load'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One target."""

    target: str
    verdict: Verdict
    found: str


def by_point(report: Report) -> dict[str, dict[str, dict[int, dict[str, Any]]]]:
    """Return the samples by point, contender and round."""
    table: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for sample in report["samples"]:
        table.setdefault(sample["point"], {}).setdefault(sample["contender"], {})[sample["round"]] = sample
    return table


def compared(
    report: Report, at: str, first: str, second: str, *, key: str = "rows_per_second", by: Callable[[float, float], float] | None = None
) -> Ratio | None:
    """Return ``first`` against ``second`` at the point ``at``: the ratio of ``key``, or ``by`` of the two; None when it was not measured."""
    table = by_point(report).get(at, {})
    ones, others = table.get(first, {}), table.get(second, {})
    pairs = [
        (ones[turn], others[turn])
        for turn in sorted(set(ones) & set(others))
        if ones[turn][key] is not None and others[turn][key] is not None and (by or others[turn][key] > 0)
    ]
    quiet = [pair for pair in pairs if all(sample["others_cores"] <= OTHERS_CORES for sample in pair)]
    values = [(by or _ratio)(one[key], other[key]) for one, other in quiet or pairs]
    if not values:
        return None
    middle = statistics.median(values)
    return Ratio(point=at, against=second, value=middle, least=min(values), most=max(values), rounds=len(values), quiet=bool(quiet))


def _ratio(one: float, other: float) -> float:
    return one / other


def best_peer(report: Report, at: str, name: str) -> Ratio | None:
    """Return ``name`` against the peer it is least ahead of at ``at``, or None when no peer was measured there."""
    found = [ratio for peer in _of_kind(report, PEER) if (ratio := compared(report, at, name, peer)) is not None]
    return min(found, key=lambda ratio: ratio.value, default=None)


def verdicts(report: Report) -> list[Outcome]:
    """Return an outcome for every target of the serving plane on this machine."""
    chosen = report["choice"]["chosen"]
    backends = list(dict.fromkeys(("eager", chosen)))
    points = [point(name) for name in report["plan"]["points"]]
    batches = [at for at in points if at.form == BINARY and at.batch >= 16]
    json = [at for at in points if at.form == JSON]
    found = []
    for backend in backends:
        ours, limit = f"ours-{backend}", f"limit-{backend}"
        title = f"batches of 16 and more, {backend}: at least {OF_LIMIT} of the in-process limit"
        found.append(_ratios(title, [compared(report, at.name, ours, limit) for at in batches], OF_LIMIT))
    found.append(_ratios("batches of 16 and more, eager: behind no peer", _peers(report, batches, "ours-eager"), NEAR_PEER))
    alone = Point(BINARY, 1, 1)
    title = f"batch 1 at concurrency 32, eager: at least {BATCHING} times the best peer"
    found.append(_ratios(title, _peers(report, [Point(BINARY, 1, 32)], "ours-eager"), BATCHING))
    for backend in backends:
        title = f"batch 1 alone, {backend}: p50 at most the in-process call + {ADDED_MS:g} ms"
        added = compared(report, alone.name, f"ours-{backend}", f"limit-{backend}", key="p50_ms", by=_difference)
        found.append(_added(title, added, ADDED_MS))
    binary = [at for at in points if at.form == BINARY]
    title = f"the chosen backend, {chosen}: at least {BEST_BACKEND} times the best peer at every point"
    found.append(_ratios(title + ", binary", _peers(report, binary, f"ours-{chosen}"), BEST_BACKEND))
    found.append(_ratios(title + ", JSON", _peers(report, json, f"ours-{chosen}"), BEST_BACKEND))
    for backend in backends:
        added = compared(report, alone.name, f"gateway-{backend}", f"ours-{backend}", key="p50_ms", by=_difference)
        found.append(_added(f"the gateway, {backend}: adds less than {GATEWAY_MS} ms to the p50 of batch 1 alone", added, GATEWAY_MS))
        sixteen = [compared(report, at.name, f"gateway-{backend}", f"ours-{backend}") for at in batches if at.batch == 16]
        found.append(_ratios(f"the gateway, {backend}: keeps {GATEWAY_SHARE} of the throughput of batches of 16", sixteen, GATEWAY_SHARE))
    return [*found, _memory(report), _drained(report), _all_answered(report)]


def _of_kind(report: Report, *kinds: str) -> list[str]:
    return [name for name, facts in report["contenders"].items() if facts["kind"] in kinds]


def _peers(report: Report, points: Sequence[Point], name: str) -> list[Ratio | None]:
    return [best_peer(report, at.name, name) for at in points]


def _difference(one: float, other: float) -> float:
    return one - other


def _ratios(target: str, ratios: Sequence[Ratio | None], least: float) -> Outcome:
    if not ratios or any(ratio is None for ratio in ratios):
        return Outcome(target=target, verdict=Verdict.CANNOT_TELL, found="not measured at every point that it asks for")
    known = [ratio for ratio in ratios if ratio is not None]
    verdict = worst(_verdict(ratio.value >= least, ratio) for ratio in known)
    return Outcome(target=target, verdict=verdict, found="; ".join(f"{_size(ratio)} {ratio}" for ratio in known))


def _added(target: str, added: Ratio | None, most: float) -> Outcome:
    if added is None:
        return Outcome(target=target, verdict=Verdict.CANNOT_TELL, found="not measured")
    spread = f" ({added.least:+.2f} to {added.most:+.2f})" if added.rounds > 1 else ""
    found = f"{added.value:+.2f} ms{spread}{'' if added.quiet else ' beside another load'}"
    return Outcome(target=target, verdict=_verdict(added.value <= most, added), found=found)


def _verdict(met: bool, ratio: Ratio) -> Verdict:
    if not ratio.quiet:
        return Verdict.CANNOT_TELL
    return Verdict.PASS if met else Verdict.FAIL


def _size(ratio: Ratio) -> str:
    size = ratio.point.partition(" ")[2]
    return size if ratio.against.startswith(("limit-", "ours-")) else f"{size} ({ratio.against})"


def _memory(report: Report) -> Outcome:
    target = f"memory after load, model servers: at most {WORKER_MB} MB a worker (PSS)"
    found = {}
    for name in _of_kind(report, MODEL):
        facts = report["contenders"][name]
        if "memory_after_load" in facts:
            found[name] = facts["memory_after_load"]["pss_mb"] / facts["workers"]
    if not found:
        return Outcome(target=target, verdict=Verdict.CANNOT_TELL, found="not measured")
    met = max(found.values()) <= WORKER_MB
    words = "; ".join(f"{name} {value:.0f}" for name, value in found.items())
    return Outcome(target=target, verdict=Verdict.PASS if met else Verdict.FAIL, found=words)


def _drained(report: Report) -> Outcome:
    target = "drain: every request in flight at SIGTERM is answered"
    facts = {name: report["contenders"][name].get("drain") for name in _of_kind(report, MODEL, GATEWAY)}
    known = {name: drain for name, drain in facts.items() if drain is not None}
    words = "; ".join(
        f"{name} {drain['answered']}/{drain['requests']}, {drain['in_flight']} were in flight" for name, drain in known.items()
    )
    if any(drain["answered"] < drain["requests"] for drain in known.values()):
        return Outcome(target=target, verdict=Verdict.FAIL, found=words)
    told = bool(known) and all(drain["in_flight"] for drain in known.values())
    return Outcome(target=target, verdict=Verdict.PASS if told else Verdict.CANNOT_TELL, found=words or "not measured")


def _all_answered(report: Report) -> Outcome:
    target = "every request to our servers was answered 200"
    names = set(_of_kind(report, MODEL, GATEWAY))
    samples = [sample for sample in report["samples"] if sample["contender"] in names]
    failed = [f"{sample['contender']} at {sample['point']} {sample['failed']}" for sample in samples if sample["failed"]]
    known = {name: report["contenders"][name] for name in sorted(names)}
    lost = [f"{name}: {facts['reason']}" for name, facts in known.items() if facts["status"] != "measured"]
    lost += [f"{name}: {problem}" for name, facts in known.items() for problem in facts.get("problems", ())]
    if failed or lost:
        return Outcome(target=target, verdict=Verdict.FAIL, found="; ".join([*failed, *lost]))
    answered = sum(sample["answered"] for sample in samples)
    return Outcome(target=target, verdict=Verdict.PASS if answered else Verdict.CANNOT_TELL, found=f"{answered} answered, none failed")
