"""Parquet tables of untrusted people: a file of kilobytes can stand for terabytes, so bytes are counted as they unfold, not as claimed.

A run of equal values is stored once with its length, a text once with a number that points to it, and the footer says what its writer
likes. So rows are read in portions, texts stay numbers until their whole length is known, and columns of lists are refused: one row of
them can be as long as it likes.
"""

from collections.abc import Iterator
from io import BytesIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import HandOffError

MAX_TABLE_BYTES = 1 << 30
"""A table that unfolds to more than this is not held in memory: a hundred columns of a million rows stay below it."""
_PORTION = 1 << 16
"""Rows that are unfolded before they are counted."""
_WIDEST = 64
"""Bytes of one value of a fixed-length type, such as a half-precision number or a UUID."""


def read_table(data: bytes, *, where: str) -> pd.DataFrame:
    """Return the Parquet table whose bytes are ``data``, named ``where`` in errors.

    Raises HandOffError when it is none, has columns that are not flat, or unfolds to more than :data:`MAX_TABLE_BYTES`.
    """
    try:
        plain = pq.ParquetFile(BytesIO(data))
        file = pq.ParquetFile(BytesIO(data), read_dictionary=_texts(plain, where))
        portions = list(_portions(file, where))
        table: pd.DataFrame = pa.Table.from_batches(portions, schema=file.schema_arrow).cast(plain.schema_arrow).to_pandas()
    except HandOffError:
        raise
    except Exception as problem:  # a hostile file makes pyarrow raise almost anything
        raise HandOffError(
            f"{where} must be a Parquet table, found {' '.join(str(problem).split())[:200]!r}: write it with pandas"
        ) from None
    return table


def _texts(file: pq.ParquetFile, where: str) -> list[str]:
    """Return the columns that hold texts of any length."""
    columns = [file.schema.column(place) for place in range(len(file.schema))]
    for column in columns:
        if column.max_repetition_level or (column.physical_type == "FIXED_LEN_BYTE_ARRAY" and column.length > _WIDEST):
            raise HandOffError(
                f"{where} must have one number, date or text in each cell, found others in {column.path[:80]!r}: leave that column out"
            )
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _portions(file: pq.ParquetFile, where: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows as long as they fit."""
    unfolded = 0
    for portion in file.iter_batches(batch_size=_PORTION):
        unfolded += sum(_bytes(column) for column in portion.columns)
        if unfolded > MAX_TABLE_BYTES:
            raise HandOffError(f"{where} must unfold to at most {MAX_TABLE_BYTES} bytes, found more: keep fewer rows or columns")
        yield portion


def _bytes(column: pa.Array) -> int:
    """Return what ``column`` takes in memory with every text written out."""
    if not isinstance(column, pa.DictionaryArray) or not _is_text(column.type.value_type):
        return int(column.nbytes)
    lengths = pc.cast(pc.binary_length(column.dictionary), pa.int64())
    return int(column.indices.nbytes) + int(pc.sum(lengths.take(column.indices)).as_py() or 0)


def _is_text(kind: pa.DataType) -> bool:
    return any(question(kind) for question in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary))
