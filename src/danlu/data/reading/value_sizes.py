"""How much memory the values of an Arrow array take as Python objects, before they are made.

A small file can stand for any size: values that many rows share, empty ones without end. Every
value is counted as often as it stands there. Knows Arrow's layouts; must not know files or rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Sizes = NDArray[np.int64]

# A small Python object, and its place in a list.
_OBJECT_BYTES = 64
# Below a list there are no more values at once: their sizes alone would fill the memory.
_MOST_VALUES = 1 << 22


class TooManyValues(Exception):
    """An array has so many values that they are not counted one by one."""


def value_sizes(array: Any) -> Sizes:
    """Return about how many bytes each value of an Arrow array takes: int64 [len(array)].

    The array must have been validated. Raises TooManyValues, pyarrow.ArrowNotImplementedError for a
    type that no writer of rows uses.
    """
    import pyarrow  # type: ignore[import-untyped]

    types, kind = pyarrow.types, array.type
    if isinstance(kind, pyarrow.BaseExtensionType):
        return value_sizes(array.storage)
    if types.is_dictionary(kind):
        return _dictionary_sizes(array)
    if types.is_run_end_encoded(kind):
        places = np.arange(len(array)) + array.offset
        runs = np.searchsorted(array.run_ends, places, side="right")
        found: Sizes = value_sizes(array.values)[runs]
        return found
    if types.is_struct(kind):
        # Flattened, the members of the structs that stand here, and no others.
        return sum(map(value_sizes, array.flatten()), start=_own(array))
    if types.is_nested(kind) and not types.is_union(kind):
        return _own(array) + _list_sizes(array)
    return _own(array) + _plain_sizes(array)


def _own(array: Any) -> Sizes:
    return np.full(len(array), _OBJECT_BYTES, dtype=np.int64)


def _dictionary_sizes(array: Any) -> Sizes:
    values = array.dictionary
    if len(values) > max(_MOST_VALUES, values.nbytes):
        raise TooManyValues
    if not len(values):
        return _own(array)
    return value_sizes(values)[_integers(array.indices)]


def _list_sizes(array: Any) -> Sizes:
    """Count what the lists hold; those of a map are its pairs."""
    if hasattr(array, "sizes"):  # views
        starts, counts = _integers(array.offsets), _integers(array.sizes)
    elif hasattr(array, "offsets"):
        offsets = _integers(array.offsets)
        starts, counts = offsets[:-1], np.diff(offsets)
    else:  # all of one length
        counts = np.full(len(array), array.type.list_size)
        starts = np.cumsum(counts) + (array.offset - 1) * array.type.list_size
    if not counts.any():
        return counts
    first, last = int(starts[counts > 0].min()), int((starts + counts)[counts > 0].max())
    if last - first > _MOST_VALUES:
        raise TooManyValues
    held = value_sizes(array.values.slice(first, last - first))
    before = np.concatenate(([0], np.cumsum(held)))
    starts = np.where(counts, starts - first, 0)
    sizes: Sizes = before[starts + counts] - before[starts]
    return sizes


def _plain_sizes(array: Any) -> Sizes | int:
    """Count texts by their lengths, numbers by their width."""
    import pyarrow
    from pyarrow import compute

    types, kind = pyarrow.types, array.type
    if kind in (pyarrow.string_view(), pyarrow.binary_view()):
        # 16 bytes a value, of which the first 4 are its length.
        views = np.frombuffer(array.buffers()[1], dtype=np.int32).reshape(-1, 4)
        return views[array.offset : array.offset + len(array), 0].astype(np.int64)
    if types.is_null(kind):
        return 0
    if types.is_primitive(kind) or types.is_fixed_size_binary(kind) or types.is_decimal(kind):
        return int(kind.bit_width) // 8
    return _integers(compute.binary_length(array))


def _integers(array: Any) -> Sizes:
    found: Sizes = array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return found
