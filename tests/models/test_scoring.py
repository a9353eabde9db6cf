"""Scoring many files: bad ones among good ones, runs that are killed and run again, workers that die, disks that are full.

Whole runs start processes that import torch, so there are few of them here and each shows several things; what one process makes of a unit
is asked of a Desk in this process.
"""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

import spectra
from firstlight.errors import RefusedError, TransientError
from models import handoff, scored_parts, scoring
from models.errors import HandOffError, ProgramError
from models.handoff import HandOff
from models.program import Program
from models.scored_parts import Parts, Piece, file_key, finished, write_part
from models.scored_table import SIDE, score_batch, scores, side_table
from models.scoring import Scored, score_files
from models.scoring_worker import Desk, Post, Source, Unit
from models.tensors import Array, read_tensors, write_tensors
from spectra import WAVELENGTH
from spectra.grid import ARMS
from spectra.sky import SkyRecipe, write_sky
from tests.models.breaking import put
from tests.models.spectral import write_coadd, write_spectral_handoff


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> HandOff:
    """The hand-off of a model of spectra."""
    return handoff.load(write_spectral_handoff(tmp_path_factory.mktemp("spectral") / "handoff"))


def post(papers: HandOff, **changes: Any) -> Post:
    facts = {"folder": str(papers.folder), "digest": papers.digest, "version": "3", "backend": "eager", "device": "cpu"}
    return Post(**{**facts, "compiled": None, "backend_digest": None, **changes})


@pytest.fixture(scope="session")
def desk(papers: HandOff) -> Desk:
    """What a worker process works with."""
    return Desk(post(papers))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Four good files of five spectra."""
    return [str(write_coadd(tmp_path / f"coadd-{seed}.fits", seed=seed, level=0.5 + seed)) for seed in range(4)]


def score(papers: HandOff, files: list[str], out: Path, **more: Any) -> Scored:
    return score_files(papers, files, out, **{"version": "3", "workers": 1, **more})


def made(desk: Desk, *files: str, **more: Any) -> tuple[pd.DataFrame, list[dict[str, Any]], list[Piece]]:
    """Return the table, the side table's rows and the pieces that a worker makes of ``files``."""
    sources = tuple(Source(name=file, path=file, key=f"key of {file}") for file in files)
    table, side, pieces = desk.make(Unit(part="", sources=sources, **more), tell=lambda total: None)
    assert table.schema == desk._schema
    return table.to_pandas(), side.to_pylist(), pieces


# --- what one process makes of a unit -----------------------------------------------------------------------------------


def test_the_scores_of_a_unit_are_those_of_the_same_spectra_in_memory(papers: HandOff, desk: Desk, files: list[str]) -> None:
    table, side, pieces = made(desk, *files[:2])
    program = Program.load(papers)
    for file, piece in zip(files[:2], pieces, strict=True):
        batch = spectra.read(file)
        outputs = score_batch(program, batch)
        assert set(outputs) == {"anomaly_score", "z", "class_probabilities"}
        np.testing.assert_array_equal(table[table.source_file == file].anomaly_score, outputs["anomaly_score"])
        assert (piece.first, piece.end, piece.rows, piece.refused) == (0, 5, 5, 0)
    assert side == []
    assert score_batch(program, batch.take([]))["class_probabilities"].shape == (0, 3)


def test_a_score_that_is_no_number_is_no_flag_and_no_class(tmp_path: Path, papers: HandOff) -> None:
    batch = spectra.read(write_coadd(tmp_path / "coadd-1.fits"))
    outputs = score_batch(Program.load(papers), batch)
    outputs = {name: np.where(np.arange(5).reshape(-1, *[1] * (array.ndim - 1)) == 2, np.nan, array) for name, array in outputs.items()}
    table = scores(papers, batch.metadata, outputs, version="1")
    assert table.flagged.isna().tolist() == (table.predicted_class == "").tolist() == [False, False, True, False, False]


def test_the_synthetic_sky_is_scored_with_what_its_siblings_know(desk: Desk, tmp_path: Path) -> None:
    found = write_sky(SkyRecipe(seed=1, spectra=12, file_rows=10), tmp_path / "sky")
    table, side, pieces = made(desk, *map(str, found))
    assert (len(table), set(table.survey), len(pieces)) == (12, {"synthetic"}, len(found))
    assert table.z.notna().all()
    assert len(side) == sum(piece.refused for piece in pieces) > 0


def test_bad_files_and_rows_are_told_with_their_reasons_and_cost_no_good_one(desk: Desk, files: list[str], tmp_path: Path) -> None:
    # Given a truncated, a foreign and a missing file and one with two bad rows among two good ones
    truncated = Path(files[1])
    truncated.write_bytes(truncated.read_bytes()[:100_000])
    (tmp_path / "spec-foreign.fits").write_bytes(b"not FITS")
    rows = write_coadd(tmp_path / "coadd-rows.fits", seed=9, bad=2)
    given = [files[0], files[1], str(tmp_path / "spec-foreign.fits"), str(tmp_path / "coadd-none.fits"), str(rows), files[2]]
    # When all are scored
    table, side, pieces = made(desk, *given)
    # Then the good spectra are there and each bad thing has its line
    assert [(piece.rows, piece.refused, piece.end) for piece in pieces] == [
        (5, 0, 5),
        (0, 1, 0),
        (0, 1, 0),
        (0, 1, 0),
        (3, 2, 5),
        (5, 0, 5),
    ]
    assert [line["source_file"] for line in side if line["row"] < 0] == given[1:4]
    assert [line["row"] for line in side if line["row"] >= 0] == [3, 4]
    assert all(len(line["reason"]) > 20 for line in side)
    assert table.source_file.unique().tolist() == [files[0], str(rows), files[2]]


class Failing(Program):
    """A model that fails on every row."""

    def __call__(self, inputs: Mapping[str, Array], **more: Any) -> dict[str, Array]:
        """Answer nothing for nothing."""
        if len(inputs["flux"]):
            raise ProgramError("the model must answer every valid input, torch says: no")
        return super().__call__(inputs, **more)


def test_a_file_on_which_the_model_fails_is_refused_with_what_it_said(papers: HandOff, files: list[str]) -> None:
    desk = Desk(post(papers))
    desk.runner = Failing.load(papers)
    table, side, _ = made(desk, files[0])
    assert len(table) == 0
    assert side == [
        {"source_file": files[0], "row": -1, "targetid": -1, "reason": "the model must answer every valid input, torch says: no"}
    ]


def test_the_pieces_of_a_file_are_the_file(desk: Desk, tmp_path: Path) -> None:
    file = str(write_coadd(tmp_path / "coadd-1.fits", rows=300, bad=7))
    whole, refused, _ = made(desk, file)
    told = [made(desk, file, first=first, stop=first + 90, total=300) for first in range(0, 300, 90)]
    assert pd.concat([table for table, _, _ in told], ignore_index=True).targetid.tolist() == whole.targetid.tolist()
    np.testing.assert_allclose(pd.concat([table for table, _, _ in told]).anomaly_score, whole.anomaly_score, rtol=1e-6)
    assert [line for _, side, _ in told for line in side] == refused
    assert [(pieces[0].first, pieces[0].end) for _, _, pieces in told] == [(0, 90), (90, 180), (180, 270), (270, 300)]


def test_a_model_that_changed_or_does_not_answer_its_golden_vectors_is_not_used(papers: HandOff, tmp_path: Path) -> None:
    with pytest.raises(HandOffError, match="must stay as it is"):
        Desk(post(papers, digest="0" * 64))
    changed = shutil.copytree(papers.folder, tmp_path / "changed")
    tensors = {
        name: array + (name.endswith("anomaly_score"))
        for name, array in read_tensors((changed / "golden.safetensors").read_bytes(), where="golden").items()
    }
    put(changed, "golden.safetensors", write_tensors(tensors))
    with pytest.raises(HandOffError, match=r"golden vectors before it scores.*anomaly_score"):
        Desk(post(handoff.load(changed)))


def test_a_backend_that_cannot_be_had_is_replaced_and_says_why(papers: HandOff) -> None:
    desk = Desk(post(papers, backend="onnx"))
    assert desk.runner.name == "eager"
    assert len(desk.instead) > 20


# --- whole runs ---------------------------------------------------------------------------------------------------------


def test_a_run_scores_every_file_once_in_order_and_tells_how_far_it_is(
    papers: HandOff, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a bad file among good ones, one given twice, and one of so many rows that it is several units
    monkeypatch.setattr(scoring, "UNIT_ROWS", 100)
    monkeypatch.setattr(scoring, "_GROUP_BYTES", 2_000_000)
    large = str(write_coadd(tmp_path / "coadd-large.fits", rows=330, seed=8, bad=1))
    (tmp_path / "coadd-bad.fits").write_bytes(b"not FITS")
    given = [files[0], str(tmp_path / "coadd-bad.fits"), large, *files]
    told: list[tuple[int, ...]] = []
    # When they are scored by two processes
    done = score(papers, given, tmp_path / "deep" / "scores.parquet", workers=2, progress=lambda *now: told.append(now))
    # Then every spectrum has one row, in the order of the files and their rows
    table = pd.read_parquet(done.out)
    assert (done.files, done.rows, done.refused_rows, done.refused_files, done.reused) == (6, 349, 1, 1, 0)
    assert (done.backend, done.instead) == ("eager", "")
    assert table.source_file.tolist() == [files[0]] * 5 + [large] * 329 + [file for file in files[1:] for _ in range(5)]
    assert table[table.source_file == large].targetid.is_monotonic_increasing
    assert pd.read_parquet(done.refused).row.tolist() == [-1, 329]
    assert (told[0], told[-1]) == ((0, 6, 0), (6, 6, 349))
    assert told == sorted(told)
    # And each row says what is known of its spectrum and what the model says of it
    assert table.targetid.dtype == np.int64
    assert table.targetid.min() > 2**53, "identifiers that a float cannot hold"
    few = table[table.source_file.isin(files)]
    np.testing.assert_allclose(few.anomaly_score, np.repeat([0.5, 1.5, 2.5, 3.5], 5), atol=0.02)
    assert few.flagged.tolist() == [False] * 5 + [True] * 15
    assert set(few.predicted_class[5:]) == {"GALAXY"}
    assert set(table.model_version) == {"3"}
    np.testing.assert_allclose(table.output_z, 2 * table.anomaly_score, rtol=1e-6)
    assert table.z.isna().all(), "the model's z must not stand in for the survey's"
    assert not [column for column in table if "reconstruction" in column]
    assert sorted(path.name for path in done.out.parent.iterdir()) == ["scores.parquet", "scores.refused.parquet"]


def test_nothing_to_score_and_a_model_of_something_else_are_refused(
    papers: HandOff, tiny_handoff: Path, files: list[str], tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="at least one file"):
        score(papers, [], tmp_path / "scores.parquet")
    with pytest.raises(HandOffError, match=r"flux and ivar of 7781 pixels.*signal"):
        score(handoff.load(tiny_handoff), files, tmp_path / "scores.parquet")
    assert not list(tmp_path.glob("scores*"))


def score_and_die(papers: HandOff, files: list[str], out: Path, after: int) -> None:
    """Score until so many files are finished, then end as by kill -9; leave the numbers of the processes that worked."""

    def die(done: int, total: int, rows: int) -> None:
        if done >= after:
            workers = [str(child.pid) for child in psutil.Process().children()]
            out.with_suffix(".workers").write_text(" ".join(workers))
            os.kill(os.getpid(), signal.SIGKILL)

    score(papers, files, out, progress=die)


@contextmanager
def unreadable_but_unchanged(*files: str) -> Iterator[None]:
    """Ruin the bytes of files so that nobody can tell without reading them."""
    whole = {Path(file): (os.stat(file), Path(file).read_bytes()) for file in files}
    for path, (found, data) in whole.items():
        path.write_bytes(b"x" * len(data))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    yield
    for path, (_, data) in whole.items():
        path.write_bytes(data)


def gone(pids: list[int], seconds: float = 20) -> bool:
    """Wait until none of the processes is there."""
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_run_that_was_killed_twice_goes_on_where_it_was_and_ends_the_same(
    papers: HandOff, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_GROUP", 1)
    out = tmp_path / "scores.parquet"
    for after in (1, 3):
        # Given a run that is killed with -9 after some of four files, twice
        process = multiprocessing.get_context("fork").Process(target=score_and_die, args=(papers, files, out, after))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        assert not out.exists()
        # Then the processes that worked for it end too
        assert gone([int(pid) for pid in out.with_suffix(".workers").read_text().split()])
    (out.with_name(out.name + ".parts") / ".half.tmp").write_bytes(b"left by a kill")
    # When it is run once more, and the finished files could not be read any more
    with unreadable_but_unchanged(*files[:3]):
        done = score(papers, files, out)
    # Then they were not read, and the outputs are the bytes of a run with more processes that nobody disturbed
    assert done.reused in (3, 4)
    assert done.refused_files == 0
    monkeypatch.setattr(scoring, "_GROUP", 32)
    whole = score(papers, files, tmp_path / "whole.parquet", workers=2)
    assert out.read_bytes() == whole.out.read_bytes()
    assert done.refused.read_bytes() == whole.refused.read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def kill_who_reads(file: str, killed: list[int], stop: threading.Event) -> None:
    """Kill, as the system does when memory is short, every child of this process that has ``file`` open."""
    while not stop.wait(0.0005):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, OSError):
                if child.pid not in killed and any(os.readlink(link) == file for link in Path(f"/proc/{child.pid}/fd").iterdir()):
                    child.kill()
                    killed.append(child.pid)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="who has a file open is read from /proc")
def test_a_file_that_costs_a_worker_its_life_twice_is_refused_and_costs_no_other_file(
    papers: HandOff, files: list[str], tmp_path: Path
) -> None:
    poison = str(write_coadd(tmp_path / "coadd-poison.fits", rows=700, seed=7))
    killed: list[int] = []
    stop = threading.Event()
    killer = threading.Thread(target=kill_who_reads, args=(poison, killed, stop))
    killer.start()
    try:
        done = score(papers, [files[0], poison, *files[1:]], tmp_path / "scores.parquet", workers=2)
    finally:
        stop.set()
        killer.join()
    assert len(killed) == 2
    assert (done.rows, done.refused_files) == (20, 1)
    reason = pd.read_parquet(done.refused).reason.item()
    assert "died twice (signal 9)" in reason


class Flaky:
    """An object store that does not answer for some names."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.down = folder, {"coadd-2.fits"}

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


def test_a_store_that_does_not_answer_ends_the_run_and_the_next_one_goes_on(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    store, uris, out = Flaky(tmp_path), [f"s3://bucket/coadd-{number}.fits" for number in range(4)], tmp_path / "scores.parquet"
    with pytest.raises(TransientError, match="run again"):
        score(papers, uris, out, store=store)
    assert not out.exists()
    # What came before the failure is finished, and is not asked for again; what another version made is not used
    store.down = {"coadd-0.fits", "coadd-1.fits"}
    done = score(papers, uris, out, store=store)
    assert (done.reused, done.rows) == (2, 20)
    assert not list(Path(tempfile.gettempdir()).glob("firstlight-score-*/*/coadd-[0-3].fits"))


@contextmanager
def no_file_larger_than(count: int) -> Iterator[None]:
    """Let the system refuse to write more into a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def leave_parts(papers: HandOff, desk: Desk, out: Path, files: list[str], *, version: str = "3") -> None:
    """Leave what a run that ended early leaves: the parts of ``files``."""
    with suppress(KeyboardInterrupt), Parts(out) as parts:
        for number, file in enumerate(files):
            key = file_key(file, made_by=f"{papers.digest}:{version}:eager:None")
            write_part(
                parts.folder / f"{number}.parquet",
                *desk.make(Unit(part="", sources=(Source(name=file, path=file, key=key),)), tell=lambda total: None),
            )
        raise KeyboardInterrupt


def test_a_full_disk_is_one_sentence_and_what_was_finished_is_kept(papers: HandOff, desk: Desk, files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    leave_parts(papers, desk, out, files[:2])
    with no_file_larger_than(1000), pytest.raises(RefusedError, match="free space and run again") as refusal:
        score(papers, files, out)
    assert "\n" not in str(refusal.value)
    assert not out.exists()
    with Parts(out) as parts:
        assert len(parts.found()) == 2


# --- parts --------------------------------------------------------------------------------------------------------------


def keys_found(out: Path, papers: HandOff, files: list[str], *, version: str = "3") -> list[bool]:
    """Say which of ``files`` a run of ``version`` would take as finished."""
    with suppress(KeyboardInterrupt), Parts(out) as parts:
        found = parts.found()
        answer = [finished(found.get(file_key(file, made_by=f"{papers.digest}:{version}:eager:None"))) for file in files]
        raise KeyboardInterrupt
    return answer


def test_parts_of_another_version_of_changed_files_and_damaged_ones_are_not_used(
    papers: HandOff, desk: Desk, files: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    leave_parts(papers, desk, out, files)
    assert keys_found(out, papers, files) == [True] * 4
    assert keys_found(out, papers, files, version="4") == [False] * 4
    # Given a file that is replaced, one that gets a redshift file, and a part that was damaged
    Path(files[0]).unlink()
    write_coadd(Path(files[0]), seed=0, level=7.0, rows=6)
    Path(files[1]).with_name("redrock-1.fits").write_bytes(b"new")
    part = tmp_path / "scores.parquet.parts" / "2.parquet"
    part.write_bytes(part.read_bytes()[:50])
    assert keys_found(out, papers, files) == [False, False, False, True]


def test_a_part_without_its_side_table_is_not_whole(tmp_path: Path) -> None:
    piece = Piece(key="a", first=0, stop=None, total=1, rows=0, refused=1)
    with Parts(tmp_path / "scores.parquet") as parts:
        write_part(parts.folder / "one.parquet", pa.table({"x": pa.array([], pa.int64())}), side_table([("f", 0, 1, "why")]), [piece])
        assert list(parts.found()) == ["a"]
        (parts.folder / "one.refused.parquet").unlink()
        assert parts.found() == {}


def test_a_file_is_finished_when_no_row_of_it_is_missing() -> None:
    def found(*ranges: tuple[int, int], total: int = 10) -> bool:
        pieces: dict[str, Any] = {}
        for first, stop in ranges:
            scored_parts.add(pieces, Path("part"), [Piece(key="a", first=first, stop=stop, total=total, rows=0, refused=0)])
        return finished(pieces.get("a"))

    assert found((0, 5), (5, 10))
    assert found((5, 12), (0, 5))
    assert found((0, 5), total=0)
    assert not found()
    assert not found((0, 5))
    assert not found((5, 10))
    assert not found((0, 4), (5, 10))


def test_thousands_of_parts_are_joined_in_the_order_of_the_files_with_few_rows_in_memory(tmp_path: Path) -> None:
    # Given 1500 parts of 40 rows, and files whose rows lie in two parts each, far from each other
    rng, out, schema = np.random.default_rng(1), tmp_path / "scores.parquet", pa.schema([("file", pa.int64()), ("row", pa.int64())])
    with Parts(out) as parts:
        for number, part in enumerate(rng.permutation(1500).tolist()):
            files = [(part % 750) * 2, (part % 750) * 2 + 1]
            first = 20 * (part // 750)
            rows = [(file, row) for file in files for row in range(first, first + 20)]
            pieces = [
                Piece(key=f"key {file}", first=first, stop=first + 20, total=40, rows=20, refused=int(file % 3 == 0)) for file in files
            ]
            table = pa.table([pa.array(column) for column in zip(*rows, strict=True)], schema=schema)
            side = side_table([(str(file), first, file, "why") for file in files if file % 3 == 0])
            pq.write_table(side, parts.folder / f"{number}.refused.parquet")
            pq.write_table(
                table.replace_schema_metadata({"firstlight.part": json.dumps([asdict(piece) for piece in pieces])}),
                parts.folder / f"{number}.parquet",
            )
        # When they are joined
        joined = parts.join([f"key {file}" for file in range(1500)], parts.found(), schema=schema, refused=tmp_path / "refused.parquet")
    # Then every row is there in order, in row groups of one size
    assert joined == (60_000, 1000, 0)
    table = pq.read_table(out)
    np.testing.assert_array_equal(table["file"], np.repeat(np.arange(1500), 40))
    np.testing.assert_array_equal(table["row"], np.tile(np.arange(40), 1500))
    assert pq.read_table(tmp_path / "refused.parquet", schema=SIDE)["targetid"].to_pylist() == np.repeat(np.arange(0, 1500, 3), 2).tolist()
    metadata = pq.read_metadata(out)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [32_768, 27_232]
    assert not list(tmp_path.glob("*.parts"))


def test_two_runs_do_not_write_one_table_at_once(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    with Parts(tmp_path / "scores.parquet"), pytest.raises(RefusedError, match="one run at a time"):
        score(papers, files, tmp_path / "scores.parquet")


def test_a_folder_that_cannot_be_written_is_one_sentence(papers: HandOff, files: list[str], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for out in (Path("/proc/scores.parquet"), tmp_path / "taken" / "scores.parquet"):
        with pytest.raises(RefusedError, match="must be writable"):
            score(papers, files, out)
    with pytest.raises(RefusedError, match="is a folder"):
        score(papers, files, tmp_path)


# --- memory -------------------------------------------------------------------------------------------------------------

_HUNGRY = """
import sys
from models import handoff
from models.benchmark_worker import peak_bytes
from models.scoring_worker import Desk, Post, Source, Unit
papers = handoff.load(sys.argv[1])
desk = Desk(Post(folder=sys.argv[1], digest=papers.digest, version="3", backend="eager", compiled=None, backend_digest=None, device="cpu"))
for file in sys.argv[2:]:
    table, _, pieces = desk.make(Unit(part="", sources=(Source(name=file, path=file, key="k"),)), tell=lambda total: None)
    print(table.num_rows, peak_bytes() >> 20)
"""


def write_large(path: Path, *, rows: int) -> Path:
    """Write a coadd of ``rows`` flat spectra without ever having more than one of them in memory."""
    fibers = np.rec.fromarrays([np.arange(1, rows + 1), np.zeros(rows, np.int32)], names="TARGETID,COADD_FIBERSTATUS")
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(fibers, name="FIBERMAP")]).writeto(path)
    with open(path, "ab") as stream:
        for arm in ARMS:
            wavelength = fits.ImageHDU(WAVELENGTH[arm.pixels].copy(), name=f"{arm.name}_WAVELENGTH")
            stream.write(wavelength.header.tostring().encode())
            stream.write(wavelength.data.astype(">f8").tobytes().ljust(-(-arm.size * 8 // 2880) * 2880, b"\0"))
            for kind in ("FLUX", "IVAR"):
                header = fits.ImageHDU(np.zeros((1, arm.size), np.float32), name=f"{arm.name}_{kind}").header
                header["NAXIS2"] = rows
                stream.write(header.tostring().encode())
                row = np.ones(arm.size, ">f4").tobytes()
                stream.writelines(row for _ in range(rows))
                stream.write(b"\0" * (-rows * arm.size * 4 % 2880))
    return path


def test_a_file_larger_than_the_memory_it_is_scored_in_is_scored(papers: HandOff, tmp_path: Path) -> None:
    small, large = write_large(tmp_path / "coadd-1.fits", rows=2500), write_large(tmp_path / "coadd-2.fits", rows=7000)
    asked = [sys.executable, "-c", _HUNGRY, str(papers.folder), str(small), str(large)]
    told = subprocess.run(asked, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}).stdout
    (rows, before), (more_rows, after) = [map(int, line.split()) for line in told.splitlines()]
    assert (rows, more_rows) == (2500, 7000)
    size = large.stat().st_size >> 20
    assert size > 400
    assert after - before < size / 3, f"{before} MiB after 2500 rows, {after} MiB after {size} MiB more"
