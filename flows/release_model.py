"""The whole story: a hand-off goes in, a champion comes out, or a sentence that says why not. Read this file first.

Every step below is a stage: retried when the world is in the way, its report written as evidence, its result persisted, so that
a run that was killed and is run again continues where it was. Verdicts are pass, fail and cannot tell; the worst one wins, and
only pass goes on. Waiting for people frees the process: the run is suspended, survives restarts, and starts from the top when it
is answered, with every finished stage in hand.
"""

from collections.abc import Iterator
from typing import Any

from prefect import flow, suspend_flow_run
from prefect.client.schemas.objects import State
from prefect.input import RunInput

from firstlight.verdict import Verdict
from tasks import canary, checking, governing, opening, promoting, publishing, registering, rehearsing, watching
from tasks.outcomes import Outcome
from tasks.releases import OpenedRelease, only_one, open_release
from tasks.stages import StageResult

_WAIT_SECONDS = 30 * 24 * 3600


class SignOffNote(RunInput):
    """What the UI asks when a person resumes the run: who looked, and what to tell the others. The decision itself is a signature."""

    reviewer: str = ""
    note: str = ""


@flow(name="release-model", flow_run_name="release {handoff}", persist_result=True, result_serializer="json")
def release_model(handoff: str) -> State[Any]:
    """Take a hand-off (a folder, or models:/name/version) through every gate to champion."""
    release = open_release(handoff)
    if release.settled:
        return publishing.state(publishing.settled(release))
    with only_one(release):
        return publishing.state(carry(release))


def carry(release: OpenedRelease) -> Outcome:
    """Go from gate to gate as long as the verdict is pass; close the release with what was found."""
    passed: list[StageResult] = []
    for gate in gates(release):
        passed += gate
        if any(result.verdict is not Verdict.PASS for result in gate):
            return publishing.finish(release, passed)
    watching.first_look(release)
    return publishing.finish(release, passed)


def gates(release: OpenedRelease) -> Iterator[list[StageResult]]:
    """Yield the gates of a release in their order; what stands in one list is measured together, so that a refusal says everything."""
    yield [opening.check_hand_off(release)]
    yield [opening.replay_golden(release)]
    yield [
        registering.register(release),
        checking.validate_data(release),
        checking.evaluate(release),
        checking.check_slices(release),
        checking.choose_backend(release),
        checking.benchmark(release),
    ]
    yield [governing.try_platform(release), governing.assess_risk(release)]
    yield [wait_for_sign_off(release)]
    yield [rehearsing.rehearse_way_back(release)]
    yield [canary.run(release)]
    yield [promoting.promote(release)]


def wait_for_sign_off(release: OpenedRelease) -> StageResult:
    """Suspend until the signatures that the residual risk asks for are there; an answer without them asks again."""
    asked = 0
    while (result := governing.sign_off(release)).verdict is Verdict.CANNOT_TELL:
        publishing.write_dossier(release)
        governing.ask(release, result)
        suspend_flow_run(
            wait_for_input=SignOffNote.with_initial_data(description=governing.question(release, result)),
            key=f"sign-off-{asked}",
            timeout=_WAIT_SECONDS,
        )
        asked += 1
    return governing.signed(release, result)
