"""Order, split and packing: nothing lost, nothing mixed, the same every time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.tokens.examples import Example
from danlu.data.tokens.order import epoch_order, split
from danlu.data.tokens.pack import pack, shares


def example(row: int, length: int) -> Example:
    tokens = np.arange(length, dtype=np.int32) + 1000 * row
    return Example(tokens=tokens, supervised=np.arange(length) % 2 == 0, row=row, part=0)


def test_split_is_that_of_llamafactory() -> None:
    train, held_out = split(1000, val_size=0.1, seed=42)
    order = np.random.default_rng(42).permutation(1000)
    assert held_out.tolist() == order[:100].tolist()
    assert train.tolist() == order[100:].tolist()
    assert len(split(7, val_size=0.1, seed=1)[1]) == 1
    assert len(split(7, val_size=3, seed=1)[1]) == 3
    assert len(split(7, val_size=0, seed=1)[1]) == 0


def test_a_tenth_is_held_out_where_there_are_enough_rows_and_nothing_is_said() -> None:
    held_out = {n: len(split(n, val_size=None, seed=1)[1]) for n in (0, 49, 50, 999, 5000)}
    assert held_out == {0: 0, 49: 0, 50: 5, 999: 99, 5000: 100}
    by_default, as_said = split(60, val_size=None, seed=7), split(60, val_size=0.1, seed=7)
    assert [part.tolist() for part in by_default] == [part.tolist() for part in as_said]


def test_order_is_a_permutation_that_changes_with_the_epoch() -> None:
    first, second = epoch_order(50, 1, 0), epoch_order(50, 1, 1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()
    assert first.tolist() == epoch_order(50, 1, 0).tolist()


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(1, 60))
def test_packing_keeps_every_token_once(lengths: list[int], limit: int) -> None:
    examples = [example(row, length) for row, length in enumerate(lengths)]
    batches = pack(examples, limit)
    tokens = np.concatenate([batch.tokens for batch in batches])
    assert sorted(tokens) == sorted(np.concatenate([e.tokens for e in examples]))
    assert sorted(k for b in batches for k in b.segment_keys) == sorted(
        f"{e.row}.0" for e in examples
    )
    for batch in batches:
        assert len(batch.tokens) <= limit or len(batch.segment_lengths) == 1
        starts = np.cumsum([0, *batch.segment_lengths])
        assert batch.positions[starts[:-1]].tolist() == [0] * len(batch.segment_lengths)
        # The row before a learned token is in the same segment.
        assert (batch.targets - batch.tokens[batch.supervised_indices] == 1).all()
    learned = sum(int(e.supervised[1:].sum()) for e in examples)
    assert sum(len(batch.targets) for batch in batches) == learned
    assert len(batches) <= max(1, 2 * sum(lengths) // limit + 1)


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 9))
def test_shares_hold_everything_once_and_are_about_equal(lengths: list[int], count: int) -> None:
    """The longest share is at most one piece above what each would have in the mean."""
    found = shares(lengths, count)
    assert len(found) == count
    assert sorted(index for share in found for index in share) == list(range(len(lengths)))
    assert all(share == sorted(share) for share in found)
    loads = [sum(lengths[index] for index in share) for share in found]
    assert max(loads) <= sum(lengths) / count + max(lengths, default=0)
    assert found == shares(list(lengths), count)
