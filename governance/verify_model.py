"""The model of a release, where the verifier has its folder: signed as registered, every file of it, and the one that people signed over."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from firstlight.digest import sha256_file
from governance import model_signature
from governance.errors import EvidenceError, GovernanceError, SignatureError
from governance.evidence import read_evidence
from governance.model_keys import ModelKey, ModelKeys
from governance.subject import Subject
from governance.verification import Finding, Notes, shown

MODEL, PAPERS = "model.pt2", "handoff.yaml"
REGISTRATION, HAND_OFF = "registration", "hand_off"
"""Evidence documents that hold the signature's facts and the hand-off's digest."""


def check_model_file(model_file: Path, subject: Subject, notes: Notes) -> None:
    """The model file given is the one that was signed."""
    try:
        found = sha256_file(model_file)
    except OSError as problem:
        notes.wrong(str(model_file), f"cannot be read: {problem.strerror}")
        return
    what = f"is not the model that was signed: sha256 was {subject.model_digest[:16]}…, is {found[:16]}…"
    differing = [] if found == subject.model_digest else [Finding(where=str(model_file), what=what)]
    notes.part(differing, f"the model file has the signed digest {found[:16]}…")


def check_model_folder(folder: Path, place: Path, subject: Subject, *, keys: ModelKeys | None, today: date, notes: Notes) -> None:
    """The model folder at ``place`` is what was registered and signed over; ``keys`` None believes the key in the registration's evidence."""
    try:
        if keys is None:
            keys = _own_keys(folder)
            notes.believe("the model key that the registration's evidence names; give your own with --model-keys")
        signed = model_signature.verify(place, model_signature.read_signature(place), trusted=keys, today=today)
        wanted = {MODEL: subject.model_digest, PAPERS: _hand_off_digest(folder)}
        for name, digest in wanted.items():
            signed.require(name, digest, where=place)
    except GovernanceError as problem:
        notes.wrong(str(place), str(problem))
        return
    notes.checked.append(
        f"the model folder is as it was signed (OpenSSF model-signing, {len(signed.digests)} files), and people signed over its model"
    )


def _own_keys(folder: Path) -> ModelKeys:
    """Return the key in the evidence, which people signed over. Raises SignatureError when there is none."""
    facts: Any = read_evidence(folder, REGISTRATION).get("signature")
    public = facts.get("public_key") if isinstance(facts, Mapping) else None
    try:
        return ModelKeys(keys=(ModelKey(public_key=str(public), valid_from=date(1970, 1, 1)),))
    except ValueError as problem:
        raise SignatureError(
            f"the registration's evidence must name the key that signed the model, found {shown(public)}: give it yourself"
        ) from problem


def _hand_off_digest(folder: Path) -> str | None:
    found = read_evidence(folder, HAND_OFF).get("handoff_digest")
    if not isinstance(found, str):
        raise EvidenceError(f"evidence/{HAND_OFF}.json must name the hand-off's digest, it does not: the release was not described")
    return found
