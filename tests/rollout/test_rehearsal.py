"""A rehearsed way back passes only when it was seen to come up in time and to answer; what nobody tried cannot be told."""

import pytest

from firstlight.verdict import Verdict
from rollout import rehearsal

GOOD = {"asked": "3#7", "version": "3", "state": "done", "seconds": 4.0, "reason": "", "answered": 20, "failed": 0}


def judged(report: object, *, noticed: float | None = 0.3, waited: float = 6.0, limit: float = 10.0) -> rehearsal.Rehearsed:
    return rehearsal.judge(report, asked="3#7", limit_seconds=limit, noticed_seconds=noticed, waited_seconds=waited)  # type: ignore[arg-type]


def test_a_version_that_came_up_in_time_and_answered_passes_with_its_recovery_time() -> None:
    found = judged(GOOD)
    assert (found.verdict, found.seconds, found.noticed_seconds, found.answered) == (Verdict.PASS, 4.3, 0.3, 20)
    assert "20 copies of requests answered" in found.reason
    assert "after 4.3 s from cold, or 0.3 s where its server is kept warm" in found.reason


@pytest.mark.parametrize(
    ("change", "verdict", "said"),
    [
        (
            {"state": "failed", "seconds": None, "reason": "model.pt2 must have sha256 ab, found cd"},
            Verdict.FAIL,
            "model.pt2 must have sha256 ab, found cd",
        ),
        ({"state": "failed", "reason": "killed"}, Verdict.FAIL, "came up after 4.0 s and did not stay: killed"),
        ({"state": "failed", "seconds": None, "reason": None}, Verdict.FAIL, "said nothing more"),
        ({"seconds": 9.8}, Verdict.FAIL, "within 10 s, this one took 10.1 s"),
        ({"failed": 1}, Verdict.FAIL, "failed 1 of 21 copies"),
        ({"answered": 0}, Verdict.CANNOT_TELL, "was asked nothing"),
        ({"state": "answering"}, Verdict.CANNOT_TELL, "still going on"),
        ({"state": "waiting", "seconds": None}, Verdict.CANNOT_TELL, "must be ready before a rehearsal begins"),
        ({"state": "starting", "seconds": None}, Verdict.CANNOT_TELL, "still starting after 6 s"),
        ({"asked": "3#6"}, Verdict.CANNOT_TELL, "start `firstlight serve`"),
        ({"seconds": float("nan")}, Verdict.CANNOT_TELL, "still starting"),
        ({"seconds": "4.0"}, Verdict.CANNOT_TELL, "still starting"),
        ({"answered": None, "failed": -3}, Verdict.CANNOT_TELL, "was asked nothing"),
    ],
)
def test_anything_else_does_not_pass_and_says_why(change: dict[str, object], verdict: Verdict, said: str) -> None:
    found = judged({**GOOD, **change})
    assert found.verdict is verdict
    assert said in found.reason


def test_a_start_that_outlasts_the_limit_has_failed_before_it_ends() -> None:
    found = judged({**GOOD, "state": "starting", "seconds": None}, waited=12.0)
    assert (found.verdict, found.seconds) == (Verdict.FAIL, None)


def test_nobody_there_cannot_be_told() -> None:
    assert judged(None, noticed=None).verdict is Verdict.CANNOT_TELL


def test_only_the_end_of_the_drill_that_was_asked_for_is_an_end() -> None:
    ends = [
        rehearsal.is_over(report, asked="3#7")
        for report in (GOOD, {**GOOD, "state": "failed"}, {**GOOD, "state": "answering"}, {**GOOD, "asked": "3#8"}, None)
    ]
    assert ends == [True, True, False, False, False]
