"""``firstlight train`` and ``firstlight handoff check``."""

from email.utils import parseaddr
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from firstlight.errors import RefusedError
from firstlight.settings import Settings


def train(
    settings: Settings,
    sources: list[str],
    out: Path,
    *,
    trainer: str,
    recipe: dict[str, Any],
    large: bool,
    warm_start: Path | None,
) -> None:
    """Read the spectra, train, and write the hand-off folder ``out``."""
    from tasks import training

    name, email = parseaddr(trainer)
    if not name or "@" not in email:
        raise RefusedError(f"the trainer must be given as 'Name <mail@lab>', got {trainer!r}")
    if out.exists():
        raise RefusedError(f"the hand-off folder must not exist yet, {out} does: choose another with --out or remove it")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        shown = bar.add_task("reading spectra", total=1.0)
        made = training.train_on(
            settings,
            sources,
            out,
            trainer=(name, email),
            recipe=recipe,
            large=large,
            warm_start=warm_start,
            progress=lambda phase, fraction: bar.update(shown, description=phase, completed=fraction),
        )
    Console().print(f"handed over: {made.folder}  (model {made.model_digest[:12]}); next: firstlight release {made.folder}", soft_wrap=True)


def check(folder: Path) -> int:
    """Print every problem of a hand-off folder; 0 when there is none, 2 otherwise."""
    from models import handoff

    problems = handoff.check(folder)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for problem in problems:
        console.print(f"- {problem}")
    if problems:
        console.print(f"{folder}: {len(problems)} problem{'s' * (len(problems) > 1)}; it cannot be released")
        return 2
    papers = handoff.load(folder)
    console.print(f"{folder}: {papers.name}, model {papers.model_digest[:12]}, handed over by {papers.trainer.name}; it can be released")
    return 0
