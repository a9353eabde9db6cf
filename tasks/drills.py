"""Facts about the platform that a release relies on, found out by trying: does a tampered model get refused, do wrong answers?

These feed the risk rules. A fact that nobody tried is left out, and an absent fact earns no maturity.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from firstlight.errors import RefusedError
from firstlight.settings import Settings
from firstlight.verdict import Verdict
from governance import model_signature
from models import golden, handoff
from rollout.spec import RolloutPolicy, ServableVersion
from rollout.store import Store
from tasks import doors, policy, safeguards, vouching

_FRESH_SECONDS = 5.0


def platform_facts(settings: Settings, records: Store, *, model: str, folder: Path, rollout: RolloutPolicy) -> dict[str, Any]:
    """Return what could be shown about this platform now, as evidence: whether each try succeeded, absent where none was made."""
    seen = records.observed(settings.environment, model)
    champion = records.champion(settings.environment, model)
    is_supervised = seen is not None and abs(time.time() - seen.heartbeat) < _FRESH_SECONDS
    tried: dict[str, bool] = {
        "verify_before_load": refuses_changed_bytes(folder),
        "golden_before_ready": notices_wrong_answers(folder),
        "supervised": is_supervised,
    }
    if champion is not None:
        tried["rollback_available"] = _is_loadable(settings, records.version(model, champion.version))
    if vouching.is_signed(folder):
        tried["signed_before_load"] = refuses_what_nobody_signed(settings, folder)
    if doors.has_logged(settings, model=model):
        tried["inference_log"] = True
    guarded = safeguards.facts(settings, model=model, folder=folder, policy=policy.read(settings.policy_path).risk)
    tried |= {name: value for name, value in guarded.items() if isinstance(value, bool)}
    broken = [name for name in ("verify_before_load", "golden_before_ready", "signed_before_load") if not tried.get(name, True)]
    verdict = Verdict.FAIL if broken else Verdict.PASS if is_supervised else Verdict.CANNOT_TELL
    reasons = [f"{name} must hold on this platform, the try showed it does not" for name in broken]
    reasons += [] if is_supervised else ["nobody serves this environment now, so serving could not be tried"]
    reasons += [
        f"{name.replace('_', ' ')} does not hold here: it earns nothing against the risks" for name in guarded if guarded[name] is False
    ]
    summary = f"{sum(tried.values())} of {len(tried)} platform facts held when they were tried"
    more = _stated(rollout, has_stable=champion is not None) | (
        {} if champion is None else _rehearsed(settings, records, model, champion.version)
    )
    return {"verdict": verdict.value, "summary": summary, "reasons": reasons, **guarded, **tried, **more}


def _stated(rollout: RolloutPolicy, *, has_stable: bool) -> dict[str, Any]:
    """Return what the policy in force says of the canary. Without a stable version nothing limits what the first one meets, so nothing is said."""
    return {"lease_seconds": rollout.lease_seconds, "canary": rollout.steps[0] < 100} if has_stable else {}


def _rehearsed(settings: Settings, records: Store, model: str, version: str) -> dict[str, str]:
    """Return what the last rehearsal of going back to ``version`` showed, where there was one."""
    known = [drill for drill in records.drills(settings.environment, model) if drill.version == version]
    return {"rollback_drill": max(known, key=lambda drill: drill.at).verdict} if known else {}


def refuses_changed_bytes(folder: Path) -> bool:
    """Load a copy of the hand-off, change one byte of the copy's model, load again: True when only the changed copy is refused."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".drill-") as scratch:
        copy = Path(scratch) / "hand-off"
        shutil.copytree(folder, copy)
        if not _loads(copy):
            return False
        model = copy / "model.pt2"
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(bytes(data))
        return not _loads(copy)


def refuses_what_nobody_signed(settings: Settings, folder: Path) -> bool:
    """Ask for the signature of a folder and of its copies: True when it holds, and neither an added file nor a missing signature passes."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".drill-") as scratch:
        copy = Path(scratch) / "hand-off"
        shutil.copytree(folder, copy)
        signature = model_signature.read_signature(folder)
        held = _is_vouched_for(settings, copy, signature)
        alone = _is_vouched_for(settings, copy, None)
        (copy / "added.py").write_bytes(b"")
        return held and not alone and not _is_vouched_for(settings, copy, signature)


def _is_vouched_for(settings: Settings, folder: Path, signature: bytes | None) -> bool:
    try:
        vouching.require(settings, folder, signature)
    except RefusedError:
        return False
    return True


def _is_loadable(settings: Settings, version: ServableVersion) -> bool:
    try:
        vouching.require_version(settings, version)
    except RefusedError:
        return False
    return _loads(version.folder)


def notices_wrong_answers(folder: Path) -> bool:
    """Compare the golden answers with ones that are off by one: True when the comparison fails, and passes for the right ones."""
    papers = handoff.load(folder)
    _, recorded = papers.golden()
    wrong = {name: values + 1 if values.dtype.kind == "f" else values for name, values in recorded.items()}
    epsilon = papers.model.epsilon
    right = golden.compare(recorded, recorded, epsilon=epsilon).verdict
    return right is Verdict.PASS and golden.compare(recorded, wrong, epsilon=epsilon).verdict is Verdict.FAIL


def _loads(folder: Path | str) -> bool:
    from models.program import Program  # and torch with it

    try:
        Program.load(folder, threads=1)
    except RefusedError:
        return False
    return True
