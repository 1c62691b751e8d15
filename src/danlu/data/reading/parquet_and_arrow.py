"""Rows of .parquet and .arrow files: a batch at a time, numbered from 1.

.arrow is Arrow's IPC format, as a file or, as the library `datasets` saves it, as a stream. Knows
how to reach the rows; must not know what they mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.data.reading.encoding import BrokenFile
from danlu.files.regular import open_regular
from danlu.language import _

_BATCH_ROWS = 256
_ARROW_FILE = b"ARROW1"


def parquet_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and fields of each row. Raises BrokenFile for a damaged file, OSError."""
    return _numbered(_parquet_batches(file))


def arrow_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and fields of each row. Raises BrokenFile for a damaged file, OSError."""
    return _numbered(_arrow_batches(file))


def _parquet_batches(file: Path) -> Iterator[Any]:
    from pyarrow import parquet  # type: ignore[import-untyped]

    # Opened by us: then a file that is refused is told from one that is damaged.
    with open_regular(file) as raw, parquet.ParquetFile(raw) as table:
        yield from table.iter_batches(batch_size=_BATCH_ROWS)


def _arrow_batches(file: Path) -> Iterator[Any]:
    import pyarrow

    with open_regular(file) as raw:
        is_file = raw.read(len(_ARROW_FILE)) == _ARROW_FILE
    with pyarrow.memory_map(str(file)) as mapped:
        if is_file:
            reader = pyarrow.ipc.open_file(mapped)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            batches = iter(pyarrow.ipc.open_stream(mapped))
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                yield batch.slice(start, _BATCH_ROWS)


def _numbered(batches: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    import pyarrow

    number = 0
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            # Damaged offsets would make the conversion read memory that is not ours, and crash.
            batch.validate(full=True)
            rows = batch.to_pylist()
        except (pyarrow.ArrowException, ValueError, OSError) as problem:
            if isinstance(problem, OSError) and problem.errno is not None:
                raise  # the file is refused, not damaged
            reason = str(problem).partition("\n")[0].rstrip(".")
            raise BrokenFile(
                "damaged_table",
                number + 1,
                _("The table cannot be read on: {reason}.").format(reason=reason),
                _("Copy it again, or save it as .jsonl."),
            ) from None
        for row in rows:
            number += 1
            yield number, row
