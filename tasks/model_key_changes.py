"""What people do to the keys that sign models: look, trust, rotate, revoke, and sign again. Every change leaves an entry in the ledger."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from firstlight.errors import FirstlightError, RefusedError
from firstlight.settings import Settings
from governance import model_keys, model_signature
from governance.documents import read_bounded
from governance.errors import SignatureError
from governance.model_keys import ModelKey, ModelKeys, shown
from rollout.spec import ServableVersion
from rollout.store import Store
from tasks import doors, refusals, vouching

TRUST, ROTATE, REVOKE, SIGN = "trust-model-key", "rotate-model-key", "revoke-model-key", "sign-model-again"
"""What the ledger calls the changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedVersion:
    """A version that is, was or may be champion, and by which key it is signed."""

    version: str
    is_live: bool
    """Requests go to it now."""
    fingerprint: str | None
    """Of the key its signature names; None when it has none."""
    problem: str
    """Why nothing here would load it; "" when it would be loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedAgain:
    """What came of signing one version again."""

    version: str
    fingerprint: str | None
    """Of the key that signed; None when it was not signed."""
    problem: str
    """Why not; or what else did not go well."""


def versions(settings: Settings, model: str) -> list[SignedVersion]:
    """Return every version that a model server here may be asked to load: all champions there were, and what traffic names now."""
    with doors.store(settings) as records:
        live = _live(records, settings, model)
        known = [records.version(model, number) for number in _numbers(records, settings, model)]
    return [_looked_at(settings, version, is_live=version.version in live) for version in known]


def signing_now(settings: Settings) -> str | None:
    """Return the fingerprint of the key that signs here; None for one in a token, which is not asked, and where none was made yet."""
    source = vouching.key_source(settings)
    if source.kind == "file" and not source.file.exists():
        return None
    public = source.public_pem()
    return None if public is None else model_keys.fingerprint_of(public)


def trust(settings: Settings, public: Path | None) -> ModelKey:
    """Believe what the key in ``public`` (PEM; None: the one that signs here) signs, from today. Raises SignatureError."""
    pem = read_bounded(public, SignatureError).decode(errors="replace") if public else vouching.key_source(settings).public_pem()
    if pem is None:
        raise SignatureError("the public half of a key in a token must be given, found none: export it as PEM and name the file (--public)")
    added = ModelKey(public_key=pem, valid_from=vouching.today())
    path = settings.model_keys_path
    with model_keys.changing(path):
        keys = vouching.trusted(settings).trusting(added.public_key, since=added.valid_from) if path.exists() else ModelKeys(keys=(added,))
        model_keys.write_model_keys(path, keys)
    _note(settings, TRUST, added.fingerprint, f"key {shown(added.fingerprint)} is trusted from {added.valid_from}")
    return keys.find(added.fingerprint)


def rotate(settings: Settings, *, overlap: timedelta) -> tuple[str, str]:
    """Make a new signing key in place of the old one, which counts for ``overlap`` longer; return both fingerprints.

    Raises RefusedError where the key is not a file of ours, SignatureError when either file cannot be used.
    """
    source = vouching.key_source(settings)
    if source.kind != "file":
        raise RefusedError(
            f"a key that comes from {source.kind} must be changed where it is kept: make another there, name it in the settings, "
            "then `firstlight keys trust` and `firstlight keys sign`"
        )
    vouching.ensure_key(settings)
    old, new = model_keys.rotate(source.file, settings.model_keys_path, today=vouching.today(), overlap=overlap)
    _note(settings, ROTATE, new, f"key {shown(new)} signs from now on; {shown(old)} counts until {vouching.today() + overlap}")
    return old, new


def revoke(settings: Settings, beginning: str, *, reason: str) -> ModelKey:
    """Believe nothing that a key ever signed, from today; a key that signs here is replaced first. Raises SignatureError, RefusedError."""
    found = vouching.trusted(settings).find(beginning)
    if found.fingerprint == signing_now(settings):
        rotate(settings, overlap=timedelta(0))
    path = settings.model_keys_path
    with model_keys.changing(path):
        keys = vouching.trusted(settings).revoking(found.fingerprint, on=vouching.today(), reason=reason)
        model_keys.write_model_keys(path, keys)
    _note(settings, REVOKE, found.fingerprint, f"key {shown(found.fingerprint)} is revoked: {reason}")
    return keys.find(found.fingerprint)


def sign(settings: Settings, model: str, wanted: tuple[str, ...] = ()) -> list[SignedAgain]:
    """Sign ``wanted`` versions (none: every one of :func:`versions`) with the present key; one that is refused stops no other."""
    with doors.store(settings) as records:
        numbers = wanted or _numbers(records, settings, model)
    return [_signed_again(settings, model, number) for number in numbers]


def _signed_again(settings: Settings, model: str, number: str) -> SignedAgain:
    try:
        with doors.store(settings) as records:
            version = records.version(model, number)
        signed = vouching.sign_again(settings, version)
    except RefusedError as error:
        return SignedAgain(version=number, fingerprint=None, problem=str(error))
    problem = _kept_in_registry(settings, version)
    _note(
        settings, SIGN, version.handoff_digest, f"version {number} of {model} is signed with key {shown(signed.fingerprint)}", model=model
    )
    return SignedAgain(version=number, fingerprint=signed.fingerprint, problem=problem)


def _kept_in_registry(settings: Settings, version: ServableVersion) -> str:
    """Let the registry have the new signature too; return why it has not."""
    signature = model_signature.read_signature(version.folder)
    assert signature is not None, "it was signed just now"
    try:
        known = doors.registry(settings)
        known.keep_signature(known.version(version.model, version.version), signature)
    except FirstlightError as error:
        return f"the registry did not follow, so that nobody can fetch it yet: {error}"
    return ""


def _numbers(records: Store, settings: Settings, model: str) -> tuple[str, ...]:
    champions = [line.version for line in records.history(settings.environment, model)]
    return tuple(sorted({*champions, *_live(records, settings, model)}, key=lambda number: (len(number), number)))


def _live(records: Store, settings: Settings, model: str) -> set[str]:
    desired = records.desired(settings.environment, model)
    return set() if desired is None else {number for number in (desired.traffic.stable, desired.traffic.canary) if number is not None}


def _looked_at(settings: Settings, version: ServableVersion, *, is_live: bool) -> SignedVersion:
    fingerprint, problem = None, ""
    try:
        signature = model_signature.read_signature(version.folder)
        fingerprint = None if signature is None else model_signature.key_of(signature, where=version.folder)
        vouching.require_version(settings, version)
    except RefusedError as error:
        problem = str(error)
    return SignedVersion(version=version.version, is_live=is_live, fingerprint=fingerprint, problem=problem)


def _note(settings: Settings, what: str, digest: str, detail: str, *, model: str | None = None) -> None:
    with doors.store(settings) as records:
        records.record(settings.environment, model or settings.model, what=what, digest=digest, detail=detail, by=refusals.who())


def document(settings: Settings, model: str) -> dict[str, Any]:
    """Return keys and versions as plain JSON values; there is no secret in it."""
    now, today = signing_now(settings), vouching.today()
    keys = vouching.trusted(settings).keys if settings.model_keys_path.exists() else ()
    found = versions(settings, model)
    return {
        "source": vouching.key_source(settings).kind,
        "signs_now": now,
        "trusted": str(settings.model_keys_path),
        "keys": [
            {
                "fingerprint": key.fingerprint,
                "state": key.state(today),
                "valid_from": key.valid_from.isoformat(),
                "valid_until": key.valid_until and key.valid_until.isoformat(),
                "revoked": key.revoked and key.revoked.isoformat(),
                "reason": key.reason,
                "versions": [version.version for version in found if version.fingerprint == key.fingerprint],
            }
            for key in keys
        ],
        "versions": [
            {"version": version.version, "live": version.is_live, "key": version.fingerprint, "problem": version.problem}
            for version in found
        ],
    }
