"""The batches of a step are the same whether they were prepared or not."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.tokens.order import epoch_order
from danlu.data.tokens.pack import IDLE, pack
from danlu.device.group import Group
from danlu.train.loop import batches as module
from danlu.train.loop.batches import StagedBatch, StepBatches
from tests.helpers.training.trainers import random_rows

ROWS = random_rows(11)
STEPS = st.integers(0, 9)
SIZES = st.sampled_from([16, 64])


def step_batches() -> StepBatches:
    return StepBatches(ROWS, rows_per_step=4, seed=3, device=torch.device("cpu"))


@given(st.lists(st.tuples(STEPS, SIZES, st.booleans()), max_size=12))
def test_what_was_prepared_before_changes_nothing(calls: list[tuple[int, int, bool]]) -> None:
    """Also across epochs (three steps each), and after a change of the micro-batch's size."""
    batches = step_batches()
    for step, size, takes in calls:
        if not takes:
            batches.prepare(step, size)
            continue
        whole = batches.take(step, size)
        taken = whole.batches
        order = epoch_order(len(ROWS), 3, step // 3)
        rows = order[step % 3 * 4 : step % 3 * 4 + 4]
        assert batches.rows_of(step) == rows.tolist()
        expected = pack([example for row in rows for example in ROWS[row]], size)
        assert whole.num_targets == sum(batch.num_targets for batch in expected)
        assert whole.num_tokens == sum(batch.num_tokens for batch in expected)
        assert [staged.batch.segment_keys for staged in taken] == [b.segment_keys for b in expected]
        for staged, batch in zip(taken, expected, strict=True):
            assert_uploads(staged, batch.tokens, batch.positions)


def assert_uploads(staged: StagedBatch, *arrays: np.ndarray) -> None:
    """The parts on the device are the batch's."""
    batch = staged.batch
    *parts, segments = staged.upload(torch.device("cpu"))
    parts.append(segments.offsets)
    wanted = (*arrays, batch.supervised_indices, batch.targets, batch.offsets)
    assert [part.tolist() for part in parts] == [array.tolist() for array in wanted]
    assert batch.num_tokens == len(batch.tokens)
    assert batch.num_targets == len(batch.targets)
    assert tuple(np.diff(batch.offsets)) == segments.lengths == batch.segment_lengths


def test_prepared_batches_are_given_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = []
    monkeypatch.setattr(module, "pack", lambda *values: packed.append(values) or pack(*values))
    batches = step_batches()
    batches.prepare(1, 64)
    batches.prepare(1, 64)  # as when a step is computed again
    taken = batches.take(1, 64)
    assert len(packed) == 1
    held = weakref.ref(taken.batches[0])
    del taken
    assert held() is None
    batches.take(1, 64)
    assert len(packed) == 2


def test_processes_in_step_compute_as_many_batches() -> None:
    """Who has less computes idle ones behind, which hold a learned token and stand for nothing."""
    examples = [example for row in ROWS for example in row]
    packed = [module.share_packed(examples, 16, Group(rank, 3), in_step=True) for rank in range(3)]
    own = [module.share_packed(examples, 16, Group(rank, 3), in_step=False) for rank in range(3)]
    most = max(map(len, own))
    assert min(map(len, own)) < most
    assert [len(batches) for batches in packed] == [most] * 3
    for mine, without in zip(packed, own, strict=True):
        assert all(batch is IDLE for batch in mine[len(without) :])
    staged = module.stage(IDLE, torch.device("cpu"), multiple=16)
    assert staged.is_idle
    assert (staged.batch.num_targets, staged.batch.size) == (1, 16)
