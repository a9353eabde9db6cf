"""Training hand-off: from a night's files to a hand-off folder."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parseaddr
from pathlib import Path
from typing import Any

from prefect import task
from pydantic import ValidationError

import spectra
from firstlight import settings as settings_module
from firstlight.errors import RefusedError
from firstlight.settings import ROOT, Settings
from models import training as trainer_room
from models.handoff import HandOff
from models.handoff import load as load_handoff
from tasks import journal, observing, vouching
from tasks.doors import object_store, store
from tasks.observing import Night
from tasks.retries import retrying

FEWEST_SPECTRA = 300
"""Good spectra below which training is refused: fewer cannot be split into training, validation and held-out rows that say anything."""


@task(name="train", task_run_name="Train on night {night.night}", persist_result=True, result_serializer="json", **retrying())
def train(night: Night, *, warm_start: bool) -> str:
    """Train on a night's files and return the hand-off folder. A finished hand-off of the same night is kept."""
    settings = settings_module.current()
    kept = settings.folder("trained")
    champion = _champion_folder(settings) if warm_start else None
    out = kept / f"{settings.model}-{night.night}-{champion.name if champion else 'cold'}"
    if out.exists():
        return str(load_handoff(out).folder)
    about = str(night.night)
    journal.note(settings, about=about, stage="train", event="started")
    started = datetime.now(UTC)
    made = train_on(
        settings,
        [night.uri],
        out,
        trainer=_identity(settings.trainer),
        recipe={"seed": night.night, **({"epochs": settings.epochs} if settings.epochs else {})},
        warm_start=champion,
        progress=lambda phase, fraction: journal.note(
            settings, about=about, stage="train", event="progress", phase=phase, fraction=fraction
        ),
    )
    seconds = (datetime.now(UTC) - started).total_seconds()
    journal.note(settings, about=about, stage="train", event="finished", verdict="done", summary=_figures(made), seconds=round(seconds, 1))
    return str(made.folder)


def train_on(
    settings: Settings,
    sources: Sequence[str],
    out: Path,
    *,
    trainer: tuple[str, str],
    recipe: Mapping[str, Any],
    warm_start: Path | None,
    progress: Callable[[str, float], None],
    large: bool = False,
) -> HandOff:
    """Read ``sources`` and train; return the hand-off written to ``out``. Raises RefusedError when there is too little to train on."""
    files = [file for source in sources for file in spectra.find(source, store=object_store(settings))]
    batch, refused = observing.read_all(settings, files)
    if len(batch) < FEWEST_SPECTRA:
        raise RefusedError(
            f"training needs at least {FEWEST_SPECTRA} good spectra, {len(batch)} were found in {len(files)} files "
            f"({len(batch.refused)} rows and {len(refused)} files were refused): add more files"
        )
    folder = trainer_room.train(
        batch,
        _recipe(recipe, large=large),
        out=out,
        trainer=trainer,
        data_uri=sources[0] if len(sources) == 1 else f"{len(sources)} sources, first {sources[0]}",
        data_files=observing.local_files(files),
        git_commit=_git_commit(),
        progress=progress,
        warm_start=warm_start,
    )
    return load_handoff(folder)


def _champion_folder(settings: Settings) -> Path | None:
    with store(settings) as records:
        champion = records.champion(settings.environment, settings.model)
        version = records.version(settings.model, champion.version) if champion else None
    if version is None:
        return None
    vouching.require_version(settings, version)
    return Path(version.folder)


def _recipe(changes: Mapping[str, Any], *, large: bool) -> trainer_room.Recipe:
    """Return the recipe with ``changes``. Raises RefusedError that names every wrong value."""
    base = trainer_room.Recipe.large() if large else trainer_room.Recipe()
    try:
        return trainer_room.Recipe.model_validate({**base.model_dump(), **changes})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise RefusedError(f"the recipe must be valid, found {wrong}: correct the option of that name") from None


def _git_commit() -> str:
    """Return the commit of the code that trains, with ``-dirty`` when files differ from it; ``none`` outside a checkout."""
    asked = [["git", "-C", str(ROOT), *words] for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))]
    try:
        commit, changes = (subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip() for words in asked)
    except (OSError, subprocess.SubprocessError):
        return "none"
    return f"{commit}-dirty" if changes else commit


def _identity(text: str) -> tuple[str, str]:
    name, email = parseaddr(text)
    if not name or "@" not in email:
        raise RefusedError(f"the setting trainer must be 'Name <mail>', got {text!r}: mend FIRSTLIGHT_TRAINER")
    return name, email


def _figures(made: HandOff) -> str:
    shown = ", ".join(f"{name} {value:.3g}" for name, value in list(made.metrics.items())[:4])
    return f"{made.name} on {made.data.spectra} spectra: {shown}"
