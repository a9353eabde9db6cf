"""The whole story: a hand-off goes in, a champion comes out, or a sentence that says why not. Read this file first.

Every step below is a stage: retried when the world is in the way, its report written as evidence, its result persisted, so that
a run that was killed and is run again continues where it was. Verdicts are pass, fail and cannot tell; the worst one wins, and
only pass goes on. Waiting for people frees the process: the run is suspended, survives restarts, and starts from the top when it
is answered, with every finished stage in hand.
"""

from collections.abc import Iterator
from typing import Any

from prefect import flow, get_run_logger, suspend_flow_run
from prefect.client.schemas.objects import State
from prefect.input import RunInput
from pydantic import Field

from firstlight.verdict import Verdict
from tasks import asking, canary, checking, governing, opening, papers, promoting, publishing, registering, rehearsing, watching
from tasks.outcomes import Outcome
from tasks.releases import OpenedRelease, only_one, open_release
from tasks.stages import StageResult

_WAIT_SECONDS = 30 * 24 * 3600


class SignOffNote(RunInput):
    """What the UI asks when a person resumes the run: who looked, and what to tell the others. The decision itself is a signature."""

    reviewer: str = Field(default="", max_length=200, title="Your name", description="Unsigned. It decides nothing.")
    note: str = Field(
        default="",
        max_length=2000,
        title="A note for the others",
        description="Unsigned, it decides nothing: submitting makes the run look again. To decide, sign as above.",
    )


@flow(name="release-model", flow_run_name="release {handoff}", persist_result=True, result_serializer="json")
def release_model(handoff: str, change: str | None = None) -> State[Any]:
    """Take a hand-off (a folder, or models:/name/version) through every gate to champion; ``change`` is the CR-YYYY-NNN it belongs to."""
    release = open_release(handoff)
    if release.settled:
        return publishing.state(publishing.settled(release))
    with only_one(release):
        governing.name_change(release, change)
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
    yield [governing.try_platform(release), papers.list_software(release), governing.assess_risk(release)]
    yield [wait_for_sign_off(release)]
    yield [rehearsing.rehearse_way_back(release)]
    yield [canary.run(release)]
    yield [promoting.promote(release)]


def wait_for_sign_off(release: OpenedRelease) -> StageResult:
    """Suspend until the signatures that the residual risk asks for are there; an answer without them asks again."""
    asked = 0
    while (result := governing.sign_off(release)).verdict is Verdict.CANNOT_TELL:
        publishing.write_dossier(release)
        asking.ask(release, result)
        note = _suspend(asking.question(release, result), key=f"sign-off-{asked}")
        asking.answered(release, reviewer=note.reviewer, note=note.note)
        asked += 1
    return governing.signed(release, result)


def _suspend(question: str, *, key: str) -> SignOffNote:
    """Return what the run was resumed with; what cannot be read as an answer is none, and never the end of the release."""
    try:
        return (
            suspend_flow_run(wait_for_input=SignOffNote.with_initial_data(description=question), key=key, timeout=_WAIT_SECONDS)
            or SignOffNote()
        )
    except (TypeError, ValueError) as problem:
        get_run_logger().warning(
            "the answer must have the fields reviewer and note, as short texts; it has not, so it is asked again: %s", problem
        )
        return SignOffNote()
