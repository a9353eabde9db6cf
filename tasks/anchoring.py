"""The ledger's anchors: read from and written to where they are kept, and the ledger checked against them, exported and given to auditors.

A flow calls these, and the command line, without Prefect.
"""

import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from firstlight import settings as settings_module
from firstlight.digest import sha256_json
from firstlight.errors import FirstlightError
from firstlight.settings import Settings
from governance import anchor as anchors_of
from governance import attestation, ledger
from governance.anchor import Anchor, SignedAnchor
from governance.documents import read_bounded
from governance.errors import LedgerError
from governance.ledger import LedgerFinding
from governance.sshsig import PublicKey
from rollout.store import Store
from tasks import doors, incidents

if TYPE_CHECKING:
    from spectra.object_store import ObjectStore
    from tasks.releases import OpenedRelease

EXPORT_FOLDER = "ledger"
"""Folder of a release's part of the ledger, in the release folder."""
BROKEN = "ledger-broken"
"""Cause of the incident when the ledger is not what it was; after it a digest of the places."""
_OWNER = "platform"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchored:
    """The newest anchor, and whether it was written now."""

    anchor: Anchor
    where: str
    is_new: bool

    def __str__(self) -> str:
        """One sentence."""
        said = "is anchored" if self.is_new else "was anchored already"
        return f"entry {self.anchor.sequence} ({self.anchor.entry_digest[:12]}) {said} in {self.where}"


class Place(Protocol):
    """Where anchors are kept."""

    def names(self) -> Iterable[str]:
        """Return the file names that are there."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file's bytes, as they were written first."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Write a file unless it is there."""
        ...


class Folder:
    """Anchors in a folder; better one that is mounted from another machine."""

    def __init__(self, path: Path) -> None:
        """Nothing is made before the first anchor."""
        self._path = path

    def names(self) -> list[str]:
        """Return the file names that are there."""
        return [path.name for path in self._path.glob("*.json*")]

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return read_bounded(self._path / name, LedgerError, limit=anchors_of.SIZE_LIMIT)

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole, unless it is there."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._path, prefix=f".{name}.")
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.chmod(temporary, 0o444)
                os.link(temporary, self._path / name)
            except FileExistsError:
                return
            finally:
                os.unlink(temporary)
        except OSError as problem:
            raise LedgerError(f"anchors must be kept in {self._path}, that failed ({problem.strerror}); make it writable") from problem


class Bucket:
    """Anchors in an object store, locked there where the bucket can."""

    def __init__(self, objects: "ObjectStore", prefix: str, *, days: int) -> None:
        """``days``: how long a version is locked where the bucket has object lock and no rule of its own."""
        self._objects, self._prefix, self._days = objects, prefix.rstrip("/") + "/", days
        self._versions: dict[str, str] = {}

    def names(self) -> list[str]:
        """Return the names of everything that was ever written there, hidden since or not."""
        self._versions = self._objects.first_versions(self._prefix)
        return [uri.removeprefix(self._prefix) for uri in self._versions]

    def read(self, name: str) -> bytes:
        """Return an object's bytes as they were written first."""
        uri = self._prefix + name
        version = self._versions.get(uri) or self._objects.first_versions(uri)[uri]
        return self._objects.read_version(uri, version, limit=anchors_of.SIZE_LIMIT)

    def put(self, name: str, data: bytes) -> None:
        """Write an object unless it is there."""
        self._objects.put_once(data, self._prefix + name, keep_until=datetime.now(UTC) + timedelta(days=self._days))


def place(settings: Settings) -> Place:
    """Return where this environment keeps its anchors."""
    if settings.anchors.startswith("s3://"):
        return Bucket(doors.object_store(settings), settings.anchors, days=settings.ledger_anchor_days)
    return Folder(Path(settings.anchors))


def anchors(kept: Place) -> list[SignedAnchor]:
    """Return every anchor that is kept, by sequence. Raises LedgerError, SpectraError or TransientError when they cannot be read."""
    return anchors_of.paired({name: kept.read(name) for name in kept.names() if name.endswith(_SUFFIXES)})


def anchor(settings: Settings, records: Store) -> Anchored | None:
    """Sign the ledger's head and keep it, unless it is kept already; None for an empty ledger.

    Raises LedgerError, after opening an incident, when the ledger is not any more what the last anchor says: then nothing is signed.
    """
    head, kept = records.head(), place(settings)
    newest = _newest(kept)
    before = None if newest is None else _held(settings, records, newest)
    if newest is not None and not newest.signature:  # whoever wrote it was killed before he signed it
        newest = _keep(settings, kept, newest)
    if head is None:
        return None
    if before is not None and before.sequence == head.sequence:
        return Anchored(anchor=before, where=settings.anchors, is_new=False)
    new = anchors_of.draft(sequence=head.sequence, entry_digest=head.entry_digest, before=newest, now=datetime.now(UTC))
    done = _keep(settings, kept, SignedAnchor(name=new.name, document=new.to_bytes(), signature=b""))
    return Anchored(anchor=anchors_of.parse(done.document, done.name), where=settings.anchors, is_new=True)


def anchor_at_the_end(settings: Settings, records: Store) -> None:
    """Anchor where a release has just ended; that it cannot be done is a warning, for the release has ended, and the nightly flow tries again."""
    try:
        done = anchor(settings, records)
        _LOG.info("%s", done)
    except FirstlightError as problem:
        _LOG.warning("the ledger's head could not be anchored: %s", problem)


def check(settings: Settings, records: Store) -> tuple[int, int, list[LedgerFinding]]:
    """Check the whole ledger, its seals and every anchor; return how many entries and anchors there are, and what is wrong.

    Something wrong opens an incident. Raises what reading the anchors or the keys raises.
    """
    known = anchors(place(settings))
    records.vouch_for_adopted()  # whoever brought the store up may have had no key
    lines = [entry.to_dict() for entry in records.ledger()]
    found = ledger.check(lines, known, trusted=trusted(settings) if known else (), keys=doors.ledger_keys(settings).read())
    if found:
        _tell(settings, records, found)
    return len(lines), len(known), found


def export(settings: Settings, records: Store, folder: Path, *, first: int = 1, last: int | None = None) -> int:
    """Write entries ``first`` to ``last`` and the anchors about them into ``folder``; return how many entries."""
    known = anchors(place(settings))  # before the entries: one about an entry that is not there shall show
    about = [one for one in known if first - 1 <= int(one.name) and (last is None or int(one.name) <= last)]
    entries = records.ledger(first, last)
    ledger.write_export(folder, [entry.to_dict() for entry in entries], about)
    return len(entries)


def export_for(release: "OpenedRelease") -> int:
    """Write the ledger's part from the opening of ``release`` to now into ``ledger/`` of its folder; return how many entries.

    Other models' entries of that time are part of it: a chain with some taken out could not be checked. Raises LedgerError.
    """
    settings = settings_module.current()
    with doors.store(settings) as records:
        return export(settings, records, Path(release.folder) / EXPORT_FOLDER, first=_opening(records, release))


def trusted(settings: Settings) -> tuple[PublicKey, ...]:
    """Return the pipeline keys whose anchors count here. Raises SignatureError."""
    key_file(settings)
    return attestation.read_trusted(settings.trusted_keys_path)


def key_file(settings: Settings) -> Path:
    """Return the pipeline's private key, made where the default one is not there yet."""
    return settings.pipeline_key_path if settings.pipeline_key else attestation.ensure_key(settings.pipeline_key_path)


_SUFFIXES = (anchors_of.SUFFIX, anchors_of.SIGNATURE_SUFFIX)


def _newest(kept: Place) -> SignedAnchor | None:
    names = [name for name in kept.names() if name.endswith(_SUFFIXES)]
    documents = anchors_of.paired(dict.fromkeys(names, b""))
    if not documents:
        return None
    name = documents[-1].name
    files = [name + suffix for suffix in _SUFFIXES]
    return anchors_of.paired({one: kept.read(one) for one in files if one in names})[0]


def _held(settings: Settings, records: Store, newest: SignedAnchor) -> Anchor:
    """Return the newest anchor where the ledger still is what it says. Raises LedgerError."""
    said = anchors_of.read(newest, trusted=trusted(settings)) if newest.signature else anchors_of.parse(newest.document, newest.name)
    there = records.ledger(said.sequence, said.sequence)
    if [entry.entry_digest for entry in there] == [said.entry_digest]:
        return said
    found = "it is another one" if there else "it is not there"
    sentence = f"it must be what was anchored on {said.at}, {found}: the ledger was cut off or replaced"
    finding = LedgerFinding(where=f"entry {said.sequence}", what=sentence)
    _tell(settings, records, [finding])
    raise LedgerError(f"{finding}; see firstlight ledger check")


def _keep(settings: Settings, kept: Place, unsigned: SignedAnchor) -> SignedAnchor:
    """Keep and sign an anchor; where another process was faster with one of the same entry, that one. Raises LedgerError for any other."""
    document, signature = (unsigned.name + suffix for suffix in _SUFFIXES)
    kept.put(document, unsigned.document)
    there = SignedAnchor(name=unsigned.name, document=kept.read(document), signature=b"")
    wanted, found = (anchors_of.parse(one.document, one.name) for one in (unsigned, there))
    if replace(wanted, at=found.at) != found:
        raise LedgerError(
            f"anchor {found.name} in {settings.anchors} must be about the entry of this ledger, it is about another one: "
            "somebody else's anchor lies there; see firstlight ledger check"
        )
    signed = anchors_of.complete(there, key_file=key_file(settings))
    kept.put(signature, signed.signature)
    return signed


def _tell(settings: Settings, records: Store, found: Sequence[LedgerFinding]) -> None:
    """Open an incident about these places, unless there has been one: what a person has answered is not asked again every night."""
    digest = sha256_json(sorted({one.where for one in found}))
    cause = f"{BROKEN}:{digest[:12]}"
    if any(one.cause == cause for one in records.incidents(settings.environment, settings.model)):
        return
    incidents.open_incident(
        settings,
        records,
        settings.model,
        cause=cause,
        severity="critical",
        summary=f"{len(found)} findings in the ledger, the first: {found[0]}",
        evidence_digest=digest,
        owner=_OWNER,
        by="firstlight",
    )


def _opening(records: Store, release: "OpenedRelease") -> int:
    said = f"release {release.id} opened"
    for one in records.decisions(release.environment, release.model):
        if one.what == "open-release" and one.detail == said:
            return one.number
    raise LedgerError(f"the ledger must tell of the opening of release {release.id}, it does not; see firstlight ledger check")
