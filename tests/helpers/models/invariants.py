"""What must hold between two steps of the engine; each function asserts it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from danlu.engine.blocks import Block, BlockPool
from danlu.engine.engine import Engine
from danlu.engine.scheduler import Scheduler, SequenceT


def check_engine(engine: Engine) -> None:
    """Requests and schedule agree, and without requests no block is used."""
    check_scheduler(engine._scheduler)
    in_schedule = engine._scheduler.num_running + engine._scheduler.num_waiting
    assert in_schedule == len(engine._sequences)
    assert engine._sequences or engine._pool.num_used == 0


def check_scheduler(scheduler: Scheduler[SequenceT]) -> None:
    """Sequences and their blocks agree."""
    check_pool(scheduler._pool, [sequence.blocks for sequence in scheduler._running])
    size = scheduler._pool.block_tokens
    for sequence in scheduler._running:
        assert 0 <= sequence.computed < len(sequence.tokens)
        assert len(sequence.blocks) * size >= sequence.computed
        assert len(sequence.contents) == sequence.computed // size
    assert all(not sequence.blocks and not sequence.computed for sequence in scheduler._waiting)
    assert len(scheduler._running) <= scheduler._num_requests


def check_pool(pool: BlockPool, tables: Iterable[Sequence[Block]]) -> None:
    """Blocks and users agree. tables: the blocks of every request."""
    users = [0] * pool.num_blocks
    for table in tables:
        assert len(set(table)) == len(table), "a block twice in one request"
        for block in table:
            users[block] += 1
    assert users == pool._users
    used = {block for block in range(pool.num_blocks) if users[block]}
    assert not pool._free & pool._kept.keys()
    assert pool._free.isdisjoint(used)
    assert used.isdisjoint(pool._kept)
    assert len(pool._free) + len(pool._kept) + len(used) == pool.num_blocks
    assert len(pool._known) == len(pool._key_of)
    for block, key in pool._key_of.items():
        assert pool._known[key][0] == block
        assert block not in pool._free
    assert pool._kept.keys() <= pool._key_of.keys()
