"""Model folders are signed when they are registered, and nothing here loads one whose signature does not hold today.

Two signatures answer two questions. That of OpenSSF model-signing (:mod:`governance.model_signature`) says that these are the bytes that were
registered, and anybody can check it with the stock tool. The pipeline's own (:mod:`governance.attestation`) says that a version of this number is run
from them in this way. Who loads a version asks for both; who loads a folder, for the first.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight.digest import write_atomic
from firstlight.settings import Settings
from governance import attestation, model_keys, model_signature
from governance.errors import SignatureError
from governance.model_keys import KeySource, ModelKey, ModelKeys
from governance.model_signature import SignedFolder
from models.document import DOCUMENT, MODEL
from rollout.spec import ServableVersion

if TYPE_CHECKING:
    from models.handoff import HandOff  # and pandas with it: a rollback must not wait for it

_SOON_DAYS = 30
"""So long before the last day of a key people are told."""
_MANIFEST = "manifest.json"
"""What pins a compiled file; see ``models.backends.compiled``."""


def key_source(settings: Settings) -> KeySource:
    """Return where this environment's signing key is: in a token, in a variable, or in a file."""
    return KeySource(file=settings.model_key_path, pem=settings.model_key_pem, pkcs11=settings.model_key_pkcs11)


def is_ours(settings: Settings) -> bool:
    """Return whether key and trust are the ones that are made here on first use."""
    return not (settings.model_key or settings.model_keys_file) and key_source(settings).kind == "file"


def ensure_key(settings: Settings) -> None:
    """Make this environment's own signing key, once; nothing happens where the settings name another."""
    if is_ours(settings):
        model_keys.ensure_model_key(settings.model_key_path, settings.model_keys_path, today=today())


def trusted(settings: Settings) -> ModelKeys:
    """Return the keys whose signatures are believed here. Raises SignatureError when there are none."""
    return model_keys.read_model_keys(settings.model_keys_path)


def today() -> date:
    """Return the day by which keys count."""
    return datetime.now(UTC).date()


def sign(settings: Settings, papers: "HandOff") -> SignedFolder:
    """Sign the folder of a hand-off that was verified, and keep the signature beside it; one that holds already is kept.

    Raises SignatureError when the key cannot be used, is not trusted here, or the folder is no longer what ``papers`` says.
    """
    signed = _sign(settings, papers.folder)
    _require_papers(signed, papers)
    return signed


def sign_compiled(settings: Settings, digest: str) -> SignedFolder:
    """Sign the compiled file of a backend, which is native code, as :func:`sign` does a hand-off."""
    folder = settings.compiled / digest
    signed = _sign(settings, folder)
    signed.require(_MANIFEST, digest, where=folder)
    return signed


def require(settings: Settings, folder: Path | str, signature: bytes | None = None) -> SignedFolder:
    """Return what was signed when ``signature`` (None: the one beside it) is of exactly this folder, by a key that counts. Raises SignatureError."""
    found = model_signature.read_signature(folder) if signature is None else signature
    return model_signature.verify(folder, found, trusted=trusted(settings), today=today())


def is_signed(folder: Path | str) -> bool:
    """Return whether a signature lies beside ``folder``, whatever it says."""
    return model_signature.signature_path(folder).exists()


def require_fetched(settings: Settings, folder: Path, signature: bytes | None, *, version: str) -> None:
    """Raise SignatureError unless ``signature``, as the registry has it, is of exactly this folder, by a key that counts."""
    if signature is None:
        raise SignatureError(
            f"version {version} in the registry must have the signature it was registered with, it has none: release its hand-off folder instead, "
            "or sign what was registered before (firstlight keys sign)"
        )
    require(settings, folder, signature)


def keep_signature(folder: Path, signature: bytes | None) -> None:
    """Keep a signature that was verified beside ``folder``."""
    if signature is not None and model_signature.read_signature(folder) != signature:
        write_atomic(model_signature.signature_path(folder), signature)


def load(settings: Settings, folder: Path | str) -> "HandOff":
    """Return the hand-off in a registered folder, opened only once its signature holds. Raises SignatureError, HandOffError."""
    from models import handoff

    signed = require(settings, folder)
    papers = handoff.load(folder)
    _require_papers(signed, papers)
    return papers


def require_version(settings: Settings, version: ServableVersion) -> None:
    """Return when a version may be loaded here: signed as this version, signed as these bytes, and the bytes are there.

    Nothing is parsed. A compiled file that is not there is no reason: the model is then run as it was handed over. Raises SignatureError.
    """
    require_attested(settings, version)
    folder = Path(version.folder)
    signed = require(settings, folder)
    signed.require(DOCUMENT, version.handoff_digest, where=folder)
    signed.require(MODEL, version.model_digest, where=folder)
    if version.backend_digest is not None and (compiled := settings.compiled / version.backend_digest).exists():
        require(settings, compiled).require(_MANIFEST, version.backend_digest, where=compiled)


def open_version(settings: Settings, version: ServableVersion) -> "HandOff":
    """Return the papers of a version that may be loaded here (:func:`require_version`). Raises SignatureError, HandOffError."""
    require_version(settings, version)
    papers = load(settings, version.folder)
    _require_released(version, papers)
    return papers


def require_attested(settings: Settings, version: ServableVersion) -> None:
    """Raise SignatureError unless a pipeline that is trusted here signed ``version``; the folder is not looked at."""
    known = attestation.read_trusted(settings.trusted_keys_path)
    attestation.verify_attestation(statement_of(version), version.signature, trusted=known)


def concerns(settings: Settings, versions: Iterable[ServableVersion]) -> list[str]:
    """Return a sentence for each version that nothing here would load, or would not for much longer, by the key that signed it.

    Only the keys' dates are looked at, not the bytes: this is asked often.
    """
    found = []
    for version in versions:
        try:
            key = _key_of(settings, version)
        except SignatureError as error:
            found.append(str(error))
            continue
        days = (key.valid_until - today()).days if key.valid_until else _SOON_DAYS + 1
        if days <= _SOON_DAYS:
            found.append(
                f"what signed version {version.version} counts until {key.valid_until}, then nothing here loads it: "
                "firstlight keys rotate, or firstlight keys sign with a key in force"
            )
    return found


def _key_of(settings: Settings, version: ServableVersion) -> ModelKey:
    where = f"version {version.version} of {version.model}"
    signature = model_signature.read_signature(version.folder)
    if signature is None:
        raise SignatureError(f"{where} must be signed, found no signature beside {version.folder}: firstlight keys sign {version.version}")
    return trusted(settings).require(model_signature.key_of(signature, where=version.folder), where=where, today=today())


def statement_of(version: ServableVersion) -> attestation.VersionStatement:
    """Return what is signed of a version: everything but where it lies."""
    return attestation.VersionStatement(
        model=version.model,
        version=version.version,
        model_digest=version.model_digest,
        handoff_digest=version.handoff_digest,
        backend=version.backend,
        backend_digest=version.backend_digest,
    )


def sign_again(settings: Settings, version: ServableVersion) -> SignedFolder:
    """Sign the folders of a version with the present key: what the pipeline attested and what lies there must be the same bytes.

    For what was registered before model folders were signed, and after a rotation. Raises SignatureError, HandOffError.
    """
    from models import handoff

    require_attested(settings, version)
    papers = handoff.load(version.folder)
    _require_released(version, papers)
    if version.backend_digest is not None and (settings.compiled / version.backend_digest).exists():
        _sign(settings, settings.compiled / version.backend_digest, anew=True).require(
            _MANIFEST, version.backend_digest, where=settings.compiled
        )
    signed = _sign(settings, papers.folder, anew=True)
    _require_papers(signed, papers)
    return signed


def _sign(settings: Settings, folder: Path, *, anew: bool = False) -> SignedFolder:
    """Keep a signature that holds and is by the present key, else make one; ``anew`` where a token, which is not asked who it is, made the old one."""
    ensure_key(settings)
    source, known = key_source(settings), trusted(settings)
    present = model_signature.read_signature(folder)
    if present is not None and not (anew and source.pkcs11) and _is_by(source, present, folder):
        with suppress(SignatureError):  # what it was over is no longer here, or its key no longer counts
            return model_signature.verify(folder, present, trusted=known, today=today())
    made = model_signature.sign(folder, source)
    if known.get(by := model_signature.key_of(made, where=folder)) is None:
        raise SignatureError(
            f"the key that signs here, {model_keys.shown(by)}, must be trusted here, {settings.model_keys_path} does not have it: firstlight keys trust"
        )
    signed = model_signature.verify(folder, made, trusted=known, today=today())
    keep_signature(folder, made)
    return signed


def _is_by(source: KeySource, signature: bytes, folder: Path) -> bool:
    """Return whether ``signature`` may be by the present key; a token is not asked who it is, so any that holds may be."""
    public = source.public_pem()
    try:
        return public is None or model_signature.key_of(signature, where=folder) == model_keys.fingerprint_of(public)
    except SignatureError:
        return False


def _require_papers(signed: SignedFolder, papers: "HandOff") -> None:
    """Raise SignatureError unless the files that were signed are those of ``papers``: nobody exchanged them between the two looks."""
    wanted = {DOCUMENT: papers.digest, **{name: entry.sha256 for name, entry in papers.files.items()}}
    for name, digest in wanted.items():
        signed.require(name, digest, where=papers.folder)


def _require_released(version: ServableVersion, papers: "HandOff") -> None:
    if (papers.model_digest, papers.digest) != (version.model_digest, version.handoff_digest):
        raise SignatureError(
            f"{version.folder} must hold the bytes that were released as version {version.version} of {version.model}, it holds others: put them back"
        )
