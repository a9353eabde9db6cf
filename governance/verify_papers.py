"""What follows from a release's evidence: the register filled again, the papers made again, and the bundle that joins it all."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from governance import intoto, manifest, papers, register
from governance.documents import read_bounded
from governance.errors import EvidenceError, GovernanceError
from governance.evidence import evidence_names, evidence_path, read_evidence
from governance.papers.facts import RELEASE
from governance.register.filling import OWN_NAME
from governance.sshsig import PublicKey, public_key
from governance.verification import Finding, Notes, differs, shown

REGISTER = f"evidence/{OWN_NAME}.json"


def check_register(folder: Path, notes: Notes) -> None:
    """Every row of the register follows again from the evidence, by the framework that is stored in it."""
    if not evidence_path(folder, OWN_NAME).exists():
        notes.wrong(REGISTER, "missing: a release that people are asked about has its register")
        return
    try:
        claimed = read_evidence(folder, OWN_NAME)
        documents = {name: read_evidence(folder, name) for name in evidence_names(folder) if name != OWN_NAME}
        used = register.framework_of(claimed)
        again = register.fill(documents, framework=used).to_dict()
    except (GovernanceError, ValueError, TypeError, AttributeError) as problem:
        notes.wrong(REGISTER, f"cannot be filled again: {shown(problem)}")
        return
    findings = [*_rows(claimed, again), *(differs(REGISTER, key, claimed.get(key), again[key]) for key in _others(claimed, again))]
    own = " of firstlight's own" if used.digest == register.load_framework().digest else ", which are not those of this firstlight"
    notes.part(findings, f"the register follows again from the evidence, by {len(again['rows'])} rules{own}: {again['summary']}")


def _rows(claimed: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the rows that are not what the evidence gives, by their NIST id."""
    rows = {str(row.get("nist_ref")): row for row in claimed.get("rows") or () if isinstance(row, Mapping)}
    for row in again["rows"]:
        found = rows.pop(row["nist_ref"], None)
        if found is None:
            yield Finding(where=REGISTER, what=f"{row['nist_ref']} is missing: the register has a row for every subcategory")
        elif found != row:
            parts = [key for key in row if found.get(key) != row[key]] or sorted(found.keys() - row.keys())
            yield differs(REGISTER, f"{row['nist_ref']} {parts[0]}", found.get(parts[0]), row.get(parts[0], "nothing"))
    for name in rows:
        yield Finding(where=REGISTER, what=f"{shown(name)} is no subcategory of the framework: somebody wrote it in")


def _others(claimed: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    return [key for key in again if key != "rows" and claimed.get(key) != again[key]]


def check_papers(folder: Path, notes: Notes) -> None:
    """Every paper is, byte for byte, what the evidence gives."""
    found = [Finding(where=where, what=what) for where, what in papers.differences(folder)]
    notes.part(found, f"{len(papers.PAPERS)} papers are what the evidence gives, made again byte for byte")


def check_bundle(folder: Path, trusted: Sequence[PublicKey], notes: Notes) -> None:
    """One of the ``trusted`` pipeline keys signed exactly these files."""
    found = [Finding(where=where, what=what) for where, what in intoto.differences(folder, trusted=trusted)]
    notes.part(found, f"{intoto.BUNDLE_FILE} is signed by the pipeline ({', '.join(key.fingerprint for key in trusted)}), over these files")


def check_signed(folder: Path, trusted: Sequence[PublicKey], notes: Notes) -> None:
    """One of the ``trusted`` pipeline keys signed the list of all files, the page included."""
    try:
        key = manifest.require_signed(folder, trusted=trusted)
    except GovernanceError as problem:
        notes.wrong(manifest.SIGNATURE_FILE, str(problem))
        return
    notes.checked.append(f"{manifest.MANIFEST_FILE} is signed by the pipeline ({key.fingerprint})")


def release_facts(folder: Path) -> Mapping[str, Any]:
    """Return what the store knew of the release when its papers were made; nothing where that cannot be read."""
    try:
        return read_evidence(folder, RELEASE)
    except GovernanceError:
        return {}


def own_keys(folder: Path) -> tuple[PublicKey, ...]:
    """Return the public key that lies in the folder; none where it cannot be read."""
    try:
        data = read_bounded(folder / intoto.PUBLIC_KEY_FILE, EvidenceError)
        return (public_key(data.decode("utf-8", "replace")),)
    except GovernanceError:
        return ()
