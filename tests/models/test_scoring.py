"""Scoring many files: bad ones among good ones, runs that are killed and run again, disks that are full."""

import multiprocessing
import os
import resource
import signal
import tracemalloc
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import spectra
from firstlight.errors import RefusedError, TransientError
from models import handoff
from models.errors import HandOffError, ProgramError
from models.handoff import HandOff
from models.program import Program
from models.scored_parts import Parts
from models.scoring import Scored, _score, _table, score_batch, score_files
from models.tensors import Array
from spectra.sky import SkyRecipe, write_sky
from tests.models.spectral import write_coadd, write_spectral_handoff


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> HandOff:
    """The hand-off of a model of spectra."""
    return handoff.load(write_spectral_handoff(tmp_path_factory.mktemp("spectral") / "handoff"))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Four good files of five spectra."""
    return [str(write_coadd(tmp_path / f"coadd-{seed}.fits", seed=seed, level=0.5 + seed)) for seed in range(4)]


def score(papers: HandOff, files: list[str], out: Path, **more: Any) -> Scored:
    return score_files(papers, files, out, **{"version": "3", **more})


# --- what a table holds -----------------------------------------------------------------------------------------------


def test_a_table_has_one_row_per_spectrum_with_what_the_model_says_of_it(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    done = score(papers, files, tmp_path / "deep" / "scores.parquet", progress=lambda *now: told.append(now))
    table = pd.read_parquet(done.out)
    assert (done.files, done.rows, done.refused_rows, done.refused_files, done.reused) == (4, 20, 0, 0, 0)
    assert told == [(n, 4) for n in range(5)]
    assert table.source_file.tolist() == [file for file in files for _ in range(5)]
    assert table.targetid.dtype == np.int64
    assert table.targetid.min() > 2**53, "identifiers that a float cannot hold"
    np.testing.assert_allclose(table.anomaly_score, np.repeat([0.5, 1.5, 2.5, 3.5], 5), atol=0.02)
    assert table.flagged.tolist() == [False] * 5 + [True] * 15
    assert set(table.predicted_class[5:]) == {"GALAXY"}
    assert set(table.model_version) == {"3"}
    np.testing.assert_allclose(table.output_z, 2 * table.anomaly_score, rtol=1e-6)
    assert table.z.isna().all(), "the model's z must not stand in for the survey's"
    assert not [column for column in table if "reconstruction" in column]
    assert sorted(path.name for path in done.out.parent.iterdir()) == ["scores.parquet", "scores.refused.parquet"]


def test_the_scores_of_files_are_those_of_the_same_spectra_in_memory(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    table = pd.read_parquet(score(papers, files[:1], tmp_path / "scores.parquet").out)
    batch = spectra.read(files[0])
    outputs = score_batch(Program.load(papers), batch)
    assert set(outputs) == {"anomaly_score", "z", "class_probabilities"}
    np.testing.assert_array_equal(table.anomaly_score, outputs["anomaly_score"])
    assert score_batch(Program.load(papers), batch.take([]))["class_probabilities"].shape == (0, 3)


def test_a_score_does_not_depend_on_how_many_cores_there_are(papers: HandOff, tmp_path: Path) -> None:
    program, batch = Program.load(papers, threads=1), spectra.read(write_coadd(tmp_path / "coadd-1.fits", rows=200))
    alone = score_batch(program, batch)
    with ThreadPoolExecutor(5) as pool:
        shared = score_batch(program, batch, pool=pool)
    for name, array in alone.items():
        np.testing.assert_array_equal(shared[name], array)


def test_a_score_that_is_no_number_is_no_flag_and_no_class(tmp_path: Path, papers: HandOff) -> None:
    batch = spectra.read(write_coadd(tmp_path / "coadd-1.fits"))
    outputs = score_batch(Program.load(papers), batch)
    outputs = {name: np.where(np.arange(5).reshape(-1, *[1] * (array.ndim - 1)) == 2, np.nan, array) for name, array in outputs.items()}
    table = _table(papers, batch.metadata, outputs, version="1")
    assert table.flagged.isna().tolist() == (table.predicted_class == "").tolist() == [False, False, True, False, False]


def test_the_synthetic_sky_is_scored_with_what_its_siblings_know(papers: HandOff, tmp_path: Path) -> None:
    found = write_sky(SkyRecipe(seed=1, spectra=12, file_rows=10), tmp_path / "sky")
    done = score(papers, [str(file) for file in found], tmp_path / "scores.parquet")
    table = pd.read_parquet(done.out)
    assert (done.rows, set(table.survey)) == (12, {"synthetic"})
    assert table.z.notna().all()
    assert done.refused_rows > 0
    assert set(pd.read_parquet(done.refused).columns) == {"source_file", "row", "targetid", "reason"}


# --- bad files --------------------------------------------------------------------------------------------------------


def test_bad_files_and_rows_are_told_with_their_reasons_and_cost_no_good_one(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    # Given a truncated, a foreign and a missing file and one with two bad rows among two good ones
    truncated = Path(files[1])
    truncated.write_bytes(truncated.read_bytes()[:100_000])
    (tmp_path / "spec-foreign.fits").write_bytes(b"not FITS")
    rows = write_coadd(tmp_path / "coadd-rows.fits", seed=9, bad=2)
    given = [files[0], files[1], str(tmp_path / "spec-foreign.fits"), str(tmp_path / "coadd-none.fits"), str(rows), files[2]]
    # When all are scored
    done = score(papers, given, tmp_path / "scores.parquet")
    # Then the good spectra are there and each bad thing has its line
    assert (done.rows, done.refused_rows, done.refused_files) == (5 + 3 + 5, 2, 3)
    side = pd.read_parquet(done.refused)
    assert side[side.row < 0].source_file.tolist() == given[1:4]
    assert side[side.row >= 0].row.tolist() == [3, 4]
    assert (side.reason.str.len() > 20).all()
    assert pd.read_parquet(done.out).source_file.unique().tolist() == [files[0], str(rows), files[2]]


class Failing(Program):
    """A model that fails on every row."""

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Answer nothing for nothing."""
        if len(inputs["flux"]):
            raise ProgramError("the model must answer every valid input, torch says: no")
        return super().__call__(inputs)


def test_a_file_on_which_the_model_fails_is_refused_with_what_it_said(papers: HandOff, files: list[str]) -> None:
    table, side = _score(papers, Failing.load(papers), files[0], spectra.read_many(files[:1]), version="1")
    assert len(table) == 0
    assert side.to_dict("records") == [
        {"source_file": files[0], "row": -1, "targetid": -1, "reason": "the model must answer every valid input, torch says: no"}
    ]


def test_no_good_spectrum_at_all_gives_an_empty_table_with_its_columns(papers: HandOff, tmp_path: Path) -> None:
    (tmp_path / "coadd-bad.fits").write_bytes(b"not FITS")
    done = score(papers, [str(tmp_path / "coadd-bad.fits")], tmp_path / "scores.parquet")
    table = pd.read_parquet(done.out)
    assert (len(table), done.rows, done.refused_files) == (0, 0, 1)
    assert {"targetid", "anomaly_score", "flagged", "predicted_class"} <= set(table.columns)


def test_a_file_given_twice_is_scored_once(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    done = score(papers, [*files[:2], files[0]], tmp_path / "scores.parquet")
    assert (done.files, done.rows) == (2, 10)


def test_nothing_to_score_and_a_model_of_something_else_are_refused(
    papers: HandOff, tiny_handoff: Path, files: list[str], tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="at least one file"):
        score(papers, [], tmp_path / "scores.parquet")
    with pytest.raises(HandOffError, match=r"flux and ivar of 7781 pixels.*signal"):
        score(handoff.load(tiny_handoff), files, tmp_path / "scores.parquet")
    assert not list(tmp_path.glob("scores*"))


# --- killed and run again ---------------------------------------------------------------------------------------------


def score_and_die(papers: HandOff, files: list[str], out: Path) -> None:
    """Score until two files are finished, then end as by kill -9."""
    torch.set_num_threads(1)  # the threads of the process this one is a copy of are not here

    def die(done: int, total: int) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    score(papers, files, out, progress=die)


@contextmanager
def unreadable_but_unchanged(file: str) -> Iterator[None]:
    """Ruin the bytes of a file so that nobody can tell without reading them."""
    path, found, data = Path(file), os.stat(file), Path(file).read_bytes()
    path.write_bytes(b"x" * len(data))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    yield
    path.write_bytes(data)


def test_a_run_that_was_killed_goes_on_where_it_was_and_ends_the_same(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    # Given the table of a run that nobody disturbed, and one killed with -9 after two of four files
    whole = score(papers, files, tmp_path / "whole.parquet")
    out = tmp_path / "scores.parquet"
    process = multiprocessing.get_context("fork").Process(target=score_and_die, args=(papers, files, out))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    # When it is run again, and the two finished files could not be read any more
    with unreadable_but_unchanged(files[0]), unreadable_but_unchanged(files[1]):
        done = score(papers, files, out)
    # Then they were not read, and the outputs are the same bytes
    assert (done.reused, done.refused_files) == (2, 0)
    assert out.read_bytes() == whole.out.read_bytes()
    assert done.refused.read_bytes() == whole.refused.read_bytes()
    assert not list(tmp_path.glob("*.parts"))


class Flaky:
    """An object store that does not answer for some names."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.down = folder, {"coadd-1.fits"}

    def local_copy(self, uri: str, folder: Path) -> Path:
        """Copy, unless the store is down."""
        name = uri.rpartition("/")[2]
        if name in self.down:
            raise TransientError(f"the store must answer for {name}, it does not: run again")
        target = folder / name
        target.write_bytes((self.folder / name).read_bytes())
        return target

    def exists(self, uri: str) -> bool:
        """Say whether there is such an object."""
        return (self.folder / uri.rpartition("/")[2]).exists()

    def list(self, uri: str) -> list[str]:
        """Return nothing."""
        return []


def interrupted(papers: HandOff, out: Path, folder: Path, **more: Any) -> tuple[Flaky, list[str]]:
    """Start a run over three files that ends at the second because the store does not answer."""
    store, uris = Flaky(folder), [f"s3://bucket/coadd-{number}.fits" for number in range(3)]
    with pytest.raises(TransientError, match="run again"):
        score(papers, uris, out, store=store, **more)
    assert not out.exists()
    store.down = set()
    return store, uris


def test_a_store_that_does_not_answer_ends_the_run_and_the_next_one_goes_on(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    store, uris = interrupted(papers, tmp_path / "scores.parquet", tmp_path)
    store.down = {"coadd-0.fits"}
    done = score(papers, uris, tmp_path / "scores.parquet", store=store)
    assert (done.reused, done.rows) == (1, 15)


def test_parts_of_another_version_are_not_used(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    store, uris = interrupted(papers, tmp_path / "scores.parquet", tmp_path, version="2")
    done = score(papers, uris, tmp_path / "scores.parquet", store=store)
    assert done.reused == 0
    assert set(pd.read_parquet(done.out).model_version) == {"3"}


def leave_parts(papers: HandOff, files: list[str], out: Path) -> None:
    """End a run by an error after its first two files."""

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(papers, files, out, progress=stop)


def test_a_file_or_sibling_that_changed_meanwhile_is_scored_again(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    leave_parts(papers, files, out)
    # Given that of two finished files one is replaced, and the other gets a redshift file
    Path(files[0]).unlink()
    write_coadd(Path(files[0]), seed=0, level=7.0, rows=6)
    done = score(papers, files, out)
    assert (done.reused, done.rows) == (1, 21)
    leave_parts(papers, files, out)
    Path(files[0]).with_name("redrock-0.fits").write_bytes(b"new")
    done = score(papers, files, out)
    assert (done.reused, done.refused_files) == (1, 1)


def test_a_part_that_was_damaged_is_made_again(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    leave_parts(papers, files, out)
    parts = [part for part in (tmp_path / "scores.parquet.parts").glob("*.parquet") if "refused" not in part.name]
    parts[0].write_bytes(parts[0].read_bytes()[:50])
    (tmp_path / "scores.parquet.parts" / ".something.tmp").write_bytes(b"left by a kill")
    done = score(papers, files, out)
    assert (done.reused, done.rows) == (1, 20)
    assert not list(tmp_path.glob("*.parts"))


def test_two_runs_do_not_write_one_table_at_once(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    with (
        Parts(tmp_path / "scores.parquet", made_by="another"),
        pytest.raises(RefusedError, match="one run at a time"),
    ):
        score(papers, files, tmp_path / "scores.parquet")
    assert score(papers, files, tmp_path / "scores.parquet").rows == 20


# --- no room ----------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_one_sentence(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for out in (Path("/proc/scores.parquet"), tmp_path / "taken" / "scores.parquet"):
        with pytest.raises(RefusedError, match="must be writable"):
            score(papers, files, out)
    with pytest.raises(RefusedError, match="is a folder"):
        score(papers, files, tmp_path)


@contextmanager
def no_file_larger_than(count: int) -> Iterator[None]:
    """Let the system refuse to write more into a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_sentence_and_what_was_finished_is_kept(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    leave_parts(papers, files, out)
    with no_file_larger_than(1000), pytest.raises(RefusedError, match="free space and run again") as refusal:
        score(papers, files, out)
    assert "\n" not in str(refusal.value)
    assert not out.exists()
    assert score(papers, files, out).reused == 2


# --- memory -----------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_number_of_files(papers: HandOff, tmp_path: Path) -> None:
    files = [str(write_coadd(tmp_path / f"coadd-{number}.fits", rows=40, seed=number)) for number in range(9)]
    peaks = []
    for count in (3, 9):
        tracemalloc.start()
        score(papers, files[:count], tmp_path / f"{count}.parquet")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0], peaks
