"""Parts of a table of scores: which are whole and whose they are, and how thousands of them are joined in little memory."""

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from firstlight.errors import RefusedError
from models import scored_parts
from models.handoff import HandOff
from models.scored_parts import Parts, Piece, finished, write_part
from models.scored_table import SIDE, side_table
from models.scoring_worker import Desk
from tests.models.scored import leave_parts, left_key, score
from tests.models.spectral import write_coadd


def keys_found(out: Path, spectral: HandOff, coadds: list[str], *, version: str = "3") -> list[bool]:
    """Say which of ``files`` a run of ``version`` would take as finished."""
    with suppress(KeyboardInterrupt), Parts(out) as parts:
        found = parts.found()
        answer = [finished(found.get(left_key(spectral, file, version=version))) for file in coadds]
        raise KeyboardInterrupt
    return answer


def test_parts_of_another_version_of_changed_files_and_damaged_ones_are_not_used(
    spectral: HandOff, desk: Desk, coadds: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    leave_parts(spectral, desk, out, coadds)
    assert keys_found(out, spectral, coadds) == [True] * 4
    assert keys_found(out, spectral, coadds, version="4") == [False] * 4
    # Given a file that is replaced, one that gets a redshift file, and a part that was damaged
    Path(coadds[0]).unlink()
    write_coadd(Path(coadds[0]), seed=0, level=7.0, rows=6)
    Path(coadds[1]).with_name("redrock-1.fits").write_bytes(b"new")
    part = tmp_path / "scores.parquet.parts" / "2.parquet"
    part.write_bytes(part.read_bytes()[:50])
    assert keys_found(out, spectral, coadds) == [False, False, False, True]


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


def test_two_runs_do_not_write_one_table_at_once(spectral: HandOff, coadds: list[str], tmp_path: Path) -> None:
    with Parts(tmp_path / "scores.parquet"), pytest.raises(RefusedError, match="one run at a time"):
        score(spectral, coadds, tmp_path / "scores.parquet")


def test_a_folder_that_cannot_be_written_is_one_sentence(spectral: HandOff, coadds: list[str], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for out in (Path("/proc/scores.parquet"), tmp_path / "taken" / "scores.parquet"):
        with pytest.raises(RefusedError, match="must be writable"):
            score(spectral, coadds, out)
    with pytest.raises(RefusedError, match="is a folder"):
        score(spectral, coadds, tmp_path)
