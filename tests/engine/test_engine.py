"""The engine: a request's answer depends on nothing but the request."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request, RequestId, SamplingSettings
from danlu.engine.sampling import sampler
from danlu.engine.sampling.prompt_lookup import PromptLookup
from danlu.engine.sequence import RequestSequence
from danlu.errors import DataError, UsageError
from danlu.lora.adapter import Adapter
from danlu.model.qwen3 import plain_linear
from tests.helpers.models.invariants import check_engine
from tests.helpers.models.packed import packed_attention
from tests.helpers.models.tiny_engine import (
    GREEDY,
    alone,
    engine,
    model,
    random_adapter,
    random_prompt,
    run_all,
    text_of,
    tokenizer,
    tokens_of,
    varied_model,
)
from tests.helpers.models.tiny_model import tiny_model

PROMPTS = [random_prompt(seed) for seed in range(8)]
ANSWERS = [tokens_of(alone(Request(prompt=prompt, sampling=GREEDY))) for prompt in PROMPTS]


def test_the_answers_compared_here_tell_contexts_apart() -> None:
    assert len({tuple(answer) for answer in ANSWERS}) == len(ANSWERS)
    assert sum(len(set(answer)) for answer in ANSWERS) > 3 * len(ANSWERS)


def test_incremental_decoding_equals_the_full_pass() -> None:
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        ids = torch.tensor([*prompt, *answer])
        attend = packed_attention(model().config, [len(ids)])
        logits = plain_linear(model().head, "lm_head", model()(ids, attend, plain_linear))
        best = logits.argmax(dim=-1).tolist()
        assert best[len(prompt) - 1 : -1] == answer


# Beginnings in common, and adapters: whose blocks are found must not matter.
ADAPTERS = [None, random_adapter(1), random_adapter(2)]
LONG = random_prompt(50, 40)
SHARING = [*PROMPTS[:3], LONG, LONG[:33], (*LONG[:20], *PROMPTS[0][:10]), LONG[:17]]
REQUESTS = [
    Request(prompt=prompt, sampling=replace(GREEDY, max_tokens=max_tokens), adapter=adapter)
    for prompt, max_tokens in zip(SHARING, (12, 1, 7, 24, 12, 12, 5), strict=True)
    for adapter in ADAPTERS
]


def add(subject: Engine, request: Request) -> tuple[RequestId, list[Output]]:
    """Queue a request; its id, and the list of its outputs that grows with every step."""
    outputs: list[Output] = []
    return subject.add(request, outputs.append), outputs


@cache
def expected(index: int) -> list[int]:
    return tokens_of(alone(REQUESTS[index]))


ACTIONS = st.lists(
    st.one_of(
        st.integers(0, len(REQUESTS) - 1),
        st.just("step"),
        st.tuples(st.just("abort"), st.integers(0, 20)),
    ),
    max_size=25,
)


ANY_PROGRAM = given(
    actions=ACTIONS,
    limits=st.fixed_dictionaries(
        {
            "prompt_tokens_per_step": st.integers(1, 50),
            "num_requests": st.integers(1, 5),
            "cache_tokens": st.sampled_from([64, 96, 160, 1000]),
        }
    ),
)


@settings(max_examples=500)
@ANY_PROGRAM
def test_any_program_gives_each_request_its_own_answer(
    actions: list[object], limits: dict[str, int]
) -> None:
    run_program(actions, engine(**limits))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=5000)
@ANY_PROGRAM
def test_five_thousand_programs(actions: list[object], limits: dict[str, int]) -> None:
    run_program(actions, engine(**limits))


def run_program(actions: list[object], subject: Engine) -> None:
    """Do as the actions say, then finish; check the books after every step and every answer."""
    asked: dict[RequestId, int] = {}
    tokens: dict[RequestId, list[int]] = {}
    reasons: dict[RequestId, str] = {}

    def deliver(output: Output) -> None:
        assert output.request_id not in reasons
        tokens[output.request_id] += output.tokens
        if output.finish_reason:
            reasons[output.request_id] = output.finish_reason

    def step() -> None:
        subject.step()
        check_engine(subject)

    for action in actions:
        if isinstance(action, int):
            request_id = subject.add(REQUESTS[action], deliver)
            asked[request_id], tokens[request_id] = action, []
        elif action == "step":
            step()
        elif asked:
            subject.abort(RequestId(action[1] % len(asked)))
            check_engine(subject)
    for _ in range(1000):
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


def test_a_later_turn_computes_only_what_is_new() -> None:
    subject = engine(prompt_tokens_per_step=1000)
    run_all(subject, [Request(prompt=LONG, sampling=GREEDY)])
    [outputs] = run_all(subject, [Request(prompt=(*LONG, 1, 2, 3), sampling=GREEDY)])
    assert outputs[0].cached_tokens == 32
    assert sum(output.cached_tokens for output in outputs) == 32
    [outputs] = run_all(subject, [Request(prompt=LONG, sampling=GREEDY, adapter=random_adapter(5))])
    assert outputs[0].cached_tokens == 0


def test_a_prompt_that_takes_several_steps_says_how_far_it_is() -> None:
    subject = engine(prompt_tokens_per_step=16)
    [outputs] = run_all(subject, [Request(prompt=LONG, sampling=GREEDY)])
    told = [output.progress for output in outputs if output.progress is not None]
    assert [(each.num_read, each.num_found) for each in told] == [
        (read, 0) for read in range(16, len(LONG), 16)
    ]
    assert all(not output.tokens for output in outputs[: len(told)])
    longer = (*LONG, *range(1, 30))
    [outputs] = run_all(subject, [Request(prompt=longer, sampling=GREEDY)])
    told = [output.progress for output in outputs if output.progress is not None]
    assert {each.num_found for each in told} == {32}
    assert told[0].num_read == 48


@pytest.mark.parametrize("adapter", [None, random_adapter(5)])
def test_what_was_computed_for_one_is_not_used_for_another(adapter: Adapter | None) -> None:
    subject = engine(prompt_tokens_per_step=1000)

    def found(*owners: str) -> list[int]:
        asked = [
            Request(prompt=LONG, sampling=GREEDY, adapter=adapter, owner=owner) for owner in owners
        ]
        return [outputs[0].cached_tokens for outputs in run_all(subject, asked)]

    assert found("one") == [0]
    assert found("two", "one") == [0, 32]
    assert found("", "two", "", "three") == [0, 32, 32, 0]
    if adapter is not None:
        subject.forget(adapter)
        assert found("one") == [0]


def test_the_same_prompt_many_times_at_once_is_computed_once() -> None:
    requests = [
        Request(prompt=LONG, sampling=SamplingSettings(seed=seed, max_tokens=3))
        for seed in range(4)
    ]
    found = [outputs[0].cached_tokens for outputs in run_all(engine(), requests)]
    assert found == [0, 32, 32, 32]


def test_more_than_fits_at_once_is_done_in_turns_and_right() -> None:
    subject = engine(cache_tokens=80)
    requests = [
        Request(prompt=prompt, sampling=replace(GREEDY, max_tokens=30)) for prompt in PROMPTS
    ]
    results = [tokens_of(outputs) for outputs in run_all(subject, requests)]
    assert results == [tokens_of(alone(request)) for request in requests]
    assert subject.figures().num_preemptions > 0


def test_what_a_failing_request_computed_is_never_found() -> None:
    subject = engine()
    weight = model().head.norm
    kept = weight.clone()
    try:
        weight.fill_(float("nan"))
        [outputs] = run_all(subject, [Request(prompt=LONG, sampling=GREEDY)])
        assert outputs[-1].finish_reason == "error"
    finally:
        weight.copy_(kept)
    [outputs] = run_all(subject, [Request(prompt=LONG, sampling=GREEDY)])
    assert outputs[0].cached_tokens == 0
    assert tokens_of(outputs) == tokens_of(alone(Request(prompt=LONG, sampling=GREEDY)))


def test_the_same_seed_gives_the_same_answer_alone_and_in_a_batch() -> None:
    sampling = SamplingSettings(
        temperature=1.5, top_k=50, top_p=0.95, repetition_penalty=1.2, seed=7, max_tokens=12
    )
    requests = [Request(prompt=prompt, sampling=sampling) for prompt in PROMPTS]
    together = [tokens_of(outputs) for outputs in run_all(engine(), requests)]
    assert together == [tokens_of(alone(request)) for request in requests]
    other = replace(requests[0], sampling=replace(sampling, seed=8))
    assert tokens_of(alone(other)) != together[0]
    unseeded = replace(requests[0], sampling=replace(sampling, seed=None))
    assert tokens_of(alone(unseeded)) != tokens_of(alone(unseeded))


def test_adapters_mixed_in_one_batch_equal_separate_runs() -> None:
    adapters = [None, random_adapter(1), random_adapter(2)]
    requests = [
        Request(prompt=prompt, sampling=GREEDY, adapter=adapters[index % 3])
        for index, prompt in enumerate([*PROMPTS, *PROMPTS])
    ]
    together = [tokens_of(outputs) for outputs in run_all(engine(), requests)]
    assert together == [tokens_of(alone(request)) for request in requests]
    assert together[0] == ANSWERS[0]
    assert together[1] != ANSWERS[1]


def test_an_end_token_stops_the_answer_and_has_no_text() -> None:
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        end = answer[5]
        request = Request(prompt=prompt, sampling=GREEDY, end_token_ids=frozenset({end}))
        outputs = alone(request)
        upto = answer[: answer.index(end) + 1]
        assert tokens_of(outputs) == upto
        assert outputs[-1].finish_reason == "stop"
        assert text_of(outputs) == tokenizer().decode(upto[:-1])


def test_max_tokens_ends_the_answer_with_all_of_its_text() -> None:
    outputs = alone(Request(prompt=PROMPTS[1], sampling=replace(GREEDY, max_tokens=5)))
    assert tokens_of(outputs) == ANSWERS[1][:5]
    assert outputs[-1].finish_reason == "length"
    assert text_of(outputs) == tokenizer().decode(ANSWERS[1][:5])


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_stop_text_over_token_borders_is_never_given_out(length: int) -> None:
    tested = 0
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        whole = tokenizer().decode(answer)
        for start in range(len(whole) - length):
            stop = whole[start : start + length]
            sampling = replace(GREEDY, stop=("not in there", stop))
            outputs = alone(Request(prompt=prompt, sampling=sampling))
            assert text_of(outputs) == whole[: whole.index(stop)]
            assert outputs[-1].finish_reason == "stop"
            tested += 1
            if start == 3:
                break
    assert tested > 5


def test_default_max_tokens_is_what_the_context_leaves() -> None:
    context = model().config.max_position_embeddings
    prompt = random_prompt(0, context - 3)
    outputs = alone(Request(prompt=prompt, sampling=SamplingSettings(temperature=0.0)))
    assert len(tokens_of(outputs)) == 3
    assert outputs[-1].finish_reason == "length"


def test_requests_that_cannot_fit_are_refused_with_numbers() -> None:
    context = model().config.max_position_embeddings
    prompt = random_prompt(0, context - 3)
    with pytest.raises(UsageError) as problem:
        add(engine(), Request(prompt=prompt, sampling=replace(GREEDY, max_tokens=4)))
    assert str(context) in problem.value.why
    assert str(context - 3) in problem.value.why
    assert "3" in problem.value.fix
    with pytest.raises(UsageError):
        add(engine(), Request(prompt=random_prompt(0, context)))
    with pytest.raises(UsageError):
        add(engine(), Request(prompt=()))
    with pytest.raises(DataError):
        add(engine(), Request(prompt=(model().config.vocab_size,)))


def test_abort_frees_the_request_and_reports_it_once() -> None:
    subject = engine()
    _id, kept = add(subject, Request(prompt=PROMPTS[0], sampling=GREEDY))
    dropped_id, dropped = add(subject, Request(prompt=PROMPTS[1], sampling=GREEDY))
    subject.step()
    subject.abort(dropped_id)
    subject.abort(dropped_id)
    subject.abort(RequestId(99))
    assert subject.num_unfinished == 1
    assert [output.finish_reason for output in dropped] == [None, "abort"]
    while subject.num_unfinished:
        subject.step()
    assert len(dropped) == 2
    assert tokens_of(kept) == ANSWERS[0]


def test_a_failing_request_does_not_take_others_down() -> None:
    broken = random_adapter(1)
    next(iter(broken.additions.values())).a.data.fill_(float("nan"))
    foreign = random_adapter(1, like=tiny_model(hidden_size=32, vocab_size=128)[1])
    requests = [
        Request(prompt=PROMPTS[index], sampling=GREEDY, adapter=adapter)
        for index, adapter in enumerate([None, broken, foreign, None])
    ]
    results = run_all(engine(), requests)
    assert [tokens_of(results[index]) for index in (0, 3)] == [ANSWERS[0], ANSWERS[3]]
    for index, kind in ((1, DataError), (2, RuntimeError)):
        assert [output.finish_reason for output in results[index]] == ["error"]
        assert isinstance(results[index][0].error, kind)


def test_bf16_runs() -> None:
    subject = Engine(varied_model().to(torch.bfloat16), tokenizer())
    [outputs] = run_all(subject, [Request(prompt=PROMPTS[0], sampling=GREEDY)])
    assert len(tokens_of(outputs)) == GREEDY.max_tokens


@pytest.mark.parametrize("broken", range(14))
def test_a_fault_in_any_step_costs_nobody_his_answer(
    broken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = engine(prompt_tokens_per_step=30)
    forward, calls = subject._forward, iter(range(1000))

    def failing(batch: Mapping[RequestSequence, int]) -> torch.Tensor:
        logits = forward(batch)  # what was written to the cache must not matter
        if next(calls) == broken:
            raise RuntimeError("a device that stumbles once")
        return logits

    monkeypatch.setattr(subject, "_forward", failing)
    requests = [Request(prompt=prompt, sampling=GREEDY) for prompt in PROMPTS]
    assert [tokens_of(outputs) for outputs in run_all(subject, requests)] == ANSWERS


@pytest.mark.parametrize("part", ["sampler", "answer"])
def test_a_fault_in_choosing_a_token_stays_with_its_request(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = engine()
    added = [add(subject, Request(prompt=prompt, sampling=GREEDY)) for prompt in PROMPTS[:3]]
    ids, outputs = zip(*added, strict=True)
    victim = subject._sequences[ids[1]]

    def fail(*_words: object) -> None:
        raise RuntimeError("a bug")

    if part == "sampler":
        monkeypatch.setattr(victim.sampler, "record", fail)
    else:
        monkeypatch.setattr(victim.detokenizer, "feed", fail)
    while subject.num_unfinished:
        subject.step()
        check_engine(subject)
    assert [output.finish_reason for output in outputs[1]] == ["error"]
    assert [tokens_of(outputs[index]) for index in (0, 2)] == [ANSWERS[0], ANSWERS[2]]


@pytest.mark.parametrize("part", ["_each", "token_logprobs"])
@pytest.mark.parametrize("broken", range(6))
def test_a_fault_in_choosing_for_all_costs_nobody_his_answer(
    part: str, broken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where logits of all rows need memory that is not there."""
    asked = [
        replace(GREEDY, temperature=0.9, seed=n, logprobs=1, repetition_penalty=1.2)
        for n in range(len(PROMPTS))
    ]
    requests = [
        Request(prompt=prompt, sampling=settings)
        for prompt, settings in zip(PROMPTS, asked, strict=True)
    ]
    wanted = [tokens_of(alone(request)) for request in requests]
    subject, chosen, calls = engine(), getattr(sampler, part), iter(range(1000))

    def failing(*arguments: object) -> object:
        if next(calls) == broken:
            raise RuntimeError("a device that stumbles once")
        return chosen(*arguments)

    monkeypatch.setattr(sampler, part, failing)
    assert [tokens_of(outputs) for outputs in run_all(subject, requests)] == wanted
    check_engine(subject)


def test_a_fault_in_choosing_for_a_request_alone_ends_that_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here where tokens are tried, all of which are right."""

    def right(_lookup: PromptLookup, tokens: list[int], most: int) -> list[int]:
        return ANSWERS[0][len(tokens) - len(PROMPTS[0]) :][:most]

    monkeypatch.setattr(PromptLookup, "tokens_behind", right)
    subject, outputs = engine(), list[Output]()
    subject.add(Request(prompt=PROMPTS[0], sampling=GREEDY), outputs.append)
    for _ in range(2):
        subject.step()
    calls, chosen = iter(range(1000)), sampler._each

    def failing(*arguments: object) -> object:
        if next(calls) == 1:
            raise RuntimeError("a bug")
        return chosen(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sampler, "_each", failing)
    while subject.num_unfinished:
        subject.step()
        check_engine(subject)
    assert outputs[-1].finish_reason == "error"
    assert tokens_of(outputs) == ANSWERS[0][:6]  # the prompt's, four of one step, one of the next


def test_an_adapter_that_is_gone_is_held_by_nobody() -> None:
    subject = engine()
    adapter = random_adapter(1)
    held = weakref.ref(adapter)
    subject.forget(adapter)
    # A request that was on its way when the adapter was given up still has its answer.
    outputs = run_all(subject, [Request(prompt=(5, 6, 7), sampling=GREEDY, adapter=adapter)])
    assert len(tokens_of(outputs[0])) == GREEDY.max_tokens
    del adapter, outputs
    gc.collect()
    assert held() is None
