"""Paces: exact, indebted, bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.rates import Rates


def test_a_quiet_caller_may_use_two_seconds_worth_at_once_and_then_the_rate():
    rates = Rates()
    at_once = sum(rates.take("c", 1, rate=10, now=1000.0) == 0 for _ in range(100))
    later = sum(rates.take("c", 1, rate=10, now=1000.0 + tick / 100) == 0 for tick in range(1, 1001))
    assert (at_once, later) == (20, 100)


def test_what_it_says_to_wait_is_exactly_enough():
    rates = Rates()
    while rates.take("c", 1, rate=4, now=50.0) == 0:
        pass
    waits = rates.wait("c", 50.0, burst=2 - 1 / 4)
    assert rates.take("c", 1, rate=4, now=50.0 + waits - 0.01) > 0
    assert rates.take("c", 1, rate=4, now=50.0 + waits) == 0


def test_a_request_larger_than_the_limit_is_let_in_once_and_paid_for():
    rates = Rates()
    assert rates.wait("c", 0.0) == 0
    rates.charge("c", 1000, rate=100, now=0.0)
    assert rates.wait("c", 0.0) == pytest.approx(8.0)
    assert rates.wait("c", 8.0) == 0


def test_a_rate_below_one_a_second_lets_one_in():
    rates = Rates()
    assert [rates.take("c", 1, rate=0.1, now=now) == 0 for now in (0.0, 1.0, 9.0, 10.0)] == [True, False, False, True]


def test_callers_do_not_touch_each_other():
    rates = Rates()
    while rates.take("loud", 1, rate=1, now=0.0) == 0:
        pass
    assert rates.take("quiet", 1, rate=1, now=0.0) == 0


def test_memory_is_bounded_whatever_names_are_invented():
    rates = Rates(most=100)
    for number in range(10_000):
        rates.take(f"invented-{number}", 1, rate=1, now=0.0)
    assert len(rates) == 100


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200), st.floats(0.2, 50))
def test_never_more_than_the_rate_and_the_burst(pauses, rate):
    rates, now, taken = Rates(), 0.0, 0
    for pause in pauses:
        now += pause
        taken += rates.take("c", 1, rate=rate, now=now) == 0
    assert taken <= rate * (now + 2.0) + 1.01
