"""docs/benchmarks.md from a report. Every number and every verdict on the page is computed here; nothing is typed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.chart import draw, speed
from benchmarks.serving.contenders import PEER
from benchmarks.serving.plan import BINARY, JSON, OTHERS_CORES, point
from benchmarks.serving.subject import HERE
from benchmarks.serving.verdicts import Outcome, Report, compared, verdicts

DOCS = HERE.parent.parent / "docs"


def publish(report: Report, *, name: str, docs: Path = DOCS) -> tuple[Path, Path]:
    """Write the page and its chart into ``docs``; ``name`` is the report's file. Return both paths."""
    picture = docs / "pictures" / "serving-throughput.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(report, picture)
    page = docs / "benchmarks.md"
    page.write_text(render(report, name=name))
    return page, picture


def render(report: Report, *, name: str) -> str:
    """Return the page."""
    parts = [_head(report, name), _targets(report), _throughput(report), _of_limit(report), _latency(report), _json(report)]
    parts += [_processor(report), _explained(report), _life(report), _in_process(report), _gpu(report), _how(report), _left_out(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(report: Report, name: str) -> str:
    machine, model = report["machine"], report["model"]
    row_bytes = [4 * sum(_size(shape) for shape in shapes.values()) for shapes in (model["inputs"], model["outputs"])]
    return f"""# Serving, measured against others

<!-- made by `python -m benchmarks.serving page`: change benchmarks/serving/page.py, not this file -->

One model, one load generator, one machine, everybody in turns. This page is made from `benchmarks/results/{name}` by
`python -m benchmarks.serving page`; no number on it is typed.

| | |
|---|---|
| machine | {machine["processor"]}, {machine["cores_used"]} cores, {machine["memory_gib"]} GiB; {machine["system"]} |
| software | Python {machine["python"]}, torch {machine["torch"]}; {machine["accelerator"] or "no GPU"} |
| model | `{model["name"]}` {model["digest"][:12]}: {row_bytes[0] / 1e3:.0f} kB in and {row_bytes[1] / 1e3:.0f} kB out for a spectrum, all outputs asked for |
| run | {report["date"]}, {report["plan"]["rounds"]} rounds, {report["seconds"] / 60:.0f} minutes: `{report["command"]}` |
| backend chosen by the version's own benchmark | {report["choice"]["chosen"]} |"""


def _targets(report: Report) -> str:
    rows = [_outcome(outcome) for outcome in verdicts(report)]
    text = """## Targets

Ratios are medians over the rounds of figures taken seconds apart, with the smallest and the largest round in brackets. The limit is the same backend
with the same number of workers in memory, without any server (see "How it was measured")."""
    return text + "\n\n" + _table(["target", "verdict", "found"], rows)


def _outcome(outcome: Outcome) -> list[str]:
    return [outcome.target, f"**{outcome.verdict.value}**", outcome.found]


def _throughput(report: Report) -> str:
    text = """## Throughput

Spectra per second, median of the rounds, binary bodies. Columns: spectra in a request x requests under way.

![Throughput of our servers and the peers at every point](pictures/serving-throughput.svg)"""
    return text + "\n\n" + _by_point(report, BINARY, lambda name, at: _number(speed(report, at, name)), limits=True)


def _of_limit(report: Report) -> str:
    def cell(name: str, at: str) -> str:
        backend = report["contenders"][name]["backend"]
        ratio = compared(report, at, name, f"limit-{backend}")
        return "-" if ratio is None else f"{ratio.value:.2f}"

    text = """## Share of the in-process limit of its own backend

Above 1 at batch 1: requests that wait are answered together, which the limit does not do."""
    return text + "\n\n" + _by_point(report, BINARY, cell, limits=False)


def _latency(report: Report) -> str:
    def cell(name: str, at: str) -> str:
        found = [speed(report, at, name, key) for key in ("p50_ms", "p99_ms")]
        return (
            "-" if None in found else " / ".join(f"{value:.1f}" if value < 100 else f"{value:.0f}" for value in found if value is not None)
        )

    text = "## Latency\n\np50 / p99 in milliseconds, binary bodies. At 256 spectra a round holds few requests: read its p99 as a maximum."
    return text + "\n\n" + _by_point(report, BINARY, cell, limits=True)


def _processor(report: Report) -> str:
    def cell(name: str, at: str) -> str:
        value = speed(report, at, name, "cpu_ms_per_row")
        return "-" if value is None else f"{value:.2f}"

    text = "## Processor time\n\nMilliseconds a spectrum, all processes of a server together, binary bodies."
    return text + "\n\n" + _by_point(report, BINARY, cell, limits=True)


def _json(report: Report) -> str:
    if not any(point(at).form == JSON for at in report["plan"]["points"]):
        return ""
    text = """## JSON

Spectra per second. Our client sends the shortest decimals that give the same float32, about half of what Python's own encoder would."""
    return text + "\n\n" + _by_point(report, JSON, lambda name, at: _number(speed(report, at, name)), limits=False)


def _explained(report: Report) -> str:
    """Where the time goes: processor time per spectrum in the server, in the model alone, and in the load generator."""
    rows = []
    cores = report["machine"]["cores_used"]
    for name, facts in _measured(report).items():
        if facts["kind"] == PEER:
            continue
        limit = f"limit-{facts['backend']}"
        for at in (at for at in report["plan"]["points"] if point(at).form == BINARY):
            served, alone = speed(report, at, name, "cpu_ms_per_row"), speed(report, at, limit, "cpu_ms_per_row")
            client, share = speed(report, at, name, "client_cores"), compared(report, at, name, limit)
            if served is None or alone is None or client is None or share is None:
                continue
            fair = share.value / max(0.05, 1 - client / cores)
            rows.append([facts["title"], at.removeprefix("binary "), *(f"{value:.3f}" for value in (served, alone, served - alone))])
            rows[-1] += [f"{client:.2f}", f"{share.value:.2f}", f"{fair:.2f}" if point(at).concurrency >= cores else "-"]
    heads = [
        "server",
        "point",
        "CPU ms a spectrum",
        "of it the model",
        "the rest",
        "load generator, cores",
        "of the limit",
        "of what it leaves",
    ]
    text = f"""## Where the time goes

Processor time, all processes of the server. "The model" is what the same calls cost in memory; "the rest" is receiving, checking, queueing,
answering and what caches lose by it (below 0: requests computed together cost less). The load generator runs on the same {cores} cores, and the limit has
none beside it: the last column is the share of the limit that the generator leaves, where every core is in use."""
    return text + "\n\n" + _table(heads, rows) if rows else ""


def _life(report: Report) -> str:
    rows = []
    for facts in _measured(report).values():
        memory, start, drain = facts.get("memory_after_load", {}), facts.get("memory_start", {}), facts.get("drain", {})
        ended = (
            "-"
            if not drain
            else f"{drain['seconds_to_end']} s"
            if drain["seconds_to_end"] is not None
            else f"no, {drain['processes_left']} processes left"
        )
        answered = f"{drain['answered']}/{drain['requests']} ({drain['in_flight']})" if drain else "-"
        row = [facts["title"], facts.get("version", "this commit"), f"{facts['startup_seconds']:.1f}"]
        rows.append([*row, f"{start.get('pss_mb', '-')} / {memory.get('pss_mb', '-')}", str(memory.get("processes", "-")), answered, ended])
    heads = [
        "server",
        "version",
        "start to first answer, s",
        "PSS at start / after load, MB",
        "processes",
        "drained (in flight)",
        "ended after SIGTERM",
    ]
    return f"""## Start, memory, drain

Memory is PSS over all processes, shared pages divided among those who share them. A gateway's row is the gateway alone. Drain: six requests that take about
a second together, SIGTERM after a quarter of a second; "in flight" were still unanswered then. Start-up is a cold one, without a standby process.

{_table(heads, rows)}"""


def _in_process(report: Report) -> str:
    table: dict[tuple[str, int, int], dict[int, float]] = {}
    for row in report["in_process"]:
        table.setdefault((row["backend"], row["workers"], row["threads"]), {})[row["batch"]] = row["rows_per_second"]
    batches = sorted({row["batch"] for row in report["in_process"]})
    rows = [
        [
            backend,
            _plural(workers, "process", "processes"),
            _plural(threads, "thread", "threads"),
            *(_number(found.get(batch)) for batch in batches),
        ]
        for (backend, workers, threads), found in table.items()
    ]
    heads = ["backend", "processes", "threads each", *(f"batch {batch}" for batch in batches)]
    if not rows:
        return ""
    chosen = [
        [row["backend"], "chosen" if row["chosen"] else row["why_not"], "-" if row["times_eager"] is None else f"{row['times_eager']:.2f}"]
        for row in report["choice"]["report"].get("backends", ())
    ]
    text = "## In memory, without a server\n\nSpectra per second, once at the end of the run.\n\n" + _table(heads, rows)
    return text + "\n\nWhat the version's own benchmark said:\n\n" + _table(["backend", "", "times eager"], chosen) if chosen else text


def _gpu(report: Report) -> str:
    gpu = report["gpu"]
    if gpu["status"] == "skipped":
        return f"## GPU\n\nNot measured: {gpu['reason']}. `make bench` measures it where there is one."
    rows: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for row in gpu["rows"]:
        if "problem" not in row:
            rows.setdefault((row["backend"], row["batch"]), []).append((row["device"], row["served"]))
    cells = []
    for (backend, batch), pairs in rows.items():
        device, served = pairs[len(pairs) // 2]
        share = sorted(one / other for other, one in pairs)[len(pairs) // 2]
        cells.append([backend, str(batch), _number(device), _number(served), f"{share:.2f}"])
    problems = "".join(f"\n\n{row['backend']}: {row['problem']}" for row in gpu["rows"] if "problem" in row)
    heads = ["backend", "batch", "in-process, spectra/s", "served, spectra/s", "share"]
    return "## GPU\n\nEight callers against one process that calls the model on the device.\n\n" + _table(heads, cells) + problems


def _how(report: Report) -> str:
    notes = [[facts["title"], facts["note"]] for facts in report["contenders"].values() if facts["note"]]
    return f"""## How it was measured

- **The limit** is as many processes as the server has workers ({report["machine"]["cores_used"]}, or as many as there are callers, if fewer),
  one torch thread each, that call the same backend on arrays in their own memory, other arrays in every call. Nothing is received, checked, queued
  or answered, and no load generator shares the cores. What processes lose to each other is in it. It is measured in every round at every point, next to
  the servers. It never joins small requests, so a server can pass it at batch 1.
- **The load** is one process with one thread over plain sockets: every caller waits for its whole answer before it asks again. Bodies are encoded beforehand; the first
  number of each is changed, so no request is like another, and no cache can answer.
- **Throughput** is the sum of the shares of all requests that lie in the window ({report["plan"]["seconds"]:g} s,
  {report["plan"]["long_seconds"]:g} s at 256 spectra), which opens when every caller has been answered once.
- **In turns**: all servers are up, and all but the one that is measured are stopped in time (SIGSTOP). Every second round goes backwards.
- **Noise**: processor time used by anybody else is recorded with every sample; above {OTHERS_CORES} cores the sample is taken again, up to
  {report["plan"]["repeats"]} times, and the quietest kept. {_noise(report)}
- **Same work**: every server's answers (both forms) are compared with the in-process ones before anything is timed; the largest difference here was
  {max((facts["largest_difference"] for facts in _measured(report).values()), default=0.0):.2g} of the hand-off's tolerance.
  Peers verify nothing and run the exported program with one thread in `torch.inference_mode()` (`benchmarks/serving/peers/`).
- **Ours** verifies digests and replays the golden vectors before its first answer, checks every input, keeps its metrics. Result cache and inference log are off
  unless the row says otherwise.

{_table(["set-up", ""], notes)}

Repeat it: `python -m benchmarks.serving install` (the peers' environments, a few GB), then `make bench`, or `python -m benchmarks.serving --quick` for three minutes."""


def _left_out(report: Report) -> str:
    lines = [f"- {what}: {why}" for what, why in report["left_out"].items()]
    lines += [
        f"- {facts['title']}: {facts['status']}, {facts['reason']}"
        for facts in report["contenders"].values()
        if facts["status"] != "measured"
    ]
    lines += [
        f"- {facts['title']}: no figure {problem}" for facts in report["contenders"].values() for problem in facts.get("problems", ())
    ]
    return "## Left out\n\n" + "\n".join(lines) if lines else ""


def _noise(report: Report) -> str:
    loud = [sample for sample in report["samples"] if sample["others_cores"] > OTHERS_CORES]
    return f"{len(report['samples'])} samples, {len(loud)} of them beside another load to the end."


def _by_point(report: Report, form: str, cell: Callable[[str, str], str], *, limits: bool) -> str:
    points = [at for at in report["plan"]["points"] if point(at).form == form]
    rows = []
    if limits:
        names = dict.fromkeys(facts["backend"] for facts in _measured(report).values())
        rows += [[f"*in-process limit, {name}*", *(cell(f"limit-{name}", at) for at in points)] for name in names]
    for name, facts in _measured(report).items():
        cells = [cell(name, at) for at in points]
        if set(cells) != {"-"}:
            rows.append([facts["title"], *cells])
    return _table(["", *(at.partition(" ")[2] for at in points)], rows)


def _measured(report: Report) -> dict[str, Mapping[str, Any]]:
    return {name: facts for name, facts in report["contenders"].items() if facts["status"] == "measured"}


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in row)} |" for row in rows)])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
