"""The benchmark: a verdict that is a pure function of figures, and figures that come from real processes."""

import math
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from firstlight.digest import canonical_json
from firstlight.errors import RefusedError, TransientError
from firstlight.verdict import Verdict
from models.benchmark import CANDIDATE, CHAMPION, BenchmarkPolicy, BenchmarkReport, Measurement, benchmark, judge
from models.contestant import Contender, Contestant, Footprint
from models.hardware import choose_device, fingerprint

POLICY = BenchmarkPolicy(batches=(1, 16), rounds=4, latency_ratio_limit=1.5, latency_limit_seconds=2.0, memory_limit_mib=1000)
HARDWARE = {"device": "cpu"}


def measured(who: str, *rounds: float, batch: int = 1) -> Measurement:
    """One call a round."""
    return Measurement(who=who, batch=batch, seconds=tuple((seconds,) for seconds in rounds))


def footprint(who: str = CANDIDATE, *, peak: float = 500.0) -> Footprint:
    return Footprint(who=who, first_answer_seconds=3.0, peak_mib=peak, device_peak_mib=None)


def verdict_on(candidate: tuple[float, ...], champion: tuple[float, ...] | None, **changes: Any) -> BenchmarkReport:
    """Judge these seconds a round at batch 1; batch 16 is beyond doubt."""
    measurements = [measured(CANDIDATE, *candidate), measured(CANDIDATE, *[0.1] * 4, batch=16)]
    if champion is not None:
        measurements += [measured(CHAMPION, *champion), measured(CHAMPION, *[0.1] * 4, batch=16)]
    return judge(measurements, changes.pop("footprints", (footprint(),)), POLICY.model_copy(update=changes), HARDWARE)


# --- the verdict ------------------------------------------------------------------------------------------------------

EVEN = (0.1, 0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("candidate", "champion", "verdict", "ratio"),
    [
        pytest.param(EVEN, EVEN, Verdict.PASS, 1.0, id="as fast"),
        pytest.param((0.15, 0.15, 0.15, 0.15), EVEN, Verdict.PASS, 1.5, id="at the limit"),
        pytest.param((0.2, 0.2, 0.2, 0.2), EVEN, Verdict.FAIL, 2.0, id="slower in every round"),
        pytest.param((0.2, 0.2, 0.2, 0.1), EVEN, Verdict.FAIL, 2.0, id="slower in three of four rounds"),
        pytest.param((0.4, 0.4, 0.1, 0.1), EVEN, Verdict.CANNOT_TELL, 2.5, id="slower in half of the rounds"),
        pytest.param((0.1, 0.1, 0.1, 9.0), EVEN, Verdict.PASS, 1.0, id="one round disturbed"),
        pytest.param((0.4, 0.4, 0.1, 0.1), (0.4, 0.4, 0.1, 0.1), Verdict.PASS, 1.0, id="both disturbed in the same rounds"),
        pytest.param((0.1, 0.1, 0.1), EVEN, Verdict.CANNOT_TELL, 1.0, id="a round is missing"),
        pytest.param(EVEN, (), Verdict.CANNOT_TELL, None, id="the champion was never measured"),
        pytest.param(EVEN, (0.1, 0.1, 0.0, 0.1), Verdict.CANNOT_TELL, 1.0, id="a round took no time at all"),
        pytest.param((0.1, math.nan, 0.1, 0.1), EVEN, Verdict.CANNOT_TELL, 1.0, id="a round is no number"),
        pytest.param(EVEN, None, Verdict.PASS, None, id="there is no champion"),
    ],
)
def test_the_ratio_to_the_champion_decides(
    candidate: tuple[float, ...], champion: tuple[float, ...] | None, verdict: Verdict, ratio: float | None
) -> None:
    report = verdict_on(candidate, champion)
    assert report.verdict is verdict
    assert report.ratios[1] == (None if ratio is None else pytest.approx(ratio))
    assert (report.reasons == ()) is (verdict is Verdict.PASS)


def test_a_champion_of_which_only_the_footprint_is_known_was_not_beaten() -> None:
    report = verdict_on(EVEN, None, footprints=(footprint(), footprint(CHAMPION)))
    assert report.verdict is Verdict.CANNOT_TELL


def test_rounds_are_paired_by_their_number_not_by_their_order() -> None:
    """A round the candidate missed must not shift its later rounds against the champion's."""
    ours = Measurement(who=CANDIDATE, batch=1, seconds=((0.1,), (), (0.3,), (0.4,), (0.5,)))
    theirs = Measurement(who=CHAMPION, batch=1, seconds=((0.1,), (9.0,), (0.3,), (0.4,), (0.5,)))
    report = judge([ours, theirs], [footprint()], POLICY.model_copy(update={"batches": (1,)}), HARDWARE)
    assert (report.verdict, report.ratios) == (Verdict.PASS, {1: 1.0})


def test_the_median_of_a_rounds_calls_counts_not_a_single_one() -> None:
    ours = Measurement(who=CANDIDATE, batch=1, seconds=((0.1, 0.1, 7.0),) * 4)
    report = judge([ours, measured(CHAMPION, *EVEN)], [footprint()], POLICY.model_copy(update={"batches": (1,)}), HARDWARE)
    assert (report.verdict, report.ratios) == (Verdict.PASS, {1: 1.0})


@pytest.mark.parametrize(
    ("changes", "verdict", "says"),
    [
        ({"latency_limit_seconds": 0.05}, Verdict.FAIL, r"may take 0.05 s, it takes 0.10 s"),
        ({"latency_limit_seconds": 0.1}, Verdict.PASS, ""),
        ({"footprints": (footprint(peak=1000.1),)}, Verdict.FAIL, "may use 1000 MiB"),
        ({"footprints": (footprint(peak=1000.0), footprint(CHAMPION, peak=5000.0))}, Verdict.CANNOT_TELL, "4 rounds"),
        ({"footprints": ()}, Verdict.CANNOT_TELL, "peak memory must be known"),
        ({"footprints": (footprint(peak=math.nan),)}, Verdict.CANNOT_TELL, "peak memory must be known"),
        ({"footprints": (footprint(peak=0),)}, Verdict.CANNOT_TELL, "peak memory must be known"),
    ],
)
def test_latency_and_memory_have_limits_of_their_own(changes: dict[str, Any], verdict: Verdict, says: str) -> None:
    report = verdict_on(EVEN, None, **changes)
    assert report.verdict is verdict
    assert says in " ".join(report.reasons)


def test_the_latency_limit_is_about_the_smallest_batch_wherever_it_stands() -> None:
    report = verdict_on((0.1,) * 4, None, batches=(16, 1), latency_limit_seconds=0.05)
    assert any("batch of 1" in reason for reason in report.reasons)


@pytest.mark.parametrize("measurements", [[], [Measurement(who=CANDIDATE, batch=1, seconds=())]], ids=["none", "empty"])
def test_nothing_measured_is_no_success_and_still_a_report(measurements: list[Measurement]) -> None:
    report = judge(measurements, [], POLICY, HARDWARE)
    assert report.verdict is Verdict.CANNOT_TELL
    assert report.summary == "nothing was measured"
    assert canonical_json(report.to_dict())


def test_a_report_is_plain_values_with_the_verdict_first() -> None:
    figures = verdict_on((0.2,) * 4, EVEN).to_dict()
    assert list(figures)[:3] == ["verdict", "summary", "reasons"]
    assert figures["ratios"] == {"1": 2.0, "16": 1.0}
    assert figures["points"][0] == {
        "who": "candidate",
        "batch": 1,
        "calls": 4,
        "latency_ms_p50": 200.0,
        "latency_ms_p99": 200.0,
        "spectra_per_second": 5.0,
    }
    assert "2.00 × the champion's" in figures["summary"]
    assert canonical_json(figures)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batches": []},
        {"batches": [0]},
        {"rounds": 2},
        {"device": "tpu"},
        {"latency_limit_seconds": math.inf},
        {"speed": 1},
        {"backends": ["onnx"]},
        {"backends": ["eager", "teapot"]},
        {"backends": ["eager", "eager"]},
        {"batch_weights": {2: 1.0}},
        {"batch_weights": {1: 0, 16: 0, 64: 0}},
        {"backend_gain": 0.9},
        {"device": "cuda", "backends": ["eager"]},
    ],
    ids=str,
)
def test_a_policy_that_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BenchmarkPolicy.model_validate(wrong)


def test_every_limit_of_the_policy_says_what_it_is() -> None:
    assert all(field.description for field in BenchmarkPolicy.model_fields.values())


# --- the machine ------------------------------------------------------------------------------------------------------


def test_the_device_is_the_one_there_is_and_one_that_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(wanted) for wanted in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device(wanted) for wanted in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(RefusedError, match="choose 'auto' or 'cpu'"):
        choose_device("cuda")


def test_machines_that_differ_have_different_fingerprints() -> None:
    one, two = fingerprint("cpu", 1), fingerprint("cpu", 2)
    assert one == fingerprint("cpu", 1)
    assert one["sha256"] != two["sha256"]
    assert one["processor"]
    assert (one["device"], one["accelerator"], one["driver"]) == ("cpu", None, None)


# --- real processes ---------------------------------------------------------------------------------------------------

QUICK = BenchmarkPolicy(batches=(1, 8), rounds=3, spectra_per_round=8, calls_at_least=2, latency_ratio_limit=50)


def test_candidate_and_champion_are_measured_in_turns_in_processes_of_their_own(tiny_handoff: Path) -> None:
    # Given memory of our own that must not be taken for theirs
    ballast = np.ones(800 * 2**17)
    told: list[float] = []
    # When both are measured
    both = Contender(folder=tiny_handoff)
    report = benchmark(both, both, QUICK, progress=told.append)
    # Then every round has the calls it must have, and the report says what it needs
    del ballast
    assert report.verdict is Verdict.PASS, report.reasons
    calls = {(item.who, item.batch): [len(turn) for turn in item.seconds] for item in report.measurements}
    assert calls == {(who, batch): [n] * 3 for who in (CANDIDATE, CHAMPION) for batch, n in ((1, 8), (8, 2))}
    assert all(seconds > 0 for item in report.measurements for seconds in item.calls)
    assert set(report.ratios) == {1, 8}
    assert all(0 < item.first_answer_seconds < 120 for item in report.footprints)
    assert all(100 < item.peak_mib < 790 or item.device_peak_mib for item in report.footprints), "a peak that holds the parent's memory"
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert report.hardware["device"] == "cpu"
    assert {item.backend for item in report.footprints} == {"eager"}
    assert canonical_json(report.to_dict())


PRETENDER = """
import json, sys, time
print(json.dumps({"first_answer_seconds": 1.5, "peak_bytes": 2**20, "device_peak_bytes": 2**21}), flush=True)
for line in sys.stdin:
    time.sleep(0.01)
    print(json.dumps({"seconds": 0.01, "peak_bytes": 2**22, "device_peak_bytes": 2**21}), flush=True)
"""
"""A worker without a model: what it answers is as the real one's, and it is there at once."""


def pretender(*, timeout: float = 60.0, arguments: tuple[str, ...] = (sys.executable, "-S", "-c", PRETENDER)) -> Contestant:
    found = Contestant(CANDIDATE, Contender(folder=Path("/nowhere")), threads=1, timeout=timeout)
    found._arguments = list(arguments)
    return found


def test_a_version_that_is_slow_makes_fewer_calls_a_turn_but_one() -> None:
    with pretender() as running:
        running.first_answer()
        assert running.measure(1, calls=3, seconds=60) == (0.01, 0.01, 0.01)
        assert len(running.measure(1, calls=500, seconds=0.1)) < 20
        assert len(running.measure(1, calls=50, seconds=1e-9)) == 1
        assert running.footprint() == Footprint(who=CANDIDATE, first_answer_seconds=1.5, peak_mib=4.0, device_peak_mib=2.0)


def test_a_version_that_hangs_is_refused_after_its_time() -> None:
    with pretender(timeout=0.5) as running:
        running.first_answer()
        os.kill(running.pid, signal.SIGSTOP)
        with pytest.raises(RefusedError, match=r"must answer within 0\.5 s"):
            running.measure(1, calls=1, seconds=1)
    assert running._process.poll() is not None, "a process that hangs must be gone when the benchmark is over"


def test_a_process_that_is_killed_in_the_middle_of_a_call_may_be_tried_again() -> None:
    with pretender() as running:
        running.first_answer()
        killer = threading.Timer(0.3, os.kill, (running.pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(TransientError, match="signal 9"):
            running.measure(1, calls=10**6, seconds=60)
        killer.join()
        with pytest.raises(TransientError, match="signal 9"):
            running.measure(1, calls=1, seconds=1)


def test_a_model_that_does_not_load_is_refused_with_the_reason(broken: Path) -> None:
    (broken / "model.pt2").write_bytes(b"no model")
    with pytest.raises(RefusedError, match=r"the candidate must load and answer.*model\.pt2") as refusal:
        benchmark(Contender(folder=broken), None, QUICK)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("sent", "kind"), [(signal.SIGSEGV, RefusedError), (signal.SIGTERM, TransientError)])
def test_a_crash_of_its_own_is_the_models_fault_and_a_signal_from_outside_is_not(sent: signal.Signals, kind: type[Exception]) -> None:
    with pretender(arguments=("/bin/sh", "-c", f"kill -{sent.value} $$")) as ended, pytest.raises(kind):
        ended.first_answer()


def test_a_process_that_complains_without_end_does_not_stop_the_benchmark() -> None:
    loud = "import sys; sys.stderr.write('x' * 10**6 + chr(10) + 'the reason'); sys.exit(3)"
    with pretender(arguments=(sys.executable, "-S", "-c", loud)) as ended, pytest.raises(RefusedError, match=r"code 3 \(the reason\)"):
        ended.first_answer()


def test_a_footprint_is_plain_values() -> None:
    assert replace(footprint(), device_peak_mib=1.0).to_dict()["device_peak_mib"] == 1.0
