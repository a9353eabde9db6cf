"""Facts about who gets in, who may say yes, and where secrets are, found out by trying: they feed the risk rules beside those of ``tasks.drills``.

A fact that could not be tried is left out, and an absent fact earns no maturity. Two are read, not tried: ``replicas`` is the setting, and where there is no access
control, that strangers are refused is told by the gateway's address alone.
"""

import ipaddress
import stat
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.digest import sha256_bytes
from firstlight.errors import FirstlightError
from firstlight.settings import Settings
from firstlight.verdict import Verdict
from governance import approvers as approvers_room
from governance.approvers import Approvers
from governance.policy import RiskPolicy
from governance.secret_scan import secrets_in
from governance.signoff import judge
from governance.subject import Person, Requirement, Subject
from models.handoff_folder import read_document
from serving import control
from serving.client import InferenceClient

_PLANTED = "not_for: anything\n-----BEGIN OPENSSH PRIVATE KEY-----\n"
_PUBLIC = (".pub", ".yaml", ".crt")


def facts(settings: Settings, *, model: str, folder: Path, policy: RiskPolicy) -> dict[str, Any]:
    """Return what could be shown of this place and of the hand-off in ``folder``: true, false or a number each, absent where it was not tried."""
    tried: dict[str, Any] = {
        "finds_planted_secret": bool(secrets_in(_PLANTED)),
        "no_secret_in_hand_off": not secrets_in(read_document(folder).decode(errors="replace")),
        "keys_private": keys_are_private(settings),
        "strangers_refused": strangers_are_refused(settings, model=model),
        "sign_off_required": nobody_is_not_enough(policy),
        "replicas": settings.serving_replicas,
        **_people(settings.approvers_path, today=datetime.now(UTC).date()),
    }
    return {name: value for name, value in tried.items() if value is not None}


def keys_are_private(settings: Settings) -> bool | None:
    """Return whether every secret key file of this place can be read by its owner alone; None where there is none."""
    modes = [path.stat().st_mode for path in _secret_files(settings)]
    return all(not mode & (stat.S_IRWXG | stat.S_IRWXO) for mode in modes) if modes else None


def _secret_files(settings: Settings) -> Iterator[Path]:
    folder = settings.state / "keys"
    own = sorted(folder.iterdir()) if folder.is_dir() else []
    elsewhere = settings.pipeline_key_path
    yield from (path for path in [*own, *([] if elsewhere in own else [elsewhere])] if _holds_secret(path))


def _holds_secret(path: Path) -> bool:
    """A lock file beside a key is empty, and no secret."""
    return path.is_file() and path.suffix not in _PUBLIC and path.stat().st_size > 0


def strangers_are_refused(settings: Settings, *, model: str) -> bool | None:
    """Return whether somebody without a credential is kept from the model: by loopback, or by an answer of 401 or 403; None where nobody answers."""
    if settings.access_path is None:
        return _is_loopback(settings.gateway_host)
    try:
        url, _ = control.entrance(settings.state, environment=settings.environment, model=model)
        with InferenceClient(url, model, timeout=5) as stranger:
            return stranger.infer({"x": np.zeros((1, 1), np.float32)}).status in (401, 403)
    except FirstlightError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def nobody_is_not_enough(policy: RiskPolicy) -> bool:
    """Put a made-up release before the judge of sign-offs with no signature at all, at every band: True when it never passes."""
    nothing, nobody = sha256_bytes(b""), Approvers(format="firstlight/approvers/v1", approvers=())
    asked = [
        Subject(
            release="a-try",
            model="a-try",
            evidence={},
            model_digest=nothing,
            evidence_digest=nothing,
            policy_digest=nothing,
            approvers_digest=nothing,
            trainer=Person(name="", email=""),
            requirement=Requirement(band=band.name, roles=band.approvers, validity_days=policy.validity_days),
        )
        for band in policy.bands
    ]
    decisions = [judge([], subject=one, approvers=nobody, policy=policy, now=datetime.now(UTC)) for one in asked]
    return all(decision.verdict is not Verdict.PASS for decision in decisions)


def _people(path: Path, *, today: date) -> dict[str, int]:
    """Return how many listed people have a key that counts today, and how many have none left; nothing where the list cannot be read."""
    try:
        known, _ = approvers_room.read_approvers(path)
    except FirstlightError:
        return {}
    able = [any(key.refusal(signed=today, today=today) is None for key in person.keys) for person in known.approvers]
    return {"approvers_in_force": sum(able), "approvers_lapsed": len(able) - sum(able)}
