"""The engine: a request's answer depends on nothing but the request."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.engine.engine import Engine
from danlu.engine.request import Request, RequestId, SamplingSettings
from danlu.errors import DataError, UsageError
from danlu.model.attention import PackedAttention
from danlu.model.qwen3 import plain_linear
from tests.helpers.tiny_engine import (
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
from tests.helpers.tiny_model import tiny_model

PROMPTS = [random_prompt(seed) for seed in range(8)]
ANSWERS = [tokens_of(alone(Request(prompt=prompt, sampling=GREEDY))) for prompt in PROMPTS]


def test_the_answers_compared_here_tell_contexts_apart() -> None:
    assert len({tuple(answer) for answer in ANSWERS}) == len(ANSWERS)
    assert sum(len(set(answer)) for answer in ANSWERS) > 3 * len(ANSWERS)


def test_incremental_decoding_equals_the_full_pass() -> None:
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        ids = torch.tensor([*prompt, *answer])
        attend = PackedAttention(model().config, torch.arange(len(ids)), [len(ids)])
        logits = plain_linear(model().head, "lm_head", model()(ids, attend, plain_linear))
        best = logits.argmax(dim=-1).tolist()
        assert best[len(prompt) - 1 : -1] == answer


ACTIONS = st.lists(
    st.one_of(
        st.integers(0, len(PROMPTS) - 1),
        st.just("step"),
        st.tuples(st.just("abort"), st.integers()),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(actions=ACTIONS, prompt_tokens=st.integers(1, 50), num_requests=st.integers(1, 4))
def test_any_interleaving_gives_each_request_its_own_answer(
    actions: list[object], prompt_tokens: int, num_requests: int
) -> None:
    subject = engine(prompt_tokens_per_step=prompt_tokens, num_requests=num_requests)
    prompts: dict[RequestId, int] = {}
    tokens: dict[RequestId, list[int]] = {}
    reasons: dict[RequestId, str] = {}

    def step() -> None:
        for output in subject.step():
            assert output.request_id not in reasons
            tokens[output.request_id] += output.tokens
            if output.finish_reason:
                reasons[output.request_id] = output.finish_reason

    for action in actions:
        if isinstance(action, int):
            request_id = subject.add(Request(prompt=PROMPTS[action], sampling=GREEDY))
            prompts[request_id], tokens[request_id] = action, []
        elif action == "step":
            step()
        elif prompts:
            subject.abort(RequestId(action[1] % len(prompts)))
    while subject.num_unfinished:
        step()
    step()
    assert set(reasons) == set(prompts)
    for request_id, index in prompts.items():
        expected = ANSWERS[index]
        if reasons[request_id] == "abort":
            expected = expected[: len(tokens[request_id])]
        assert tokens[request_id] == expected


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
        engine().add(Request(prompt=prompt, sampling=replace(GREEDY, max_tokens=4)))
    assert str(context) in problem.value.why
    assert str(context - 3) in problem.value.why
    assert "3" in problem.value.fix
    with pytest.raises(UsageError):
        engine().add(Request(prompt=random_prompt(0, context)))
    with pytest.raises(UsageError):
        engine().add(Request(prompt=()))
    with pytest.raises(DataError):
        engine().add(Request(prompt=(model().config.vocab_size,)))


def test_abort_frees_the_request_and_reports_it_once() -> None:
    subject = engine()
    kept = subject.add(Request(prompt=PROMPTS[0], sampling=GREEDY))
    dropped = subject.add(Request(prompt=PROMPTS[1], sampling=GREEDY))
    subject.step()
    subject.abort(dropped)
    subject.abort(dropped)
    subject.abort(RequestId(99))
    assert subject.num_unfinished == 1
    outputs = subject.step()
    reasons = [o.finish_reason for o in outputs if o.request_id == dropped]
    assert reasons == ["abort"]
    while subject.num_unfinished:
        outputs += subject.step()
    assert dropped not in [output.request_id for output in outputs[2:]]
    assert tokens_of([o for o in outputs if o.request_id == kept]) == ANSWERS[0][1:]


def test_streams_in_one_engine_do_not_lose_each_others_outputs() -> None:
    subject = engine()
    stepped = subject.add(Request(prompt=PROMPTS[2], sampling=GREEDY))
    first = subject.stream(Request(prompt=PROMPTS[0], sampling=GREEDY))
    second = subject.stream(Request(prompt=PROMPTS[1], sampling=GREEDY))
    start = [next(second), next(first)]
    assert tokens_of([start[1], *first]) == ANSWERS[0]
    assert tokens_of([start[0], *second]) == ANSWERS[1]
    rest = subject.step()
    assert {output.request_id for output in rest} == {stepped}
    assert tokens_of(rest) == ANSWERS[2]
    assert subject.num_unfinished == 0


def test_closing_a_stream_aborts_its_request() -> None:
    subject = engine()
    stream = subject.stream(Request(prompt=PROMPTS[0], sampling=GREEDY))
    next(stream)
    stream.close()
    assert subject.num_unfinished == 0
    assert subject.step() == []


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
    with pytest.raises(DataError):
        list(engine().stream(requests[1]))


def test_bf16_runs() -> None:
    subject = Engine(varied_model().to(torch.bfloat16), tokenizer())
    [outputs] = run_all(subject, [Request(prompt=PROMPTS[0], sampling=GREEDY)])
    assert len(tokens_of(outputs)) == GREEDY.max_tokens
