"""Log probabilities of a prompt's tokens: those of a full pass, however the prompt is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request, TokenLogprobs
from danlu.errors import DataError
from danlu.model.qwen3 import plain_linear
from tests.helpers.models.packed import packed_attention
from tests.helpers.models.tiny_engine import (
    GREEDY,
    engine,
    model,
    random_adapter,
    random_prompt,
    run_all,
    tokenizer,
    tokens_of,
    varied_model,
)

PROMPTS = [random_prompt(seed, length) for seed, length in enumerate((1, 2, 17, 70, 40))]
REQUESTS = [Request(prompt=prompt, sampling=GREEDY, prompt_logprobs=3) for prompt in PROMPTS]


def reference(prompt: Sequence[int]) -> list[tuple[int, float, list[int]]]:
    """Each token but the first, its log probability and the likeliest three, by one full pass."""
    ids = torch.tensor(prompt)
    attend = packed_attention(model().config, [len(ids)])
    logits = plain_linear(model().head, "lm_head", model()(ids, attend, plain_linear))
    rows = logits.float().log_softmax(dim=-1)
    return [
        (token, float(row[token]), row.topk(3).indices.tolist())
        for token, row in zip(prompt[1:], rows[:-1], strict=True)
    ]


def scores_of(outputs: Sequence[Output]) -> list[TokenLogprobs]:
    """The log probabilities of the prompt; all come before the answer."""
    with_scores = [place for place, output in enumerate(outputs) if output.prompt_logprobs]
    answer = [place for place, output in enumerate(outputs) if output.tokens]
    assert max(with_scores, default=-1) < answer[0]
    return [entry for output in outputs for entry in output.prompt_logprobs]


def check(outputs: Sequence[Output], prompt: Sequence[int]) -> None:
    expected = reference(prompt)
    entries = scores_of(outputs)
    assert [entry.token for entry in entries] == [token for token, _logprob, _top in expected]
    for entry, (_token, logprob, top) in zip(entries, expected, strict=True):
        assert entry.logprob == pytest.approx(logprob, abs=1e-4)
        assert [token for token, _logprob in entry.top] == top


@pytest.mark.parametrize("step", [5, 33, 512])
def test_they_are_those_of_a_full_pass_in_chunks_of_any_size(step: int) -> None:
    plain = [replace(request, prompt_logprobs=None) for request in REQUESTS]
    together = run_all(engine(prompt_tokens_per_step=step), [*REQUESTS, *plain])
    for outputs, prompt in zip(together, PROMPTS, strict=False):
        check(outputs, prompt)
    answers = [tokens_of(outputs) for outputs in together]
    assert answers[: len(PROMPTS)] == answers[len(PROMPTS) :]


def test_a_prompt_that_is_in_the_cache_is_read_all_the_same() -> None:
    subject = engine()
    run_all(subject, [replace(REQUESTS[3], prompt_logprobs=None)])
    [outputs] = run_all(subject, [REQUESTS[3]])
    check(outputs, PROMPTS[3])
    assert sum(output.cached_tokens for output in outputs) == 0
    [after] = run_all(subject, [replace(REQUESTS[3], prompt_logprobs=None)])
    assert sum(output.cached_tokens for output in after) == 64


def test_the_same_prompt_twice_at_once_is_scored_twice() -> None:
    for outputs in run_all(engine(prompt_tokens_per_step=16), [REQUESTS[3], REQUESTS[3]]):
        check(outputs, PROMPTS[3])


def test_a_prompt_that_was_preempted_in_its_middle_is_not_scored_twice() -> None:
    """The older answer grows into the last block while the younger prompt is read."""
    subject = engine(cache_tokens=48, prompt_tokens_per_step=2)
    prompts = random_prompt(100, 10), random_prompt(101, 30)
    requests = [
        Request(prompt=prompt, sampling=replace(GREEDY, max_tokens=max_tokens), prompt_logprobs=3)
        for prompt, max_tokens in zip(prompts, (36, 5), strict=True)
    ]
    results = run_all(subject, requests)
    assert subject.figures().num_preemptions > 0
    for outputs, prompt in zip(results, prompts, strict=True):
        check(outputs, prompt)


def test_an_adapter_has_its_own() -> None:
    adapted = replace(REQUESTS[2], adapter=random_adapter(1))
    plain, other = run_all(engine(), [REQUESTS[2], adapted])
    check(plain, PROMPTS[2])
    assert scores_of(plain) != scores_of(other)


def test_numbers_that_are_not_finite_fail_their_own_request_only() -> None:
    subject = Engine(varied_model(), tokenizer())
    broken = random_adapter(3)
    for _layer, _name, _a, b in broken.tensors():
        b.fill_(float("nan"))
    bad, good = run_all(subject, [replace(REQUESTS[2], adapter=broken), REQUESTS[3]])
    assert isinstance(bad[-1].error, DataError)
    check(good, PROMPTS[3])
