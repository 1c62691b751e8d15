"""The scheduler: nobody who writes waits for a prompt, everybody gets on, nothing is lost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.engine.blocks import BlockPool
from danlu.engine.request import RequestId
from danlu.engine.scheduler import Scheduler, TokenSequence
from tests.helpers.models.invariants import check_scheduler

SIZE = 4


class Bench:
    """A scheduler whose model answers at once; every request writes `answers[id]` tokens."""

    def __init__(
        self, *, num_blocks: int = 100, prompt_tokens: int = 16, num_requests: int = 8
    ) -> None:
        self.pool = BlockPool(num_blocks, SIZE)
        self.scheduler: Scheduler[TokenSequence] = Scheduler(
            self.pool, prompt_tokens=prompt_tokens, num_requests=num_requests
        )
        self.root = self.pool.new_root()
        self.left: dict[TokenSequence, int] = {}
        self.finished: list[int] = []

    def add(self, prompt: list[int], answer: int = 4) -> TokenSequence:
        sequence = TokenSequence(
            id=RequestId(len(self.left) + len(self.finished)), tokens=list(prompt), root=self.root
        )
        self.left[sequence] = answer
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> dict[int, int]:
        """Run a step; return the tokens each request got."""
        scheduled = self.scheduler.plan()
        self._check(scheduled)
        self.scheduler.commit(scheduled)
        for sequence in scheduled:
            if sequence.pending == 0:
                sequence.tokens.append(1000 + len(sequence.tokens))
                self.left[sequence] -= 1
                if self.left[sequence] == 0:
                    self.scheduler.remove(sequence)
                    del self.left[sequence]
                    self.finished.append(sequence.id)
        check_scheduler(self.scheduler)
        return {sequence.id: num_tokens for sequence, num_tokens in scheduled.items()}

    def _check(self, scheduled: dict[TokenSequence, int]) -> None:
        assert len({sequence.id for sequence in scheduled}) == len(scheduled)
        read = 0
        for sequence, num_tokens in scheduled.items():
            assert 0 < num_tokens <= sequence.pending
            assert len(sequence.blocks) * SIZE >= sequence.computed + num_tokens
            read += num_tokens if sequence.pending > 1 else 0
        assert read <= self.scheduler._prompt_tokens


def prompt(seed: int, length: int) -> list[int]:
    return random.Random(seed).sample(range(1000), length)


def test_writers_go_on_while_a_long_prompt_is_read_in_chunks() -> None:
    bench = Bench(prompt_tokens=16)
    writers = [bench.add(prompt(seed, 3), answer=20) for seed in (1, 2)]
    bench.step()
    long = bench.add(prompt(3, 60))
    for _ in range(3):
        assert bench.step() == {writers[0].id: 1, writers[1].id: 1, long.id: 16}
    assert bench.step()[long.id] == 12


def test_prompts_are_read_in_order_of_arrival() -> None:
    bench = Bench(prompt_tokens=10)
    first, second = bench.add(prompt(1, 14)), bench.add(prompt(2, 14))
    assert bench.step() == {first.id: 10}
    assert bench.step() == {first.id: 4, second.id: 6}


def test_no_more_run_than_are_wanted() -> None:
    bench = Bench(num_requests=2)
    for seed in range(3):
        bench.add(prompt(seed, 3), answer=2)
    assert bench.step().keys() == {0, 1}
    bench.step()
    assert bench.step().keys() == {2}


def test_a_known_beginning_is_not_computed_again() -> None:
    bench = Bench()
    text = prompt(1, 14)
    bench.add(text, answer=1)
    bench.step()
    again = bench.add([*text[:9], 7, 7, 7])
    # 9 tokens are the same, two whole blocks of them.
    assert bench.step() == {again.id: 12 - 8}
    assert again.num_found == 8


def test_at_least_the_last_token_is_computed() -> None:
    bench = Bench()
    text = prompt(1, 12)
    bench.add(text, answer=1)
    bench.step()
    again = bench.add(text)
    assert bench.step() == {again.id: 4}


def test_what_an_older_one_is_computing_is_waited_for() -> None:
    bench = Bench(prompt_tokens=100)
    text = prompt(1, 30)
    first, twin, other = bench.add(text), bench.add(text), bench.add(prompt(2, 5))
    assert bench.step() == {first.id: 30, other.id: 5}
    assert bench.step() == {first.id: 1, other.id: 1, twin.id: 30 - 28}


def test_short_prompts_do_not_wait_for_each_other() -> None:
    bench = Bench()
    for _ in range(3):
        bench.add([1, 2])
    assert bench.step() == {0: 2, 1: 2, 2: 2}


def test_the_youngest_gives_way_and_comes_back() -> None:
    bench = Bench(num_blocks=5, prompt_tokens=100)
    old, young = bench.add(prompt(1, 7), answer=8), bench.add(prompt(2, 7), answer=8)
    for _ in range(60):
        bench.step()
    assert bench.finished == [old.id, young.id]
    assert bench.scheduler.num_preemptions > 0
    assert bench.pool.num_used == 0


REQUESTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=8
)


@given(
    requests=REQUESTS,
    num_blocks=st.integers(11, 40),
    prompt_tokens=st.integers(1, 40),
    num_requests=st.integers(1, 5),
    every=st.integers(0, 3),
    cancelled=st.sets(st.integers(0, 7)),
)
def test_everybody_is_served(
    requests: list[tuple[int, int, int]],
    num_blocks: int,
    prompt_tokens: int,
    num_requests: int,
    every: int,
    cancelled: set[int],
) -> None:
    bench = Bench(num_blocks=num_blocks, prompt_tokens=prompt_tokens, num_requests=num_requests)
    sequences = []
    for seed, length, answer in requests:  # the same seed: the same beginning
        sequences.append(bench.add(prompt(seed, 30)[:length], answer=answer))
        for _ in range(every):
            bench.step()
    for index in cancelled:
        if index < len(sequences) and sequences[index] in bench.left:
            bench.scheduler.remove(sequences[index])
            del bench.left[sequences[index]]
            bench.finished.append(sequences[index].id)
            check_scheduler(bench.scheduler)
    for _ in range(2000):
        if not bench.left:
            break
        assert bench.step(), "a step that computes nothing while somebody waits"
    assert not bench.left
    assert bench.pool.num_used == 0


@pytest.mark.parametrize("num_blocks", [12, 20])
def test_with_too_little_room_for_all_the_first_come_first(num_blocks: int) -> None:
    bench = Bench(num_blocks=num_blocks, prompt_tokens=64, num_requests=8)
    for seed in range(6):
        bench.add(prompt(seed, 24), answer=16)
    for _ in range(400):
        if bench.left:
            bench.step()
    assert bench.finished == sorted(bench.finished)
    assert len(bench.finished) == 6


def writing(bench: Bench, count: int, length: int = 3) -> list[TokenSequence]:
    """Requests that have read their prompts; each has a token that is not computed yet."""
    some = [bench.add([100 * n + place for place in range(length)], 100) for n in range(count)]
    bench.step()
    assert all(sequence.pending == 1 for sequence in some)
    return some


def test_a_step_is_planned_before_the_tokens_of_the_last_one_are_known() -> None:
    bench = Bench()
    one, two = writing(bench, 2, length=SIZE - 1)
    under_way = bench.scheduler.plan()
    assert len(one.blocks) == 1
    assert bench.scheduler.plan_ahead(under_way, [one, two]) == {one: 1, two: 1}
    assert len(one.blocks) == len(two.blocks) == 2  # their next tokens stand behind the first
    # Nothing counts as computed that is not.
    assert (one.computed, one.contents) == (SIZE - 1, [])
    bench.scheduler.commit(under_way)
    assert len(one.contents) == 1


def test_those_that_end_for_certain_get_no_further_token() -> None:
    bench = Bench()
    one, two = writing(bench, 2)
    assert bench.scheduler.plan_ahead(bench.scheduler.plan(), [two]) == {two: 1}
    assert len(one.blocks) == 1


def test_nothing_is_planned_ahead_of_a_request_that_can_start() -> None:
    bench = Bench(num_requests=3)
    some = writing(bench, 2)
    under_way = bench.scheduler.plan()
    bench.add([7, 8, 9])
    assert bench.scheduler.plan_ahead(under_way, some) is None
    bench.step()
    bench.add([7, 8, 9])  # there is no place for it
    assert bench.scheduler.plan_ahead(bench.scheduler.plan(), list(bench.left)[:3]) is not None


def test_a_request_that_cannot_start_for_want_of_blocks_does_not_hinder_it() -> None:
    bench = Bench(num_blocks=4)
    some = writing(bench, 2)
    bench.add(list(range(4 * SIZE - 1)))
    assert bench.scheduler.plan_ahead(bench.scheduler.plan(), some) == dict.fromkeys(some, 1)
    assert bench.scheduler.num_waiting == 1


def test_blocks_that_a_request_would_find_do_not_count_twice() -> None:
    """What is kept of its beginning is there, but it is not room for its rest, too."""
    bench = Bench(num_blocks=5)
    text = list(range(50, 50 + 4 * SIZE))
    bench.add(text[: 2 * SIZE + 1], answer=1)
    while bench.left:
        bench.step()
    some = writing(bench, 1, length=1)
    taken = bench.pool.take(None)
    assert taken is not None
    assert bench.pool.num_available == 3  # the two that are kept, and one more
    bench.add(text)
    under_way = bench.scheduler.plan()
    assert bench.scheduler.num_waiting == 1
    assert bench.scheduler.plan_ahead(under_way, some) == {some[0]: 1}
    bench.pool.release([taken])
    assert bench.scheduler.plan_ahead(under_way, some) is None  # now it can start


def test_ahead_nobody_gives_blocks_back() -> None:
    bench = Bench(num_blocks=3)
    some = writing(bench, 2, length=SIZE - 1)
    under_way = bench.scheduler.plan()
    assert bench.scheduler.plan_ahead(under_way, some) is None  # two more are wanted, one is left
    assert [len(sequence.blocks) for sequence in some] == [1, 1]
    assert bench.scheduler.num_preemptions == 0


def test_nothing_is_planned_ahead_while_another_reads_its_prompt() -> None:
    bench = Bench(prompt_tokens=4)
    some = writing(bench, 1)
    bench.add(list(range(30)))
    under_way = bench.scheduler.plan()
    bench.scheduler.commit(under_way)
    assert bench.scheduler.plan_ahead(some, some) is None
