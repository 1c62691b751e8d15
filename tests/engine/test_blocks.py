"""The pool of blocks: nothing is lost, nothing is used twice, what is known is found exactly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from danlu.engine.blocks import Block, BlockPool, Contents
from tests.helpers.models.invariants import check_pool

SIZE = 4


def filled(pool: BlockPool, root: Contents, tokens: list[int]) -> list[Block]:
    """Take blocks for full blocks of tokens, as a request does that computes them."""
    blocks: list[Block] = []
    before = root
    for start in range(0, len(tokens), SIZE):
        block = pool.take(blocks[-1] if blocks else None)
        assert block is not None
        blocks.append(block)
        before = pool.learn(block, before, tokens[start : start + SIZE])
    return blocks


def found(pool: BlockPool, root: Contents, tokens: list[int]) -> list[Block]:
    return [block for block, _contents in pool.find(root, tokens)]


def test_what_is_released_is_found_again_up_to_where_it_differs() -> None:
    pool = BlockPool(10, SIZE)
    root = pool.new_root()
    blocks = filled(pool, root, list(range(12)))
    assert found(pool, root, list(range(12))) == blocks
    pool.release(blocks)
    assert pool.num_used == 0
    assert found(pool, root, [*range(9), 99, 10, 11]) == blocks[:2]
    assert found(pool, root, [99, *range(1, 12)]) == []
    assert found(pool, root, list(range(7))) == blocks[:1]


def test_another_root_finds_nothing() -> None:
    pool = BlockPool(10, SIZE)
    filled(pool, pool.new_root(), list(range(8)))
    assert found(pool, pool.new_root(), list(range(8))) == []


def test_a_request_lies_in_one_run_while_there_is_room_and_so_does_the_next() -> None:
    pool = BlockPool(64, SIZE)
    tables: list[list[Block]] = [[], [], []]
    for _ in range(12):
        for table in tables:
            block = pool.take(table[-1] if table else None)
            assert block is not None
            table.append(block)
    for table in tables:
        assert table == list(range(table[0], table[0] + 12))


def test_the_oldest_contents_are_given_up_first_and_their_end_before_their_beginning() -> None:
    pool = BlockPool(70, SIZE)
    root = pool.new_root()
    old, new = list(range(100, 112)), list(range(200, 212))
    pool.release(filled(pool, root, old))
    recent = filled(pool, root, new)
    pool.release(recent)
    table: list[Block] = []
    while pool.num_available > 3:
        block = pool.take(table[-1] if table else None)
        assert block is not None
        table.append(block)
    assert found(pool, root, old) == []
    check_pool(pool, [table])


def test_everything_in_use_leaves_nothing_to_take() -> None:
    pool = BlockPool(2, SIZE)
    filled(pool, pool.new_root(), list(range(8)))
    assert pool.take(None) is None


def test_a_shared_block_is_kept_until_its_last_user_leaves() -> None:
    pool = BlockPool(3, SIZE)
    root = pool.new_root()
    first = filled(pool, root, list(range(4)))
    pool.share(first)
    pool.release(first)
    assert pool.num_used == 1
    assert pool.take(None) is not None
    assert pool.take(None) is not None
    assert pool.take(None) is None
    pool.release(first)
    assert pool.take(None) == first[0]


def test_a_forgotten_root_frees_what_is_kept_and_later_what_is_used() -> None:
    pool = BlockPool(8, SIZE)
    gone, stays = pool.new_root(), pool.new_root()
    kept = filled(pool, gone, list(range(8)))
    pool.release(kept)
    used = filled(pool, gone, list(range(50, 54)))
    other = filled(pool, stays, list(range(8)))
    pool.forget(gone)
    assert found(pool, gone, list(range(8))) == []
    assert found(pool, stays, list(range(8))) == other
    check_pool(pool, [used, other])
    pool.release(used)
    assert found(pool, gone, list(range(50, 54))) == []
    check_pool(pool, [other])


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["start", "grow", "end"]), st.integers(0, 5), st.integers(0, 3)),
        max_size=60,
    )
)
def test_any_use_keeps_the_books(steps: list[tuple[str, int, int]]) -> None:
    pool = BlockPool(12, SIZE)
    root = pool.new_root()
    tables: list[tuple[list[Block], list[int], Contents]] = []
    for action, which, flavour in steps:
        if action == "start":
            prefix = [flavour] * 8
            places = pool.find(root, prefix)
            pool.share([block for block, _contents in places])
            tokens = prefix[: len(places) * SIZE]
            contents = places[-1][1] if places else root
            tables.append(([block for block, _contents in places], tokens, contents))
        elif tables and action == "grow":
            blocks, tokens, contents = tables[which % len(tables)]
            had_room = pool.num_available > 0
            block = pool.take(blocks[-1] if blocks else None)
            assert (block is not None) == had_room
            if block is not None:
                new = [flavour] * SIZE
                blocks.append(block)
                tokens += new
                contents = pool.learn(block, contents, new)
                tables[which % len(tables)] = (blocks, tokens, contents)
        elif tables:
            pool.release(tables.pop(which % len(tables))[0])
        check_pool(pool, [blocks for blocks, _tokens, _contents in tables])
    for blocks, _tokens, _contents in tables:
        pool.release(blocks)
    assert pool.num_available == pool.num_blocks
