"""``python -m benchmarks.serving``: measure our servers and the peers; ``install`` the peers; make the ``page`` of docs/ from a report."""

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.serving import plan as plans
from benchmarks.serving.subject import CACHE, HERE

RESULTS = HERE.parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what ``arguments`` say; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given if given and not given[0].startswith("--") else ["run", *given])
    if options.command == "install":
        from benchmarks.serving.environments import install

        return 1 if install(options.peers, uv=options.uv, find_links=options.find_links, into=options.into) else 0
    if options.command == "page":
        from benchmarks.serving.page import publish

        report = options.report or _latest()
        print(f"{report} -> {', '.join(str(path) for path in publish(json.loads(report.read_text()), name=report.name))}")
        return 0
    return _run(options, command=f"python -m benchmarks.serving {' '.join(given)}".strip())


def _run(options: argparse.Namespace, *, command: str) -> int:
    from benchmarks.serving import choice, run, verdicts
    from benchmarks.serving.subject import subject

    # so that whoever is ended, ends whom it started: most of them are stopped in time and would stay so for ever
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    plan = plans.quick() if options.quick else plans.full()
    changes = {name: value for name in ("rounds", "json_rounds", "seconds", "repeats") if (value := getattr(options, name)) is not None}
    if options.points:
        changes["points"] = tuple(plans.point(name) for name in options.points)
    plan = dataclasses.replace(plan, **changes)
    report = run.run(
        subject(options.handoff),
        plan,
        command=command,
        only=options.only or (),
        choice=choice.only_eager() if options.eager else None,
        say=lambda line: print(line, flush=True),
    )
    out = options.out or RESULTS / f"serving{'-quick' if options.quick else ''}-{datetime.now(UTC):%Y-%m-%d}.json"
    run.write(report, out)
    for verdict in verdicts.verdicts(report):
        print(f"{verdict.verdict.value}: {verdict.target}: {verdict.found}")
    print(f"{out}; the page of docs/ is made from it by: python -m benchmarks.serving page {out}")
    return 0


def _latest() -> Path:
    found = sorted(RESULTS.glob("serving-2*.json"))
    if not found:
        raise SystemExit(f"a report must be in {RESULTS}, there is none: run `python -m benchmarks.serving` first")
    return found[-1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    _add_run_options(commands.add_parser("run", help="measure (about a quarter of an hour); what happens when nothing else is asked for"))
    install = commands.add_parser("install", help="make the peers' environments")
    install.add_argument("peers", nargs="*")
    install.add_argument("--uv", action="store_true", help="use uv: its cache is linked into the environments, not copied")
    install.add_argument("--find-links", type=Path, help="a folder of wheels to look into too, such as one with a CPU build of torch")
    install.add_argument("--into", type=Path, default=CACHE, help="another folder than the one the benchmark uses, to try it")
    page = commands.add_parser("page", help="write docs/benchmarks.md and its chart from a report")
    page.add_argument("report", type=Path, nargs="?", help="default: the latest one in benchmarks/results")
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="one round of the points that matter most: about three minutes")
    parser.add_argument("--eager", action="store_true", help="no backend but eager: nothing is compiled")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these contenders only, such as ours-eager litserve")
    parser.add_argument("--points", nargs="+", metavar="POINT", help="these points only, such as 'binary 16x8'")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json-rounds", type=int)
    parser.add_argument("--seconds", type=float, help="seconds a point is measured for")
    parser.add_argument("--repeats", type=int, help="how often a noisy point is measured again at most")
    parser.add_argument("--handoff", type=Path, help="the model to serve (default: a reference model, trained once)")
    parser.add_argument("--out", type=Path, help="where the report goes (default: benchmarks/results/serving-<date>.json)")


if __name__ == "__main__":
    sys.exit(main())
