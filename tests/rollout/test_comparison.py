"""Two versions side by side: what is shown, what is not, and that an interval says when it knows nothing."""

import numpy as np
import pytest

from rollout.comparison import NOT_YET, Arm, compare
from rollout.evidence import Stream


def arm(version, *, seed=0, requests=600, errors=3, middle=-3.0, flagged=(30, 600)):
    times = np.random.default_rng(seed).lognormal(middle, 0.3, requests - errors)
    return Arm(version=version, stream=Stream.of(times, errors=errors), flagged=flagged)


def test_the_same_behaviour_shows_no_difference_and_every_interval_holds_the_number():
    errors, latency, anomalies = compare(arm("3"), arm("4", seed=1, errors=4))
    for one in (errors, latency, anomalies):
        assert one.shown == "no difference is shown"
        for known in (one.a, one.b, one.difference):
            assert known.low is None or known.low <= known.value
            assert known.high is None or known.value <= known.high
    assert errors.a.value == 3 / 600
    assert errors.difference.value == pytest.approx(1 / 600)
    assert latency.a.value == pytest.approx(np.exp(-3 + 1.645 * 0.3), rel=0.1)
    assert latency.difference.low < 1 < latency.difference.high


@pytest.mark.parametrize(
    ("changed", "which", "words"),
    [
        ({"errors": 60}, "errors", "version 4 fails more often"),
        ({"middle": -2.0}, "latency", "version 4 is slower"),
        ({"middle": -4.0}, "latency", "version 4 is faster"),
        ({"flagged": (120, 600)}, "anomalies", "version 4 calls more an anomaly"),
        ({"flagged": (0, 600)}, "anomalies", "version 4 calls fewer an anomaly"),
    ],
    ids=["errors", "slower", "faster", "more", "fewer"],
)
def test_a_real_difference_is_shown_and_only_that_one(changed, which, words):
    found = {one.name: one.shown for one in compare(arm("3"), arm("4", seed=1, **changed))}
    assert found == {name: words if name == which else "no difference is shown" for name in ("errors", "latency", "anomalies")}


def test_what_nobody_has_measured_is_not_known_and_nothing_is_said_of_it():
    errors, latency = compare(Arm(version="3"), arm("4", flagged=None))
    assert (errors.shown, latency.shown, errors.a.value, latency.difference.value) == (NOT_YET, NOT_YET, None, None)
    assert errors.b.value == 3 / 600
    # one answer bounds next to nothing
    (errors, latency) = compare(Arm(version="3", stream=Stream.of([0.1])), Arm(version="4", stream=Stream.of([0.1])))
    assert errors.difference.high is None or errors.difference.high > 0.9
    assert (latency.difference.low, latency.difference.high) == (None, None)


def test_more_comparisons_and_more_confidence_make_wider_intervals():
    def width(**more):
        flagged = more.pop("flagged", None)
        difference = compare(arm("3", flagged=flagged), arm("4", flagged=flagged), **more)[0].difference
        return difference.high - difference.low

    assert width() < width(flagged=(30, 600)) < width(flagged=(30, 600), confidence=0.999)
