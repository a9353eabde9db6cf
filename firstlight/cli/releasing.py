"""``firstlight release``: start or continue the release run of a hand-off, watch it, and end with one clear line."""

import time
from pathlib import Path

from firstlight.cli.plane import Plane
from firstlight.cli.showing import Watcher
from firstlight.errors import RefusedError
from firstlight.settings import Settings
from governance.subject import check_change_id

PROMOTED, ERROR, FAILED, CANNOT_TELL, WAITING = 0, 1, 2, 3, 4
CODES = {"Promoted": PROMOTED, "Refused": FAILED, "Cannot tell": CANNOT_TELL}
"""Name of a run's final state -> exit code."""

_LONGEST_SECONDS = 6 * 3600.0
_STARTING_SECONDS = 15.0


def release(settings: Settings, handoff: str, *, change: str | None = None) -> int:
    """Release a hand-off, as part of a change where one is named, and return the exit code."""
    if change is not None:
        check_change_id(change)
    name = refuse_early(settings, handoff)
    handoff = handoff if handoff.startswith("models:/") else str(Path(handoff).absolute())
    with Plane(settings) as plane:
        plane.orchestration()
        plane.supervisor(model=name)
        return drive(settings, handoff, name, Watcher(settings), change=change)


def refuse_early(settings: Settings, handoff: str) -> str:
    """Return the model's name, before anything is started. Raises HandOffError or RefusedError for what cannot be released."""
    from models import handoff as handoffs
    from tasks import policy, refusals

    policy.read(settings.policy_path)
    if handoff.startswith("models:/"):
        return handoff.removeprefix("models:/").partition("/")[0]
    with refusals.of_hand_off(settings, handoff):
        if problems := handoffs.check(handoff, run=False):
            raise handoffs.HandOffError(handoffs.sentence(Path(handoff), problems))
        papers = handoffs.load(handoff)
    _refuse_second(settings, papers.name, papers.digest)
    return papers.name


def _refuse_second(settings: Settings, model: str, digest: str) -> None:
    """Raise RefusedError when another hand-off's release is open: the run would only find that out later."""
    from tasks.doors import store

    with store(settings) as records:
        opened = records.open_one(settings.environment, model)
    if opened is not None and opened.handoff_digest != digest:
        raise RefusedError(
            f"one release of {model} at a time may be open in {settings.environment}, {opened.id} is: carry it to its end first "
            "(`firstlight status`; `firstlight sign-off --reject` ends one that waits)"
        )


def drive(settings: Settings, handoff: str, model: str, watcher: Watcher, *, change: str | None = None) -> int:
    """Start or continue the run, show it, and print its last line."""
    from flows import runs

    run = _run_to_follow(settings, handoff, model, change)
    if run is None:
        return WAITING
    state = runs.follow(run, seconds=_LONGEST_SECONDS, on_tick=watcher.tick)
    watcher.tick()
    if state.is_waiting:
        return _say_waiting(settings, model, watcher)
    code = CODES.get(state.title, ERROR)
    watcher.console.print(last_line(code, state.message), markup=False)
    return code


def last_line(code: int, message: str) -> str:
    """Return the last line of a release run."""
    said = {PROMOTED: "promoted", FAILED: "refused", CANNOT_TELL: "cannot tell", WAITING: "waiting for sign-off", ERROR: "error"}
    return f"{said[code]}: {plain(message)}"


def plain(message: str) -> str:
    """Return the sentence inside Prefect's 'Flow run encountered an exception: Kind: sentence'."""
    text = message.removeprefix("Flow run encountered an exception: ")
    kind, colon, sentence = text.partition(": ")
    return sentence if colon and kind.isidentifier() and kind[0].isupper() else text


def _run_to_follow(settings: Settings, handoff: str, model: str, change: str | None) -> str | None:
    """Return the id of the run to follow; None when it waits for signatures that are not there yet (and that was said).

    Raises RefusedError when another hand-off's run has the right to drive; one's own, resumed by a signature, is followed.
    """
    from flows import runs
    from tasks import asking, releases

    found = runs.find(runs.RELEASE[0], {"handoff": handoff})
    if found is None and releases.is_driven(settings, model):
        raise RefusedError(
            f"one release of {model} at a time may run in {settings.environment}, one runs now: wait for it (`firstlight status`), then run this again"
        )
    if found is not None and found.is_waiting:
        is_news = change is not None and _name_change(settings, model, change)
        if not is_news and not asking.is_decided(settings, model):
            _say_waiting(settings, model, Watcher(settings))
            return None
        runs.resume(found.id, {"reviewer": "", "note": f"the change is {change}" if is_news else "the signatures are there"})
        return found.id
    if found is not None and found.kind == "running" and not _lives(settings, model, found.id):
        runs.give_up(found.id)
        found = None
    return found.id if found is not None else runs.start(runs.RELEASE, {"handoff": handoff, "change": change}).id


def _name_change(settings: Settings, model: str, change: str) -> bool:
    """Write down the change of the open release; return whether that is news."""
    from tasks import change_control
    from tasks.doors import store

    with store(settings) as records:
        opened = records.open_one(settings.environment, model)
    if opened is None:
        return False
    return change_control.name(settings, opened.id, model=model, change_id=change, by="firstlight release")


def _lives(settings: Settings, model: str, run_id: str) -> bool:
    """Return whether a run that Prefect calls running has a process: it takes the lock within seconds of starting, or ends."""
    from flows import runs
    from tasks import releases

    deadline = time.monotonic() + _STARTING_SECONDS
    while time.monotonic() < deadline:
        if releases.is_driven(settings, model) or runs.read(run_id).kind != "running":
            return True
        time.sleep(0.5)
    return False


def _say_waiting(settings: Settings, model: str, watcher: Watcher) -> int:
    from tasks import asking

    watcher.console.print(last_line(WAITING, asking.what_is_missing(settings, model)), markup=False)
    return WAITING
