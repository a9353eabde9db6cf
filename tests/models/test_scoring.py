"""Scoring many files: runs that are killed and run again, workers that die, disks that are full, a store that is away.

Whole runs start processes that import torch, so there are few of them here and each shows several things.
"""

import multiprocessing
import os
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from firstlight.errors import RefusedError, TransientError
from models import handoff, scoring
from models.errors import HandOffError
from models.handoff import HandOff
from models.scored_parts import Parts
from models.scored_table import scores_schema
from models.scoring_worker import Desk
from tests.models.scored import leave_parts, left_key, make_parts, score
from tests.models.spectral import write_coadd


def test_a_run_scores_every_file_once_in_order_and_tells_how_far_it_is(
    spectral: HandOff, coadds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a bad file among good ones, one given twice, and one of so many rows that it is several units
    monkeypatch.setattr(scoring, "UNIT_ROWS", 100)
    monkeypatch.setattr(scoring, "_GROUP_BYTES", 2_000_000)
    large = str(write_coadd(tmp_path / "coadd-large.fits", rows=330, seed=8, bad=1))
    (tmp_path / "coadd-bad.fits").write_bytes(b"not FITS")
    given = [coadds[0], str(tmp_path / "coadd-bad.fits"), large, *coadds]
    told: list[tuple[int, ...]] = []
    # When they are scored by two processes
    done = score(spectral, given, tmp_path / "deep" / "scores.parquet", workers=2, progress=lambda *now: told.append(now))
    # Then every spectrum has one row, in the order of the files and their rows
    table = pd.read_parquet(done.out)
    assert (done.files, done.rows, done.refused_rows, done.refused_files, done.reused) == (6, 349, 1, 1, 0)
    assert (done.backend, done.instead) == ("eager", "")
    assert table.source_file.tolist() == [coadds[0]] * 5 + [large] * 329 + [file for file in coadds[1:] for _ in range(5)]
    assert table[table.source_file == large].targetid.is_monotonic_increasing
    assert pd.read_parquet(done.refused).row.tolist() == [-1, 329]
    assert (told[0], told[-1]) == ((0, 6, 0), (6, 6, 349))
    assert told == sorted(told)
    # And each row says what is known of its spectrum and what the model says of it
    assert table.targetid.dtype == np.int64
    assert table.targetid.min() > 2**53, "identifiers that a float cannot hold"
    few = table[table.source_file.isin(coadds)]
    np.testing.assert_allclose(few.anomaly_score, np.repeat([0.5, 1.5, 2.5, 3.5], 5), atol=0.02)
    assert few.flagged.tolist() == [False] * 5 + [True] * 15
    assert set(few.predicted_class[5:]) == {"GALAXY"}
    assert set(table.model_version) == {"3"}
    np.testing.assert_allclose(table.output_z, 2 * table.anomaly_score, rtol=1e-6)
    assert table.z.isna().all(), "the model's z must not stand in for the survey's"
    assert not [column for column in table if "reconstruction" in column]
    assert sorted(path.name for path in done.out.parent.iterdir()) == ["scores.parquet", "scores.refused.parquet"]


def test_nothing_to_score_and_a_model_of_something_else_are_refused(
    spectral: HandOff, tiny_handoff: Path, coadds: list[str], tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="at least one file"):
        score(spectral, [], tmp_path / "scores.parquet")
    with pytest.raises(HandOffError, match=r"flux and ivar of 7781 pixels.*signal"):
        score(handoff.load(tiny_handoff), coadds, tmp_path / "scores.parquet")
    assert not list(tmp_path.glob("scores*"))


def score_and_die(spectral: HandOff, coadds: list[str], out: Path, after: int) -> None:
    """Score until so many files are finished, then end as by kill -9; leave the numbers of the processes that worked."""

    def die(done: int, total: int, rows: int) -> None:
        if done >= after:
            workers = [str(child.pid) for child in psutil.Process().children()]
            out.with_suffix(".workers").write_text(" ".join(workers))
            os.kill(os.getpid(), signal.SIGKILL)

    score(spectral, coadds, out, progress=die)


@contextmanager
def unreadable_but_unchanged(*coadds: str) -> Iterator[None]:
    """Ruin the bytes of files so that nobody can tell without reading them."""
    whole = {Path(file): (os.stat(file), Path(file).read_bytes()) for file in coadds}
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
    spectral: HandOff, desk: Desk, coadds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_GROUP", 1)
    out = tmp_path / "scores.parquet"
    for after in (1, 3):
        # Given a run that is killed with -9 after some of four files, twice
        process = multiprocessing.get_context("fork").Process(target=score_and_die, args=(spectral, coadds, out, after))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        assert not out.exists()
        # Then the processes that worked for it end too
        assert gone([int(pid) for pid in out.with_suffix(".workers").read_text().split()])
    (out.with_name(out.name + ".parts") / ".half.tmp").write_bytes(b"left by a kill")
    # When it is run once more, and the finished files could not be read any more
    with unreadable_but_unchanged(*coadds[:3]):
        done = score(spectral, coadds, out)
    # Then they were not read, and the outputs are the bytes of parts that one process made undisturbed
    assert done.reused in (3, 4)
    assert done.refused_files == 0
    with Parts(tmp_path / "whole.parquet") as parts:
        make_parts(spectral, desk, parts, coadds)
        keys = [left_key(spectral, file) for file in coadds]
        parts.join(keys, parts.found(), schema=scores_schema(spectral, version="3"), refused=tmp_path / "whole.refused.parquet")
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert done.refused.read_bytes() == (tmp_path / "whole.refused.parquet").read_bytes()
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
    spectral: HandOff, coadds: list[str], tmp_path: Path
) -> None:
    poison = str(write_coadd(tmp_path / "coadd-poison.fits", rows=700, seed=7))
    killed: list[int] = []
    stop = threading.Event()
    killer = threading.Thread(target=kill_who_reads, args=(poison, killed, stop))
    killer.start()
    try:
        done = score(spectral, [coadds[0], poison, *coadds[1:]], tmp_path / "scores.parquet", workers=2)
    finally:
        stop.set()
        killer.join()
    assert len(killed) == 2
    assert (done.rows, done.refused_files) == (20, 1)
    reason = pd.read_parquet(done.refused).reason.item()
    assert "died twice (signal 9)" in reason


class Flaky:
    """An object store that does not answer for some names; what it does answer with comes after it was first asked for one of those."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.down = folder, {"coadd-2.fits"}
        self._failed = threading.Event()

    def local_copy(self, uri: str, folder: Path) -> Path:
        """Copy, unless the store is down."""
        name = uri.rpartition("/")[2]
        if name in self.down:
            self._failed.set()
            raise TransientError(f"the store must answer for {name}, it does not: run again")
        self._failed.wait(10)
        time.sleep(0.05)  # so that the failure is known before there is anything to do
        target = folder / name
        target.write_bytes((self.folder / name).read_bytes())
        return target

    def exists(self, uri: str) -> bool:
        """Say whether there is such an object."""
        return (self.folder / uri.rpartition("/")[2]).exists()

    def list(self, uri: str) -> list[str]:
        """Return nothing."""
        return []


def test_a_store_that_does_not_answer_ends_the_run_and_the_next_one_goes_on(spectral: HandOff, coadds: list[str], tmp_path: Path) -> None:
    # Three, so that each is a unit of its own: the second waits for the only worker when the third turns out not to be there
    store, uris, out = Flaky(tmp_path), [f"s3://bucket/coadd-{number}.fits" for number in range(3)], tmp_path / "scores.parquet"
    with pytest.raises(TransientError, match="run again"):
        score(spectral, uris, out, store=store)
    assert not out.exists()
    # What came before the failure is finished, and is not asked for again; what another version made is not used
    store.down = {"coadd-0.fits", "coadd-1.fits"}
    done = score(spectral, uris, out, store=store)
    assert (done.reused, done.rows) == (2, 15)
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


def test_a_full_disk_is_one_sentence_and_what_was_finished_is_kept(
    spectral: HandOff, desk: Desk, coadds: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    leave_parts(spectral, desk, out, coadds[:2])
    with no_file_larger_than(1000), pytest.raises(RefusedError, match="free space and run again") as refusal:
        score(spectral, coadds, out)
    assert "\n" not in str(refusal.value)
    assert not out.exists()
    with Parts(out) as parts:
        assert len(parts.found()) == 2
