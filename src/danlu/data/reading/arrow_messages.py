"""How much an Arrow IPC file or stream decodes to, told by the heads of its messages.

A compressed buffer begins with the length that it will have: a small file can stand for any size.
Knows the layout of Arrow's messages (https://arrow.apache.org/docs/format/Columnar.html) and as
much of flatbuffers as their heads need; must not know files or rows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAGIC = b"ARROW1"
_LENGTH_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """A batch of rows together with the dictionaries that it needs.

    num_bytes: of all its buffers when they are decoded. new_bytes: those of them that are not in
    the file as they are, so that memory must be allocated for them.
    """

    num_rows: int
    num_bytes: int
    new_bytes: int


def batch_sizes(content: Any) -> Iterator[BatchSize]:
    """Yield the size of each batch in a pyarrow.Buffer, of a file or a stream, in their order.

    Only heads are read. The file's own head must have been checked: open it with pyarrow before.
    Raises pyarrow.ArrowInvalid where a message is damaged.
    """
    dictionaries: dict[int, tuple[int, int]] = {}
    for message in _messages(content):
        head = memoryview(message.metadata)
        table = _follow(head, _member(head, _follow(head, 0), 2))
        if message.type == "dictionary":
            identity, is_delta = (_number(head, table, *of) for of in ((0, "<q"), (2, "<b")))
            size = _size(head, _follow(head, _member(head, table, 1)), message.body)
            known = dictionaries.get(identity, (0, 0)) if is_delta else (0, 0)
            dictionaries[identity] = (known[0] + size[0], known[1] + size[1])
        elif message.type == "record batch":
            sizes = [*dictionaries.values(), _size(head, table, message.body)]
            yield BatchSize(
                num_rows=_number(head, table, 0, "<q"),
                num_bytes=sum(every for every, _new in sizes),
                new_bytes=sum(new for _every, new in sizes),
            )


def _messages(content: Any) -> Iterator[Any]:
    import pyarrow  # type: ignore[import-untyped]

    source = pyarrow.BufferReader(content)
    if content[: len(MAGIC)].to_pybytes() != MAGIC:
        yield from pyarrow.ipc.MessageReader.open_stream(source)
        return
    # A file ends with its footer, the footer's length and the magic word again. What is read is
    # where the footer points to, which need not be what stands there one after the other.
    end = len(content) - len(MAGIC) - 4
    (length,) = struct.unpack_from("<i", content, end)
    footer = memoryview(content)[end - length : end]
    for index in (2, 3):  # dictionaries, batches
        place = _member(footer, _follow(footer, 0), index)
        if place is None:
            continue
        start = _follow(footer, place)
        (count,) = struct.unpack_from("<I", footer, start)
        for block in range(count):
            (offset,) = struct.unpack_from("<q", footer, start + 4 + 24 * block)
            source.seek(offset)
            yield pyarrow.ipc.read_message(source)


def _size(head: memoryview, batch: int, body: Any) -> tuple[int, int]:
    """Return the decoded bytes of a batch's buffers, and those that must be allocated."""
    place = _member(head, batch, 2)
    if place is None:
        return 0, 0
    start = _follow(head, place)
    (count,) = struct.unpack_from("<I", head, start)
    is_compressed = _member(head, batch, 3) is not None
    total, new = 0, 0
    for offset, length in struct.iter_unpack("<qq", head[start + 4 : start + 4 + 16 * count]):
        if offset < 0 or length < 0 or offset + length > body.size:
            continue  # damaged: the reader says so
        if not is_compressed or length < _LENGTH_BYTES:
            total += length
            continue
        (decoded,) = struct.unpack_from("<q", body, offset)
        # -1: it would not have become smaller, and stands there as it is.
        total += length - _LENGTH_BYTES if decoded < 0 else decoded
        new += max(0, decoded)
    return total, new


def _member(data: memoryview, table: int, index: int) -> int | None:
    """Return where a flatbuffers table has its member; None where it has not."""
    (back,) = struct.unpack_from("<i", data, table)
    members = table - back
    (size,) = struct.unpack_from("<H", data, members)
    entry = 4 + 2 * index
    (offset,) = struct.unpack_from("<H", data, members + entry) if entry < size else (0,)
    return table + offset if offset else None


def _follow(data: memoryview, place: int | None) -> int:
    """Return where the reference at a place points to. Raises ValueError where there is none."""
    if place is None:
        raise ValueError("a message lacks what it is about")
    (offset,) = struct.unpack_from("<I", data, place)
    return place + int(offset)


def _number(data: memoryview, table: int, index: int, kind: str) -> int:
    place = _member(data, table, index)
    return 0 if place is None else int(struct.unpack_from(kind, data, place)[0])
