"""Tokens that are tried because they followed before: fewer steps, and the same answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request, SamplingSettings
from danlu.engine.sampling.prompt_lookup import MOST_TRIED, PromptLookup
from tests.helpers.models.deferring import deferring_card, deferring_engine
from tests.helpers.models.invariants import check_engine
from tests.helpers.models.tiny_engine import (
    GREEDY,
    engine,
    random_adapter,
    random_prompt,
    text_of,
    tokens_of,
)

LONG = replace(GREEDY, max_tokens=60)
DRAWN = SamplingSettings(temperature=0.3, top_k=20, top_p=0.9, seed=5, max_tokens=40)
REPEATING = (*random_prompt(1, 9), *random_prompt(1, 9), *random_prompt(1, 9))


def answered(one: Engine, request: Request) -> tuple[list[Output], int]:
    """The outputs of a request that runs alone, and the steps that it took."""
    outputs: list[Output] = []
    one.add(request, outputs.append)
    steps = 0
    while one.num_unfinished:
        one.step()
        check_engine(one)
        steps += 1
    return outputs, steps


def without(request: Request, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Output], int]:
    with monkeypatch.context() as patch:
        patch.setattr(PromptLookup, "tokens_behind", lambda *_of: [])
        return answered(engine(), request)


REQUESTS = [
    Request(prompt=REPEATING, sampling=LONG),
    Request(prompt=REPEATING, sampling=LONG, adapter=random_adapter(1)),
    Request(prompt=REPEATING, sampling=replace(LONG, max_tokens=2)),
    Request(prompt=REPEATING, sampling=DRAWN),
    Request(prompt=REPEATING, sampling=replace(DRAWN, repetition_penalty=1.2)),
    Request(prompt=REPEATING, sampling=replace(LONG, logprobs=2)),
    Request(prompt=REPEATING, sampling=replace(LONG, min_tokens=20)),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_the_answer_is_the_same_in_no_more_steps(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, most = without(request_, monkeypatch)
    found, steps = answered(engine(), request_)
    assert tokens_of(found) == tokens_of(expected)
    assert text_of(found) == text_of(expected)
    assert found[-1].finish_reason == expected[-1].finish_reason
    assert steps <= most
    for one, other in zip(found, expected, strict=True):
        assert [entry.token for entry in one.logprobs] == [entry.token for entry in other.logprobs]
        values, others = ([entry.logprob for entry in o.logprobs] for o in (one, other))
        assert values == pytest.approx(others, abs=1e-4)


def test_an_answer_that_repeats_itself_takes_a_quarter_of_the_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = Request(prompt=REPEATING, sampling=replace(LONG, logit_bias=((7, 100.0),)))
    expected, most = without(request, monkeypatch)
    found, steps = answered(engine(), request)
    assert tokens_of(found) == tokens_of(expected) == [7] * 60
    assert (most, steps) == (60, 18)


def test_what_is_tried_and_taken_is_counted() -> None:
    one = engine()
    answered(one, Request(prompt=REPEATING, sampling=replace(LONG, logit_bias=((7, 100.0),))))
    figures = one.figures()
    # The prompt's own repetition is tried once, in vain; the answer's every time with success.
    assert 40 < figures.num_taken <= figures.num_tried <= figures.num_taken + 2 * MOST_TRIED


def test_an_end_among_the_tried_tokens_ends_the_answer_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = tokens_of(without(REQUESTS[0], monkeypatch)[0])
    for place in range(30, 36):
        request = replace(REQUESTS[0], end_token_ids=frozenset({tokens[place]}))
        expected = tokens[: tokens.index(tokens[place]) + 1]
        assert tokens_of(answered(engine(), request)[0]) == expected


def test_where_blocks_are_few_nothing_is_tried() -> None:
    one = engine(cache_tokens=len(REPEATING) + 60, prompt_tokens_per_step=7)
    found, _steps = answered(one, REQUESTS[0])
    assert len(tokens_of(found)) == 60


def test_several_requests_try_nothing_and_a_last_one_begins_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = [tokens_of(without(one, monkeypatch)[0]) for one in (REQUESTS[0], REQUESTS[2])]
    one, outputs = engine(), ([], [])  # type: ignore[var-annotated]
    for request, into in zip((REQUESTS[0], REQUESTS[2]), outputs, strict=True):
        one.add(request, into.append)
    while one.num_unfinished:
        one.step()
        check_engine(one)
    assert [tokens_of(each) for each in outputs] == expected


@pytest.mark.parametrize("request_", REQUESTS[:4], ids=range(4))
def test_on_a_card_that_runs_ahead(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tokens_of(without(request_, monkeypatch)[0])
    with deferring_card() as card:
        one, outputs = deferring_engine(), list[Output]()
        one.add(request_, outputs.append)
        while one.num_unfinished:
            one.step()
        card.work_until()
    assert tokens_of(outputs) == expected


def test_what_followed_last_is_what_is_tried() -> None:
    lookup = PromptLookup()
    assert lookup.tokens_behind([1, 2, 3]) == []
    assert lookup.tokens_behind([1, 2, 3, 4, 1, 2, 3]) == [4, 1, 2]
    tokens = [1, 2, 3, 4, 1, 2, 3, 5, 6, 1, 2, 3]
    assert lookup.tokens_behind(tokens) == [5, 6, 1]
    assert lookup.tokens_behind(tokens, 1) == [5]
    assert lookup.tokens_behind(tokens, 0) == []
    assert PromptLookup().tokens_behind([7] * 5) == [7] * MOST_TRIED
    assert PromptLookup().tokens_behind([7, 8] * 3) == [7, 8, 7]


def test_trials_in_vain_are_given_up_for_a_while() -> None:
    lookup, tokens = PromptLookup(), [1, 2, 3] * 5
    trials = 0
    while lookup.tokens_behind(tokens):
        lookup.tried(0, len(tokens))
        trials += 1
    assert trials <= 3
    assert not lookup.tokens_behind(tokens * 4)
    assert lookup.tokens_behind(tokens * 6)


def test_trials_that_tell_what_follows_go_on() -> None:
    lookup, tokens = PromptLookup(), [1, 2, 3] * 5
    for taken in (3, 3, 0, 2, 1, 3, 0, 1) * 10:
        assert lookup.tokens_behind(tokens)
        lookup.tried(taken, len(tokens))
