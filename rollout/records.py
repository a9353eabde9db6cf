"""What the store remembers for good: releases, champions and decisions."""

from dataclasses import dataclass
from enum import StrEnum


class ReleaseStatus(StrEnum):
    """How a release stands. All but OPEN are ends."""

    OPEN = "open"
    """Running, waiting for a person, or waiting to be continued after its process died."""
    PROMOTED = "promoted"
    """Its version became champion."""
    FAILED = "failed"
    """A gate was shown not to hold."""
    CANNOT_TELL = "cannot-tell"
    """A gate had too little evidence."""
    ERROR = "error"
    """Something broke that says nothing about the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """One attempt to bring one hand-off to champion in one environment."""

    id: str
    """``<model>-<first 12 digits of the model digest>``, with ``-<attempt>`` from the second attempt on; unique in the store."""
    environment: str
    model: str
    attempt: int
    status: ReleaseStatus
    handoff_digest: str
    model_digest: str
    policy_digest: str
    opened_by: str
    opened_at: float
    closed_at: float | None = None
    summary: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion:
    """One line of the champion history; the line with the highest sequence is the champion."""

    environment: str
    model: str
    sequence: int
    """1, 2, 3 … without gaps within (environment, model)."""
    version: str
    digest: str
    """sha256 of model.pt2."""
    previous: str | None
    """The version a rollback from here goes to."""
    action: str
    """``promote`` or ``rollback``."""
    release_id: str | None
    """The release that promoted it; None for a rollback."""
    reason: str
    by: str
    at: float
    """Unix seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One line of the append-only decision log."""

    number: int
    environment: str
    model: str
    what: str
    """``traffic``, ``promote``, ``rollback``, ``open-release``, ``close-release``, ``policy-changed``, …"""
    digest: str
    """What it was about: a model digest, or sha256 of the traffic's canonical JSON."""
    detail: str
    """One sentence."""
    by: str
    at: float
