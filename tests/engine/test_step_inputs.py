"""What a step reads: the same buffers every time, and filler where a step only decodes."""

from __future__ import annotations

import pytest
import torch

from danlu.engine.blocks import Block, Contents
from danlu.engine.request import RequestId
from danlu.engine.scheduler import TokenSequence
from danlu.engine.step_inputs import StepInputs
from danlu.ops import Cache, Draw
from danlu.ops.cache.key_value_store import ByHead
from danlu.ops.cache.paged_store import Paged


def inputs(cache: type[Cache] = Paged) -> StepInputs:
    return StepInputs(
        cache,
        max_tokens=300,
        max_requests=6,
        max_blocks=4,
        max_groups=5,
        scratch=9,
        device=torch.device("cpu"),
    )


def sequence(number: int, num_tokens: int, computed: int, blocks: list[int]) -> TokenSequence:
    return TokenSequence(
        id=RequestId(number),
        tokens=[100 * number + place for place in range(num_tokens)],
        root=Contents(0),
        computed=computed,
        blocks=[Block(block) for block in blocks],
    )


def test_prompts_and_answers_in_one_step() -> None:
    reads = sequence(1, 200, 0, [3, 1])
    writes = sequence(2, 130, 129, [0, 5])
    step = inputs().prepare({reads: 140, writes: 1})
    assert step.tokens.tolist() == [*range(100, 240), 329]
    assert step.positions.tolist() == [*range(140), 129]
    assert step.cache.slots.tolist() == [*range(384, 512), *range(128, 140), 5 * 128 + 1]
    assert step.cache.block_table.tolist() == [[3, 1, 0, 0], [0, 5, 0, 0]]
    assert step.cache.lengths.tolist() == [140, 130]
    assert step.cache.offsets.tolist() == [0, 140, 141]
    # The first goes on reading: only the second gets a token.
    assert step.rows is not None
    assert step.rows.tolist() == [140]
    assert (step.num_rows, step.num_filler) == (1, 0)


def test_groups_of_tokens_end_where_theirs_do_and_filler_belongs_to_the_last() -> None:
    made = inputs()
    batch = {sequence(n, 3, 2, [n]): 1 for n in range(5)}
    step = made.prepare(batch, [1, 0, 3, 1])
    assert step.group_ends is not None
    assert (step.group_ends.dtype, step.group_ends.tolist()) == (torch.int64, [1, 1, 4, 8])
    there = step.group_ends.data_ptr()
    assert made.prepare(batch).group_ends is None
    step = made.prepare({sequence(1, 200, 0, [3, 1]): 140}, [0, 140])
    assert step.group_ends is not None
    assert (step.group_ends.data_ptr(), step.group_ends.tolist()) == (there, [0, 140])


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 2), (3, 4), (5, 8), (6, 8)])
def test_a_step_that_only_decodes_has_a_power_of_two_of_rows(count: int, rows: int) -> None:
    batch = {sequence(n, 3, 2, [n]): 1 for n in range(count)}
    step = inputs().prepare(batch)
    assert step.tokens.shape == step.cache.lengths.shape == (rows,)
    assert (step.num_rows, step.num_filler) == (count, rows - count)
    assert step.rows is None
    # Filler sees one token, its own, in a block that is nobody's.
    assert step.cache.block_table[count:, 0].tolist() == [9] * (rows - count)
    assert step.cache.slots[count:].tolist() == [9 * 128] * (rows - count)
    assert step.cache.lengths[count:].tolist() == [1] * (rows - count)
    assert step.cache.is_decoding


def test_where_rows_cost_their_time_nothing_is_filled() -> None:
    step = inputs(ByHead).prepare({sequence(n, 3, 2, [n]): 1 for n in range(3)})
    assert len(step.tokens) == 3
    assert step.num_filler == 0


def test_every_step_reads_the_same_places() -> None:
    made = inputs()
    first = made.prepare({sequence(n, 3, 2, [n]): 1 for n in range(3)})
    places = [part.data_ptr() for part in (first.tokens, first.positions, first.cache.lengths)]
    second = made.prepare({sequence(n, 200, 0, [n, n + 1]): 40 for n in range(5)})
    assert [
        part.data_ptr() for part in (second.tokens, second.positions, second.cache.lengths)
    ] == places
    assert {part.dtype for part in (second.tokens, second.positions, second.cache.block_table)} == {
        torch.int32
    }


def test_a_step_in_which_nobody_gets_a_token() -> None:
    step = inputs().prepare({sequence(1, 200, 0, [3, 1]): 128})
    assert step.rows is not None
    assert step.rows.tolist() == []
    assert step.num_rows == 0


def test_a_step_reads_what_the_one_before_it_chooses() -> None:
    """Whichever of its requests go on, in whichever rows; the others' tokens are never uploaded."""
    made = inputs()
    one, two, three = (sequence(n, 130, 129, [n, 5 + n]) for n in range(3))
    first = made.prepare({one: 1, two: 1, three: 1})
    assert made.tokens_of(first).tolist() == [129, 229, 329, 0]
    made.chosen[0, :4] = torch.tensor([71, 72, 73, 74])
    step = made.prepare({one: 1, three: 1}, after=[one, two, three])
    assert made.tokens_of(step).tolist() == [71, 73]
    assert step.positions.tolist() == [130, 130]
    assert step.cache.ends == [131, 131]
    assert step.cache.slots.tolist() == [(5 + n) * 128 + 2 for n in (0, 2)]
    assert step.only_decodes


def test_what_rows_ask_of_the_device_is_theirs_and_filler_asks_for_nothing() -> None:
    made = inputs()
    made.prepare(
        {sequence(n, 3, 2, [n]): 1 for n in range(4)}, draws=[Draw(2.0, 5, 0.5, 0.1, 0.3)] * 4
    )
    draws = [Draw(0.6, 20, 0.95, 0.0, number / 7) for number in range(3)]
    step = made.prepare({sequence(n, 3, 2, [n]): 1 for n in range(3)}, draws=draws)
    assert torch.equal(step.asked, torch.tensor([*draws, Draw()]).t())


def test_block_tables_are_right_whoever_stood_in_a_row_before() -> None:
    made = inputs()
    one, two = sequence(1, 130, 129, [3, 1]), sequence(2, 130, 129, [0, 5])
    for batch in ([one, two], [two, one], [one], [two], [one, two]):
        step = made.prepare(dict.fromkeys(batch, 1))
        assert [row[:2] for row in step.cache.block_table.tolist()][: len(batch)] == [
            each.blocks for each in batch
        ]
    one.blocks.append(Block(7))
    assert made.prepare({one: 1}).cache.block_table[0, :3].tolist() == [3, 1, 7]
    one.blocks = [Block(8), Block(2)]  # preempted, and computed again elsewhere
    assert made.prepare({one: 1}).cache.block_table[0, :2].tolist() == [8, 2]
    # Filler took a row, and gives it back.
    three = [sequence(n, 3, 2, [n]) for n in range(3)]
    assert made.prepare(dict.fromkeys(three, 1)).cache.block_table[:, 0].tolist() == [0, 1, 2, 9]
    four = [*three, sequence(4, 3, 2, [4])]
    assert made.prepare(dict.fromkeys(four, 1)).cache.block_table[:, 0].tolist() == [0, 1, 2, 4]
