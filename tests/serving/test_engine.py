"""Who computes what, and when: shares, cuts, turns, deadlines, lost workers. The staff is one whose workers answer when the test says so."""

import asyncio

import numpy as np
import pytest

from serving import tracing
from serving.arena import Arena
from serving.engine import Engine, State
from serving.errors import DeadlineError, ModelFailedError, NotReadyError, OverloadedError, ProtocolError
from serving.signature import Signature, TensorSpec
from serving.staff import Loaded

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 2)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 2)), TensorSpec(name="sum", dtype="float32", shape=(-1,))),
)


class Patient:
    """A worker that computes when it is told to."""

    backend, device, note = "hand", "cpu", ""

    def __init__(self, staff) -> None:
        self.staff, self.parts = staff, ()

    def give(self, parts) -> None:
        assert not self.parts, "one batch at a time"
        self.parts = parts
        self.staff.batches.append([(part.start, part.stop, part.rows) for part in parts])

    def compute(self) -> None:
        parts, self.parts = self.parts, ()
        results = []
        for part in parts:
            x = part.inputs()["x"]
            results.append(ProtocolError("x must be finite") if np.isnan(x).any() else {"y": x * 2, "sum": x.sum(axis=1)})
        self.staff.engine.finished(self, parts, results, 0.001)

    def fail(self) -> None:
        parts, self.parts = self.parts, ()
        self.staff.engine.failed(self, parts, "no luck")

    def die(self) -> None:
        parts, self.parts = self.parts, ()
        self.staff.engine.lost(self, parts, "killed")


class Staff:
    """Two patient workers."""

    def __init__(self, count=2) -> None:
        self.arena, self.count, self.batches = Arena(span=1 << 24, hot_bytes=1 << 20), count, []

    def start(self, engine) -> None:
        self.engine = engine
        engine.opened(Loaded(name="toy", model_digest="d" * 64, signature=SIGNATURE))
        self.workers = [Patient(self) for _ in range(self.count)]
        for worker in self.workers:
            engine.joined(worker)

    def hire(self) -> Patient:
        worker = Patient(self)
        self.workers.append(worker)
        self.engine.joined(worker)
        return worker

    def stop(self) -> None:
        pass

    def busy(self) -> list[Patient]:
        return [worker for worker in self.workers if worker.parts]


def rows(count, value=1.0):
    return {"x": np.full((count, 2), value, np.float32)}


def scenario(story, *, workers=2, **options):
    """Run ``story(engine, staff, ask)`` in a loop of its own."""

    async def play():
        staff = Staff(workers)
        engine = Engine(staff, **options)
        engine.start()

        def ask(count, value=1.0, **more):
            return asyncio.ensure_future(engine.infer(rows(count, value), rows=count, **more))

        await story(engine, staff, ask)

    asyncio.run(play())


async def turn():
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def compute_all(staff):
    await turn()
    while busy := staff.busy():
        for worker in busy:
            worker.compute()
        await turn()


def test_a_lone_request_is_computed_at_once_and_alone():
    async def story(engine, staff, ask):
        asked = ask(1, 3.0)
        await turn()
        assert (staff.batches, engine.depth) == ([[(0, 1, 1)]], 0)
        staff.busy()[0].compute()
        found = await asked
        assert (found["y"].tolist(), found["sum"].tolist()) == ([[6.0, 6.0]], [6.0])

    scenario(story)


def test_what_came_while_all_computed_is_shared_out_and_not_taken_by_the_first():
    async def story(engine, staff, ask):
        # Given two busy workers and twelve requests that wait
        asked = [ask(1, float(number)) for number in range(14)]
        await turn()
        assert engine.depth == 12
        # When both become idle, one after the other, then each has about half of what was there
        first, second = staff.busy()
        first.compute()
        second.compute()
        await turn()
        sizes = [sum(part[2] for part in batch) for batch in staff.batches[2:]]
        assert sizes[0] == 7
        assert sum(sizes) <= 12
        await compute_all(staff)
        assert [found["y"][0, 0] for found in await asyncio.gather(*asked)] == [2.0 * number for number in range(14)]

    scenario(story)


def test_no_batch_is_larger_than_the_hardware_likes():
    async def story(engine, staff, ask):
        asked = [ask(3) for _ in range(40)]
        await compute_all(staff)
        await asyncio.gather(*asked)
        assert max(sum(part[2] for part in batch) for batch in staff.batches) <= 8

    scenario(story, workers=1, batch_rows=8)


def test_a_large_request_is_cut_over_idle_workers_and_put_together_again():
    async def story(engine, staff, ask):
        values = np.arange(200, dtype=np.float32).reshape(100, 2)
        asked = asyncio.ensure_future(engine.infer({"x": values}, rows=100))
        await turn()
        assert staff.batches == [[(0, 50, 50)], [(50, 100, 50)]]
        # the second half comes first
        staff.workers[0].compute()
        staff.workers[1].compute()
        np.testing.assert_array_equal((await asked)["y"], values * 2)

    scenario(story)


def test_a_small_request_does_not_wait_for_all_of_a_large_one():
    async def story(engine, staff, ask):
        large, small = ask(1000), ask(1)
        await turn()
        for _ in range(3):
            staff.busy()[0].compute()
            await turn()
        assert (small.done(), large.done()) == (True, False)
        await compute_all(staff)
        assert (await large)["sum"].shape == (1000,)

    scenario(story, workers=1)


def test_only_the_outputs_that_are_wanted_come_back():
    async def story(engine, staff, ask):
        asked = ask(2, names=["sum"])
        await compute_all(staff)
        assert list(await asked) == ["sum"]

    scenario(story)


def test_rows_that_were_not_begun_by_the_deadline_are_answered_in_time_and_never_computed():
    async def story(engine, staff, ask):
        now = asyncio.get_running_loop().time
        begun, late = ask(1), ask(5, deadline=now() + 0.05)
        with pytest.raises(DeadlineError, match="5 of 5 rows"):
            await late
        assert (engine.depth, len(staff.batches)) == (0, 1)
        with pytest.raises(DeadlineError, match="in the future"):
            await ask(1, deadline=now() - 1)
        await compute_all(staff)
        await begun
        assert len(staff.batches) == 1

    scenario(story, workers=1)


def test_a_caller_who_left_is_not_computed_for():
    async def story(engine, staff, ask):
        first = ask(1)
        await turn()
        left = ask(1, gone=lambda: True)
        await compute_all(staff)
        await first
        with pytest.raises(DeadlineError, match="left"):
            await left
        assert len(staff.batches) == 1

    scenario(story, workers=1)


def test_the_queue_is_bounded_and_those_who_gave_up_leave_their_place():
    async def story(engine, staff, ask):
        asked = [ask(1) for _ in range(3)]
        await turn()
        with pytest.raises(OverloadedError, match="at most 2 requests"):
            await ask(1)
        asked[2].cancel()
        await turn()
        again = ask(1)
        await compute_all(staff)
        await asyncio.gather(asked[0], asked[1], again)
        assert engine.depth == 0

    scenario(story, workers=1, queue_requests=2)


def test_a_row_that_is_refused_spoils_only_its_own_request():
    async def story(engine, staff, ask):
        first = ask(1)
        await turn()
        good, bad = ask(1, 4.0), ask(1, np.nan)
        await compute_all(staff)
        await first
        assert (await good)["y"].tolist() == [[8.0, 8.0]]
        with pytest.raises(ProtocolError, match="finite"):
            await bad

    scenario(story, workers=1)


def test_what_a_lost_worker_had_is_tried_once_more_and_each_alone():
    async def story(engine, staff, ask):
        first = ask(1)
        await turn()
        asked = [ask(1), ask(1)]
        await turn()
        staff.workers[0].compute()
        await turn()
        assert len(staff.batches[1]) == 2
        staff.workers[0].die()
        assert (engine.workers, engine.state) == ([], State.READY)
        staff.hire()
        await compute_all(staff)
        await asyncio.gather(first, *asked)
        assert [len(batch) for batch in staff.batches] == [1, 2, 1, 1]

    scenario(story, workers=1)


def test_a_request_that_two_workers_were_lost_over_is_given_up_and_the_next_is_answered(caplog):
    async def story(engine, staff, ask):
        tracing.about(request_id="deadly")
        deadly = ask(1)
        tracing.about(request_id="")
        await turn()
        staff.busy()[0].die()
        await turn()
        staff.busy()[0].die()
        with pytest.raises(ModelFailedError, match="two workers"):
            await deadly
        assert [record.request_id for record in caplog.records if "lost over" in record.message] == ["deadly"] * 2
        staff.hire()
        asked = ask(1)
        await compute_all(staff)
        await asked

    scenario(story)


def test_a_batch_that_fails_is_tried_one_by_one_and_only_the_bad_one_fails(caplog):
    async def story(engine, staff, ask):
        first = ask(1)
        await turn()
        asked = []
        for name in ("bad", "good"):
            tracing.about(request_id=name, headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
            asked.append(ask(1))
        await turn()
        worker = staff.workers[0]
        worker.compute()
        await turn()
        worker.fail()
        worker.fail()
        worker.compute()
        await first
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in answers] == [ModelFailedError, dict]
        # and the log says which requests it was about: both, then the one that failed alone, with its trace where that is known
        together, alone = (record for record in caplog.records if "the model failed" in record.message)
        assert together.request_ids == ["bad", "good"]
        assert (alone.request_id, alone.trace_id) == ("bad", "a" * 32)

    scenario(story, workers=1)


def test_a_refused_model_turns_away_those_who_wait():
    async def story(engine, staff, ask):
        asked = [ask(1), ask(1)]
        await turn()
        engine.refused("golden row 3")
        with pytest.raises(NotReadyError, match="row 3"):
            await asked[1]
        assert engine.state is State.REFUSED
        with pytest.raises(NotReadyError, match="row 3"):
            await ask(1)
        await compute_all(staff)
        await asked[0]

    scenario(story, workers=1)


def test_memory_that_a_worker_reads_from_is_not_given_to_others_when_its_caller_gives_up():
    async def story(engine, staff, ask):
        held = engine.hold()
        held.count(100)
        held.room(100)
        asked = ask(1, held=held)
        await turn()
        asked.cancel()
        await turn()
        held.release()
        assert not engine.arena.is_free
        await compute_all(staff)
        assert engine.arena.is_free
        assert engine.budget.held == 0

    scenario(story)
