"""Answers that are remembered: what is computed once, what leaves first, and whose misfortune is whose."""

import asyncio

import numpy as np
import pytest

from serving.errors import DeadlineError, OverloadedError
from serving.remembered import Outcome, Remembered


def outputs(size=100, names=("y",)):
    return {name: np.zeros(size, np.uint8) for name in names}


class Model:
    """Computes when the gate is open, and counts."""

    def __init__(self, error=None) -> None:
        self.calls, self.gate, self.error, self.lonely = 0, asyncio.Event(), error, None

    async def __call__(self, lonely):
        self.calls += 1
        self.lonely = lonely
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return outputs()


def later(seconds=10.0):
    return asyncio.get_running_loop().time() + seconds


def test_the_same_question_is_computed_once_in_flight_and_never_again():
    async def story():
        memory, model = Remembered(1 << 20), Model()
        asked = [asyncio.create_task(memory.answer("a", ["y"], model, deadline=later())) for _ in range(3)]
        await asyncio.sleep(0)
        assert not model.lonely()
        model.gate.set()
        assert [outcome for _, outcome in await asyncio.gather(*asked)] == [Outcome.MISS, Outcome.JOINED, Outcome.JOINED]
        assert (await memory.answer("a", ["y"], model, deadline=later()))[1] is Outcome.HIT
        assert (await memory.answer("b", ["y"], model, deadline=later()))[1] is Outcome.MISS
        assert model.calls == 2

    asyncio.run(story())


def test_outputs_that_nobody_wanted_yet_are_computed_and_added():
    async def story():
        memory = Remembered(1 << 20)

        async def compute(lonely):
            return outputs(names=("z",))

        await memory.answer("a", ["z"], compute, deadline=later())
        model = Model()
        model.gate.set()
        assert (await memory.answer("a", ["y"], model, deadline=later()))[1] is Outcome.MISS
        found, outcome = await memory.answer("a", ["y", "z"], model, deadline=later())
        assert (outcome, sorted(found), model.calls) == (Outcome.HIT, ["y", "z"], 1)

    asyncio.run(story())


def test_the_bytes_are_bounded_and_the_least_recently_used_leaves():
    async def story():
        memory = Remembered(20_000)

        async def compute(lonely):
            return outputs(4000 - 1024)

        for key in ("a", "b", "c", "d", "e"):
            await memory.answer(key, ["y"], compute, deadline=later())
        assert memory.size == 20_000
        assert (await memory.answer("a", ["y"], compute, deadline=later()))[1] is Outcome.HIT
        await memory.answer("f", ["y"], compute, deadline=later())
        assert memory.size == 20_000
        assert (await memory.answer("a", ["y"], compute, deadline=later()))[1] is Outcome.HIT
        assert (await memory.answer("b", ["y"], compute, deadline=later()))[1] is Outcome.MISS

        async def large(lonely):
            return outputs(6000)

        await memory.answer("huge", ["y"], large, deadline=later())
        assert (await memory.answer("huge", ["y"], large, deadline=later()))[1] is Outcome.MISS

    asyncio.run(story())


def test_a_failure_is_everybodys_but_a_deadline_is_only_ones_own():
    async def story():
        memory, failing = Remembered(1 << 20), Model(OverloadedError("full"))
        asked = [asyncio.create_task(memory.answer("a", ["y"], failing, deadline=later())) for _ in range(2)]
        await asyncio.sleep(0)
        failing.gate.set()
        assert [type(error) for error in await asyncio.gather(*asked, return_exceptions=True)] == [OverloadedError] * 2
        # Given somebody whose own deadline passes, and one who joined him and has more time
        impatient, patient = Model(DeadlineError("late")), Model()
        first = asyncio.create_task(memory.answer("b", ["y"], impatient, deadline=later()))
        await asyncio.sleep(0)
        second = asyncio.create_task(memory.answer("b", ["y"], patient, deadline=later()))
        await asyncio.sleep(0)
        patient.gate.set()
        impatient.gate.set()
        with pytest.raises(DeadlineError):
            await first
        assert (await second)[1] is Outcome.MISS

    asyncio.run(story())


def test_who_joined_waits_no_longer_than_his_own_deadline_and_who_leaves_spoils_nothing():
    async def story():
        memory, model = Remembered(1 << 20), Model()
        first = asyncio.create_task(memory.answer("a", ["y"], model, deadline=later()))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineError, match="somebody else"):
            await memory.answer("a", ["y"], model, deadline=later(0.02))
        leaving = asyncio.create_task(memory.answer("a", ["y"], model, deadline=later()))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        assert model.lonely()
        model.gate.set()
        assert (await first)[1] is Outcome.MISS

    asyncio.run(story())
