"""``firstlight score``: the champion over files."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import spectra
from firstlight.errors import RefusedError
from firstlight.settings import Settings


def score(settings: Settings, sources: list[str], out: Path, *, model: str | None) -> None:
    """Score every file of ``sources`` with the champion of ``model``."""
    from tasks import refusals, vouching
    from tasks.doors import object_store, store

    name = model or settings.model
    with store(settings) as records:
        champion = records.champion(settings.environment, name)
        if champion is None:
            raise RefusedError(
                f"a champion must be there to score with, {name} has none in {settings.environment}: release one first, or run `make demo`"
            )
        servable = records.version(name, champion.version)
    with refusals.recorded(settings, refusals.MODEL, model=name, digest=servable.model_digest):
        vouching.require_version(settings, servable)
    from models.scoring import score_files  # and torch with it: whoever is refused need not wait for it

    door = object_store(settings)
    files = [file for source in sources for file in spectra.find(source, store=door)]
    papers = vouching.open_version(settings, servable)
    counts = (MofNCompleteColumn(), TextColumn("files, {task.fields[rows]} spectra"))
    columns = (TextColumn("scoring"), BarColumn(), *counts, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        shown = bar.add_task("scoring", total=len(files), rows=0)
        done = score_files(
            papers,
            files,
            out,
            version=champion.version,
            backend=servable.backend,
            backend_digest=servable.backend_digest,
            compiled=settings.compiled,
            store=door,
            progress=lambda now, total, rows: bar.update(shown, completed=now, total=total, rows=rows),
        )
    if done.instead:
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"{name} was run as {done.backend}, not as {servable.backend}: {done.instead}"
        )
    reused = f" ({done.reused} from an earlier run)" if done.reused else ""
    Console(soft_wrap=True, highlight=False).print(
        f"{done.rows} spectra of {done.files - done.refused_files} files{reused} scored by {name} version {champion.version} ({done.backend}) -> "
        f"{done.out}; "
        f"{done.refused_rows} rows and {done.refused_files} files refused -> {done.refused}"
    )
