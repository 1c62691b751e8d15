"""Rows of .parquet and .arrow files: a batch at a time, numbered from 1.

.arrow is Arrow's IPC format, as a file or, as the library `datasets` saves it, as a stream. All
structs of a column have the same members there, so a writer fills up those that differ with nulls:
a null member of a struct is read as a missing one. Knows how to reach the rows; must not know what
they mean.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.data.reading.arrow_messages import MAGIC, BatchSize, batch_sizes
from danlu.data.reading.encoding import (
    MAX_ROW_BYTES,
    MOST_ROW_CHARACTERS,
    BrokenFile,
    row_too_long,
)
from danlu.data.reading.value_sizes import TooManyValues, value_sizes
from danlu.files.regular import open_regular
from danlu.language import _
from danlu.reasons import reason_of

_BATCH_ROWS = 256
_MOST_SHARED_BYTES = 2 * MAX_ROW_BYTES
_MOST_GROUP_BYTES = 8 * MAX_ROW_BYTES
_DAMAGE = (ValueError, OverflowError, EOFError, struct.error)
# A compressed batch is decoded whole.
_MOST_BATCH_BYTES = 16 * MAX_ROW_BYTES


def parquet_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and fields of each row. Raises BrokenFile for a damaged file, OSError."""
    return _numbered(_parquet_batches(file))


def arrow_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and fields of each row. Raises BrokenFile for a damaged file, OSError."""
    return _numbered(_arrow_batches(file))


def _parquet_batches(file: Path) -> Iterator[Any]:
    from pyarrow import parquet  # type: ignore[import-untyped]

    # Opened by us: then a file that is refused is told from one that is damaged.
    with open_regular(file) as raw:
        metadata = parquet.ParquetFile(raw).metadata
        batch_size = _rows_a_batch(metadata)
        # Each group by itself: it has its own dictionary.
        number = 1
        for group in range(metadata.num_row_groups):
            num_rows = metadata.row_group(group).num_rows
            # A page is decoded whole, and may hold the group.
            _check_mean(num_rows, metadata.row_group(group).total_byte_size, number)
            number += num_rows
            raw.seek(0)
            shared = _shared_texts(metadata, group)
            table = parquet.ParquetFile(raw, metadata=metadata, read_dictionary=shared)
            for batch in table.iter_batches(batch_size=batch_size, row_groups=[group]):
                batch.validate(full=True)
                yield batch


def _check_mean(num_rows: int, num_bytes: int, number: int) -> None:
    """Raise BrokenFile where rows are too long in the mean, and too much to be decoded at once."""
    size = num_bytes // max(1, num_rows)
    if size > MOST_ROW_CHARACTERS and num_bytes > _MOST_GROUP_BYTES:
        raise BrokenFile(
            "rows_too_long",
            number,
            _("The {count:,} rows from here have {size:,} bytes in the mean.").format(
                count=num_rows, size=size
            ),
            _("Divide them into several rows; no model's context holds that much."),
        )


def _shared_texts(metadata: Any, group: int) -> list[str]:
    """Return the paths of the texts, in lists and structs too, whose values may be shared.

    A value that many rows share stays one value: a small file can stand for any size. All values of
    a group are kept for that, so not of a column that holds many bytes itself.
    """
    row_group = metadata.row_group(group)
    columns = map(row_group.column, range(row_group.num_columns))
    return [
        column.path_in_schema
        for index, column in enumerate(columns)
        if metadata.schema.column(index).logical_type.type == "STRING"
        and column.total_uncompressed_size <= _MOST_SHARED_BYTES
    ]


def _rows_a_batch(metadata: Any) -> int:
    """Return how many rows have about MAX_ROW_BYTES, by what the file says of itself."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(_BATCH_ROWS, int(MAX_ROW_BYTES / max(1, largest))))


def _arrow_batches(file: Path) -> Iterator[Any]:
    import pyarrow

    with open_regular(file) as raw:
        is_file = raw.read(len(MAGIC)) == MAGIC
        mapped = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
    content = pyarrow.py_buffer(mapped)
    if is_file:
        reader = pyarrow.ipc.open_file(content)
        batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        batches = iter(pyarrow.ipc.open_stream(content))
    number = 1
    for size in batch_sizes(content):
        _check_batch(size, number)
        number += size.num_rows
        batch = next(batches)
        # Once, not for each of its slices, which share what lists and dictionaries hold.
        batch.validate(full=True)
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            yield batch.slice(start, _BATCH_ROWS)
            # What has been read of a mapped file counts as our memory until we give it back.
            mapped.madvise(mmap.MADV_DONTNEED)


def _check_batch(size: BatchSize, number: int) -> None:
    """Raise BrokenFile where a batch is too much to be decoded. number: of its first row."""
    _check_mean(size.num_rows, size.num_bytes, number)
    if size.new_bytes > _MOST_BATCH_BYTES:
        raise BrokenFile(
            "batch_too_large",
            number,
            _("The {count:,} rows from here are one compressed batch of {size:,} bytes.").format(
                count=size.num_rows, size=size.new_bytes
            ),
            _("Save the file with batches of 1,000 rows, or as .jsonl."),
        )


def _rows(batch: Any) -> Iterator[Any]:
    """Yield a batch's rows as Python objects, MAX_ROW_BYTES of them at once; none is larger."""
    try:
        is_small = sum(int(value_sizes(column).sum()) for column in batch.columns) <= MAX_ROW_BYTES
    except TooManyValues:
        is_small = False
    if is_small:
        yield from batch.to_pylist()
    elif batch.num_rows == 1:
        yield row_too_long()
    else:
        half = batch.num_rows // 2
        yield from _rows(batch.slice(0, half))
        yield from _rows(batch.slice(half))


def _numbered(batches: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    import pyarrow

    number = 0
    while True:
        try:
            # Validated: damaged offsets would make the conversion read memory that is not ours.
            batch = next(batches, None)
            if batch is None:
                return
            for row in _rows(batch):
                number += 1
                if isinstance(row, dict):
                    row = {name: _without_fillers(value) for name, value in row.items()}
                yield number, row
        except (*_DAMAGE, pyarrow.ArrowException, OSError) as problem:
            if isinstance(problem, OSError) and problem.errno is not None:
                raise  # the file is refused, not damaged
            reason = reason_of(problem).rstrip(".")
            raise BrokenFile(
                "damaged_table",
                number + 1,
                _("The table cannot be read on: {reason}.").format(reason=reason),
                _("Copy it again, or save it as .jsonl."),
            ) from None


def _without_fillers(value: Any) -> Any:
    """Return a value without the null members of its structs, at any depth."""
    if isinstance(value, dict):
        return {name: _without_fillers(v) for name, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_fillers(item) for item in value]
    return value
