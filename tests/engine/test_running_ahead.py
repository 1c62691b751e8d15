"""Steps that are started before the host knows the last one's tokens: the same answers as ever."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request, RequestId, SamplingSettings, Thinking
from danlu.engine.sampling.prompt_lookup import PromptLookup
from danlu.errors import DataError
from danlu.ops.cache.paged_store import CACHE
from danlu.ops.sampling.draw import DRAW
from tests.helpers.models.deferring import DeferringCard, deferring_card, deferring_engine
from tests.helpers.models.invariants import check_engine
from tests.helpers.models.tiny_engine import (
    GREEDY,
    engine,
    model,
    random_adapter,
    random_prompt,
    run_all,
    text_of,
    tokens_of,
)
from tests.helpers.models.variants import taken

# Made before there is such a card.
USUAL = engine()


def alone(request: Request) -> list[Output]:
    """What a request gives by itself, on the CPU as it usually is, where nothing runs ahead."""
    with taken(CACHE, "by_head"), taken(DRAW, "reference"):
        return run_all(USUAL, [request])[0]


DRAWN = SamplingSettings(temperature=0.9, top_k=20, top_p=0.95, seed=3, max_tokens=14)
ADAPTERS = [None, random_adapter(1), random_adapter(2)]
# What each step can choose on the device, what it must not, and what becomes so on the way.
SAMPLINGS = [
    GREEDY,
    DRAWN,
    replace(DRAWN, top_k=64, min_p=0.05, seed=4, max_tokens=30),
    replace(GREEDY, max_tokens=1),
    replace(GREEDY, max_tokens=33),
    replace(DRAWN, min_tokens=5),
    replace(DRAWN, repetition_penalty=1.3),
    replace(GREEDY, logprobs=1, max_tokens=5),
    replace(DRAWN, top_k=0),
]
LONG = random_prompt(50, 40)
PROMPTS = [*map(random_prompt, range(4)), LONG, LONG[:33], (*LONG[:20], *random_prompt(1)[:10])]
CLOSING = Thinking(start_id=1, end_id=2, closing=(3, 2, 3), is_open=True, budget=4)
PLAIN = [
    Request(
        prompt=PROMPTS[n % len(PROMPTS)],
        sampling=SAMPLINGS[n % len(SAMPLINGS)],
        adapter=ADAPTERS[n % 4 % 3],
        thinking=CLOSING if n % 5 == 4 else None,
    )
    for n in range(3 * len(SAMPLINGS))
]


@cache
def ends() -> tuple[Request, ...]:
    """The same, where some end early: by a token that they would write."""
    found = []
    for n, request in enumerate(PLAIN):
        tokens = tokens_of(alone(request))
        if n % 2 and len(tokens) > 3:
            request = replace(request, end_token_ids=frozenset({tokens[len(tokens) // 2]}))
        found.append(request)
    return tuple(found)


@cache
def expected(index: int) -> list[int]:
    return tokens_of(alone(ends()[index]))


ACTIONS = st.lists(
    st.one_of(
        st.integers(0, len(PLAIN) - 1),
        st.just("step"),
        st.just("steps"),
        st.tuples(st.just("abort"), st.integers(0, 20)),
    ),
    max_size=25,
)
ANY_PROGRAM = given(
    actions=ACTIONS,
    limits=st.fixed_dictionaries(
        {
            "prompt_tokens_per_step": st.integers(5, 60),
            "num_requests": st.integers(1, 5),
            "cache_tokens": st.sampled_from([96, 160, 1000]),
        }
    ),
)


@settings(max_examples=60)
@ANY_PROGRAM
def test_any_program_gives_each_request_its_own_answer(
    actions: list[object], limits: dict[str, int]
) -> None:
    with deferring_card() as card:
        run_program(actions, deferring_engine(**limits), card)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=3000)
@ANY_PROGRAM
def test_three_thousand_programs(actions: list[object], limits: dict[str, int]) -> None:
    with deferring_card() as card:
        run_program(actions, deferring_engine(**limits), card)


def run_program(actions: list[object], subject: Engine, card: DeferringCard) -> None:
    """Do as the actions say, then finish; check the books after every step and every answer."""
    asked: dict[RequestId, int] = {}
    tokens: dict[RequestId, list[int]] = {}
    reasons: dict[RequestId, str] = {}

    def deliver(output: Output) -> None:
        assert output.request_id not in reasons
        tokens[output.request_id] += output.tokens
        if output.finish_reason:
            reasons[output.request_id] = output.finish_reason

    def step(count: int = 1) -> None:
        for _ in range(count):
            subject.step()
            check_engine(subject)

    for action in actions:
        if isinstance(action, int):
            request_id = subject.add(ends()[action], deliver)
            asked[request_id], tokens[request_id] = action, []
        elif action in ("step", "steps"):
            step(1 if action == "step" else 7)
        elif asked:
            subject.abort(RequestId(action[1] % len(asked)))  # type: ignore[index]
            check_engine(subject)
    for _ in range(2000):
        if not subject.num_unfinished:
            break
        step()
    step()
    assert set(reasons) == set(asked)
    assert subject.figures().cache_usage == 0
    for request_id, index in asked.items():
        answer = expected(index)
        if reasons[request_id] == "abort":
            answer = answer[: len(tokens[request_id])]
        assert tokens[request_id] == answer


@pytest.fixture
def card() -> object:
    with deferring_card() as made:
        yield made


def add(subject: Engine, request: Request) -> tuple[RequestId, list[Output]]:
    outputs: list[Output] = []
    return subject.add(request, outputs.append), outputs


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_a_step_is_started_before_the_tokens_of_the_last_one_are_read(
    sampling: SamplingSettings, card: DeferringCard
) -> None:
    subject = deferring_engine()
    _id, outputs = add(subject, Request(prompt=(5, 6, 7), sampling=replace(sampling, max_tokens=6)))
    subject.step()  # reads the prompt
    card.log.clear()
    while subject.num_unfinished:
        subject.step()
    # As many as there are tokens: the last one's successor is not begun.
    assert card.log == ["start 1", "start 1", "read", "start 1", "read", "start 1", "read",
                        "start 1", "read", "read"]  # fmt: skip
    assert [len(output.tokens) for output in outputs] == [1] * 6


def test_what_is_chosen_behind_an_end_is_thrown_away(
    card: DeferringCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PromptLookup, "tokens_behind", lambda *_of: [])
    prompt = random_prompt(2)
    answer = tokens_of(alone(Request(prompt=prompt, sampling=GREEDY)))
    place = next(n for n in range(4, 12) if answer.index(answer[n]) == n)
    ending = Request(prompt=prompt, sampling=GREEDY, end_token_ids=frozenset({answer[place]}))
    other = Request(prompt=random_prompt(3), sampling=GREEDY)
    subject = deferring_engine()
    run_all(subject, [Request(prompt=prompt, sampling=replace(GREEDY, max_tokens=3))])
    card.log.clear()
    found = run_all(subject, [ending, other])
    assert tokens_of(found[0]) == answer[: place + 1]
    assert found[0][-1].finish_reason == "stop"
    assert tokens_of(found[1]) == tokens_of(alone(other))
    assert subject.figures().cache_usage == 0
    # Its row was in the step that had been started; the other's went on without a pause.
    starts = "".join(line[0] for line in card.log)
    assert "rr" not in starts[:-1]
    assert "start 1" in card.log


def test_a_stop_text_ends_as_without_running_ahead(card: DeferringCard) -> None:
    request = Request(prompt=random_prompt(1), sampling=replace(GREEDY, max_tokens=30))
    text = text_of(alone(request))
    asked = replace(request, sampling=replace(request.sampling, stop=(text[8:11],)))
    (found,) = run_all(deferring_engine(), [asked])
    assert [output.text for output in found] == [output.text for output in alone(asked)]


def test_an_abort_between_two_steps_frees_what_the_next_one_gets(card: DeferringCard) -> None:
    """The step under way still writes for the request that is gone; then others get its blocks."""
    subject = deferring_engine(cache_tokens=64, num_requests=2)
    long = Request(prompt=random_prompt(1, 30), sampling=replace(GREEDY, max_tokens=30))
    for place in range(3, 12):
        request_id, _outputs = add(subject, long)
        for _ in range(place):
            subject.step()
        subject.abort(request_id)
        check_engine(subject)
        other = Request(
            prompt=random_prompt(60 + place, 33), sampling=replace(DRAWN, max_tokens=25)
        )
        (found,) = run_all(subject, [other])
        assert tokens_of(found) == tokens_of(alone(other))
        check_engine(subject)


def test_only_tokens_that_are_known_are_found_again(card: DeferringCard) -> None:
    """A block that the thrown-away token would have filled is not taken for another's beginning."""
    subject = deferring_engine(prompt_tokens_per_step=1000)
    prompt = random_prompt(9, 10)
    answer = tokens_of(alone(Request(prompt=prompt, sampling=replace(GREEDY, max_tokens=40))))
    for length in range(3, 40):
        run_all(subject, [Request(prompt=prompt, sampling=replace(GREEDY, max_tokens=length))])
        whole = (*prompt, *answer[:length])
        (again,) = run_all(subject, [Request(prompt=(*whole, 1), sampling=GREEDY)])
        # All but the last token of an answer is in the cache.
        assert again[0].cached_tokens == (len(whole) - 1) // 16 * 16
        assert tokens_of(again) == tokens_of(alone(Request(prompt=(*whole, 1), sampling=GREEDY)))


def test_a_request_that_joins_is_read_at_once_and_then_it_runs_ahead_again(
    card: DeferringCard,
) -> None:
    subject = deferring_engine()
    first = Request(prompt=(5, 6, 7), sampling=replace(GREEDY, max_tokens=30))
    second = Request(prompt=random_prompt(4), sampling=replace(DRAWN, max_tokens=20))
    _id, one = add(subject, first)
    for _ in range(6):
        subject.step()
    _id, two = add(subject, second)
    subject.step()
    subject.step()
    assert tokens_of(two)
    card.log.clear()
    while subject.num_unfinished:
        subject.step()
    assert card.log[:6] == ["start 2", "start 2", "read", "start 2", "read", "start 2"]
    assert tokens_of(one) == tokens_of(alone(first))
    assert tokens_of(two) == tokens_of(alone(second))


def test_a_size_that_was_never_recorded_is_not_recorded_ahead(card: DeferringCard) -> None:
    """Recording computes a step twice: its tokens must be there for the second time, too."""
    requests = [
        Request(prompt=random_prompt(n), sampling=replace(GREEDY, max_tokens=4 + 5 * n))
        for n in range(5)
    ]
    found = run_all(deferring_engine(), requests)
    assert [tokens_of(one) for one in found] == [tokens_of(alone(one)) for one in requests]
    assert {line for line in card.log if line != "read"} == {f"start {n}" for n in (1, 2, 4, 8)}


def test_a_step_that_fails_is_computed_again_request_by_request(card: DeferringCard) -> None:
    requests = [Request(prompt=random_prompt(n), sampling=DRAWN) for n in range(3)]
    subject = deferring_engine()
    found = [add(subject, request)[1] for request in requests]
    for _ in range(5):
        subject.step()
    card.fails = RuntimeError("the card has lost it")
    subject.step()
    check_engine(subject)
    while subject.num_unfinished:
        subject.step()
    assert [tokens_of(one) for one in found] == [tokens_of(alone(one)) for one in requests]


def test_a_row_that_is_not_finite_fails_alone(card: DeferringCard) -> None:
    broken = random_adapter(7)
    for _layer, _name, _a, b in broken.tensors():
        b.fill_(torch.nan)
    asked = [
        Request(prompt=random_prompt(1), sampling=DRAWN),
        Request(prompt=random_prompt(2), sampling=GREEDY),
    ]
    subject = deferring_engine()
    found = [add(subject, request)[1] for request in asked]
    for _ in range(4):
        subject.step()
    _id, wrong = add(subject, replace(asked[0], adapter=broken))
    while subject.num_unfinished:
        subject.step()
    assert isinstance(wrong[-1].error, DataError)
    assert [tokens_of(one) for one in found] == [tokens_of(alone(one)) for one in asked]


def test_an_adapter_that_leaves_waits_for_the_step_under_way(card: DeferringCard) -> None:
    adapter = random_adapter(3)
    subject = deferring_engine()
    request_id, _outputs = add(subject, Request(prompt=(5, 6), sampling=GREEDY, adapter=adapter))
    for _ in range(4):
        subject.step()
    subject.abort(request_id)
    card.log.clear()
    subject.forget(adapter)
    assert card.log == ["read"]


def test_an_adapter_leaves_though_the_step_under_way_fails(card: DeferringCard) -> None:
    adapter = random_adapter(3)
    asked = Request(prompt=(5, 6), sampling=GREEDY)
    subject = deferring_engine()
    _id, outputs = add(subject, asked)
    request_id, _rest = add(subject, replace(asked, adapter=adapter))
    for _ in range(4):
        subject.step()
    subject.abort(request_id)
    card.fails = RuntimeError("the card has lost it")
    subject.forget(adapter)
    assert adapter not in subject._roots
    while subject.num_unfinished:  # what was lost is computed again
        subject.step()
        check_engine(subject)
    assert tokens_of(outputs) == tokens_of(alone(asked))


def test_on_the_cpu_nothing_runs_ahead() -> None:
    subject = engine()
    _id, outputs = add(subject, Request(prompt=(5, 6, 7), sampling=GREEDY))
    for _ in range(4):
        subject.step()
        assert subject._flight is None
    assert len(tokens_of(outputs)) == 4
    assert model().embed_tokens.device.type == "cpu"
