"""The night's spectra: read where they are, or made by the synthetic sky, and handed on as file names."""

import time
from collections.abc import Sequence
from pathlib import Path

from prefect import task
from pydantic import BaseModel, ConfigDict

import spectra
from expectations import DataReport, validate_spectra
from firstlight import settings as settings_module
from firstlight.settings import Settings
from spectra.sky import SkyRecipe, write_sky
from tasks import doors, journal, policy
from tasks.retries import retrying

SYNTHETIC_SPECTRA = 2800
"""Spectra of one synthetic night: enough to train the demo's model in under two minutes and to judge it by slices."""

SYNTHETIC_FILE_ROWS = 100
"""Spectra of one file: 28 pointings, so that whole pointings can be held out."""


class Night(BaseModel):
    """The files of one night."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    night: int
    """yyyymmdd."""
    uri: str
    """Where the files lie."""
    files: tuple[str, ...]
    synthetic: bool
    seconds: float
    """Time it took to find or make them."""


@task(name="observe", task_run_name="Find the night's spectra", **retrying())
def observe(source: str | None, night: int) -> Night:
    """Return the files of ``source`` (folder, file or s3:// prefix), or make a synthetic night when it is None."""
    settings = settings_module.current()
    started = time.monotonic()
    if source is None:
        folder = settings.folder("sky", str(night))
        journal.note(settings, about=str(night), stage="observe", event="started")
        files = sorted(folder.glob("coadd-*.fits")) or write_sky(
            SkyRecipe(seed=night, night=night, spectra=SYNTHETIC_SPECTRA, file_rows=SYNTHETIC_FILE_ROWS), folder
        )
        return Night(night=night, uri=str(folder), files=tuple(map(str, files)), synthetic=True, seconds=time.monotonic() - started)
    return Night(
        night=night,
        uri=source,
        files=tuple(spectra.find(source, store=doors.object_store(settings))),
        synthetic=False,
        seconds=time.monotonic() - started,
    )


def read_all(settings: Settings, files: Sequence[str]) -> tuple[spectra.SpectrumBatch, list[spectra.RefusedFile]]:
    """Read every file of a night; refused files and rows come back beside the good ones."""
    return spectra.read_many(list(files), store=doors.object_store(settings))


def local_files(files: Sequence[str]) -> list[Path]:
    """Return the local files among ``files``, with their redrock and truth files, for the data digest."""
    found = [Path(name) for name in files if "://" not in name]
    beside = [path.with_name(path.name.replace("coadd-", kind, 1)) for path in found for kind in ("redrock-", "truth-")]
    return [*found, *(path for path in beside if path.is_file())]


@task(name="validate-spectra", task_run_name="Validate the night's spectra", **retrying())
def validate(night: Night) -> DataReport:
    """Read every file and hold what was read against the suite for incoming spectra."""
    settings = settings_module.current()
    started = time.monotonic()
    batch, refused_files = read_all(settings, night.files)
    report = validate_spectra(batch.metadata, refused=len(batch.refused), policy=policy.current().data)
    read = f"{len(batch)} spectra of {len(night.files)} files, {len(batch.refused)} rows and {len(refused_files)} files refused"
    journal.note(
        settings,
        about=str(night.night),
        stage="observe",
        event="finished",
        verdict=report.verdict.value,
        seconds=round(night.seconds + time.monotonic() - started, 1),
        summary=f"{read}; {report.summary}",
    )
    return report
