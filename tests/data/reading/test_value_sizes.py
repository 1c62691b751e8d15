"""The memory that Arrow's values will take, against the Python objects that they become."""

from __future__ import annotations

from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.reading.value_sizes import TooManyValues, value_sizes

MESSAGES = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("n", pyarrow.int64())]))
SHARED = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    pyarrow.string(): st.text(max_size=300),
    pyarrow.large_string(): st.text(max_size=300),
    pyarrow.string_view(): st.text(max_size=300),
    pyarrow.bool_(): st.booleans(),
    pyarrow.null(): st.none(),
    SHARED: st.sampled_from(["", "a", "b" * 200]),
    MESSAGES: st.lists(
        st.none()
        | st.fixed_dictionaries({"role": st.none() | st.text(max_size=90), "n": st.integers(0, 9)})
    ),
    pyarrow.list_(SHARED): st.lists(st.sampled_from(["", "a", "b" * 200])),
    pyarrow.list_view(pyarrow.string()): st.lists(st.text(max_size=90)),
    pyarrow.list_(pyarrow.string(), 2): st.lists(st.text(max_size=9), min_size=2, max_size=2),
    pyarrow.map_(pyarrow.string(), pyarrow.string()): st.lists(
        st.tuples(st.text(max_size=9), st.text(max_size=90))
    ),
}


def num_bytes(value: Any) -> int:
    """Count text, numbers and objects as the module does; null members of structs too."""
    if isinstance(value, dict):
        return 64 + sum(map(num_bytes, value.values()))
    if isinstance(value, list | tuple):
        return 64 + sum(map(num_bytes, value))
    return 64 + (len(value.encode()) if isinstance(value, str) else 0)


@given(data=st.data(), kind=st.sampled_from(list(VALUES)))
def test_sizes_are_those_of_the_python_objects(data: st.DataObject, kind: Any) -> None:
    values = data.draw(st.lists(st.none() | VALUES[kind], max_size=8))
    start = data.draw(st.integers(0, len(values)))
    array = pyarrow.array(values, kind).slice(start)
    sizes = value_sizes(array)
    assert len(sizes) == len(array)
    for size, value in zip(sizes, array.to_pylist(), strict=True):
        # What is null may be counted as what could stand in its place.
        assert size >= num_bytes(value)
        assert size <= 2 * num_bytes(value) or "None" in repr(value)


def test_runs_are_counted_as_often_as_they_stand_there() -> None:
    ends, values = pyarrow.array([2, 5], pyarrow.int32()), pyarrow.array(["a", "b" * 100])
    runs = pyarrow.RunEndEncodedArray.from_arrays(ends, values)
    assert value_sizes(runs.slice(1, 3)).tolist() == [65, 164, 164]


def test_what_takes_no_bytes_is_not_counted_one_by_one() -> None:
    nothing = pyarrow.nulls(1 << 30)
    lists = pyarrow.ListArray.from_arrays(pyarrow.array([0, 1 << 30], pyarrow.int32()), nothing)
    with pytest.raises(TooManyValues):
        value_sizes(lists)
