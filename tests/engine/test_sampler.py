"""Sampling: each setting against its plain meaning; a row alone equals the row in a batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danlu.engine.grammar import Grammar
from danlu.engine.grammar_compiler import GrammarCompiler
from danlu.engine.request import Request, SamplingSettings, Thinking, TokenLogprobs
from danlu.engine.sampling.logits import Largest, Penalties, candidates
from danlu.engine.sampling.sampler import ChosenToken, Sampler, sample
from danlu.errors import DataError, UsageError
from danlu.ops import Draw
from tests.helpers.models.tiny_engine import tokenizer

# More than the tokenizer's, as in Qwen3.
SIZE = tokenizer().vocab_size + 6
COMPILER = GrammarCompiler(tokenizer())
ENDS = frozenset({tokenizer().control_id("<|im_end|>")})
GREEDY = SamplingSettings(temperature=0.0)


def sampler(
    sampling: SamplingSettings = GREEDY, prompt: tuple[int, ...] = (0,), **request: Any
) -> Sampler:
    """A sampler over the tiny vocabulary."""
    guide = COMPILER.compiled(sampling.grammar).guide() if sampling.grammar else None
    asked = Request(prompt=prompt, sampling=sampling, **request)
    return Sampler(asked, tokenizer(), vocab_size=SIZE, guide=guide)


def rows(seed: int, number: int) -> Tensor:
    """The logits of a model: [number, SIZE] in bf16 steps, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(number, SIZE, generator=generator) * 4).bfloat16().float()


def chosen(logits: Tensor, samplers: list[Sampler]) -> list[ChosenToken]:
    """One step in which no row fails."""
    choices = sample(logits, samplers)
    assert all(isinstance(choice, ChosenToken) for choice in choices), choices
    return choices  # type: ignore[return-value]


def answer(subject: Sampler, logits: Tensor) -> list[int]:
    """The tokens of one request, a step for each row."""
    return [chosen(row[None], [subject])[0].token for row in logits]


ANY_SETTINGS = st.builds(
    SamplingSettings,
    temperature=st.sampled_from([0.0, 0.6, 1.0, 5.0]),
    top_k=st.sampled_from([0, 1, 20]),
    top_p=st.sampled_from([0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([0.8, 1.0, 1.3]),
    presence_penalty=st.sampled_from([-2.0, 0.0, 1.0]),
    frequency_penalty=st.sampled_from([-1.0, 0.0, 2.0]),
    logit_bias=st.sampled_from([(), ((7, 5.0), (8, -100.0))]),
    seed=st.integers(0, 3),
    min_tokens=st.sampled_from([0, 3]),
    logprobs=st.sampled_from([None, 0, 4]),
    grammar=st.sampled_from([None, Grammar(kind="regex", source="[a-z ]{20}")]),
)
ANY_THINKING = st.sampled_from(
    [None, Thinking(start_id=1, end_id=2, closing=(3, 2, 3), is_open=True, budget=2)]
)


@settings(max_examples=30)
@given(asked=st.lists(st.tuples(ANY_SETTINGS, ANY_THINKING), min_size=2, max_size=4))
def test_a_row_alone_equals_the_row_in_a_batch(
    asked: list[tuple[SamplingSettings, Thinking | None]],
) -> None:
    def made() -> list[Sampler]:
        return [
            sampler(sampling, thinking=thinking, end_token_ids=ENDS) for sampling, thinking in asked
        ]

    steps = [rows(step, len(asked)) for step in range(5)]
    together = made()
    batched = [chosen(logits, together) for logits in steps]
    for place, alone in enumerate(made()):
        single = [chosen(logits[place : place + 1], [alone])[0] for logits in steps]
        assert single == [choices[place] for choices in batched]


def test_frequencies_follow_the_probabilities() -> None:
    logits = torch.tensor([2.0, -1.0, 0.0, 1.0, -30.0])
    subject = sampler(SamplingSettings(temperature=0.8, seed=0))
    counts = torch.zeros(5)
    for _draw in range(4000):
        token = subject.draw(logits)
        subject.record(token)
        counts[token] += 1
    expected = (logits / 0.8).softmax(dim=0)
    assert torch.allclose(counts / 4000, expected, atol=0.025)


@given(
    sampling=st.builds(
        SamplingSettings,
        temperature=st.just(0.0),
        top_k=st.integers(0, 400),
        top_p=st.floats(0.01, 1.0),
        min_p=st.floats(0.0, 1.0),
        seed=st.none() | st.integers(0, 9),
    ),
    seed=st.integers(0, 99),
)
def test_greedy_is_the_likeliest_token_whatever_else_is_set(
    sampling: SamplingSettings, seed: int
) -> None:
    logits = rows(seed, 3)
    likeliest = logits.argmax(dim=-1).tolist()
    assert answer(sampler(sampling), logits) == likeliest
    assert answer(sampler(sampling), logits.bfloat16()) == likeliest


@given(
    prompt=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    answered=st.lists(st.integers(0, 9), max_size=12),
    late=st.integers(0, 12),
    repetition=st.sampled_from([0.5, 1.0, 1.7]),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
)
def test_penalties_mean_what_their_formulas_say(
    prompt: list[int],
    answered: list[int],
    late: int,
    repetition: float,
    presence: float,
    frequency: float,
) -> None:
    sampling = SamplingSettings(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency
    )
    subject = Penalties(sampling, prompt)
    row = torch.linspace(-3, 3, 10)
    for place, token in enumerate(answered):
        if place == late:
            subject.apply(row)  # whether it is asked early or late does not matter
        subject.record(token)
    got = subject.apply(row).tolist()
    counts = Counter(answered)
    for token, value in enumerate(row.tolist()):
        if token in prompt or counts[token]:
            value = value * repetition if value < 0 else value / repetition
        value -= frequency * counts[token] + presence * (counts[token] > 0)
        assert got[token] == pytest.approx(value, abs=1e-5)


def test_the_repetition_penalty_counts_prompt_and_answer() -> None:
    logits = torch.full((1, SIZE), -300.0)
    logits[0, :4] = torch.tensor([3.0, 2.0, 1.0, -1.0])
    subject = sampler(replace(GREEDY, repetition_penalty=100.0), prompt=(0,))
    assert answer(subject, logits.repeat(3, 1)) == [1, 2, 0]


def test_the_other_penalties_count_the_answer_only() -> None:
    logits = torch.zeros(4, SIZE)
    logits[:, :3] = torch.tensor([3.0, 2.5, 2.0])
    assert answer(sampler(replace(GREEDY, presence_penalty=2.0)), logits) == [0, 1, 2, 0]
    # 3, then 1 and -1 for the first; 2.5, then 0.5 for the second: 2 takes the third step.
    assert answer(sampler(replace(GREEDY, frequency_penalty=2.0)), logits) == [0, 1, 2, 0]
    assert answer(sampler(replace(GREEDY, frequency_penalty=0.4)), logits) == [0, 0, 1, 0]


def test_logit_bias_moves_a_token() -> None:
    logits = rows(0, 1)
    best, second = logits[0].topk(2).indices.tolist()
    ban = replace(GREEDY, logit_bias=((best, -100.0),))
    assert answer(sampler(ban), logits) == [second]
    force = SamplingSettings(logit_bias=((5, 100.0),), seed=0)
    assert answer(sampler(force), logits) == [5]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("ignore_eos", [False, True])
def test_no_end_before_min_tokens(temperature: float, ignore_eos: bool) -> None:
    logits = rows(0, 5)
    logits[:, [10, 11]] = 50.0  # the model wants to end
    subject = sampler(
        SamplingSettings(
            temperature=temperature,
            seed=0,
            min_tokens=3,
            stop_token_ids=frozenset({11}),
            ignore_eos=ignore_eos,
        ),
        end_token_ids=frozenset({10}),
    )
    tokens = answer(subject, logits)
    barred = {11} if ignore_eos else {10, 11}
    assert not barred & set(tokens[:3])
    assert set(tokens[3:]) <= {10, 11}
    assert not ignore_eos or set(tokens[:3]) == {10}  # it ends nothing, so it is free


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_are_the_models_own(dtype: torch.dtype) -> None:
    logits = rows(1, 2).to(dtype)
    sampling = SamplingSettings(
        seed=0, temperature=0.3, logprobs=3, repetition_penalty=2.0, logit_bias=((5, 100.0),)
    )
    choice, other = chosen(logits, [sampler(sampling), sampler()])
    expected = logits[0].float().log_softmax(dim=0)
    top = expected.topk(3)
    assert choice.logprobs == TokenLogprobs(
        token=5,
        logprob=expected[5].item(),
        top=tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)),
    )
    assert other.logprobs is None


def test_a_due_token_is_written_and_its_logprob_given() -> None:
    thinking = Thinking(start_id=1, end_id=2, closing=(3, 2), is_open=True, budget=1)
    subject = sampler(replace(GREEDY, logprobs=0), thinking=thinking)
    logits = rows(2, 4)
    choices = [chosen(row[None], [subject])[0] for row in logits]
    free = logits.argmax(dim=-1).tolist()
    assert [choice.token for choice in choices] == [free[0], 3, 2, free[3]]
    expected = logits[1].log_softmax(dim=0)[3].item()
    assert choices[1].logprobs == TokenLogprobs(token=3, logprob=expected)


def test_a_row_that_fails_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    broken, whole = sampler(replace(GREEDY, seed=1, presence_penalty=1.0)), sampler()
    monkeypatch.setattr(broken, "choose", lambda *_given: 1 / 0)
    logits = rows(3, 2)
    problem, choice = sample(logits, [broken, whole])
    assert isinstance(problem, ZeroDivisionError)
    assert choice == ChosenToken(token=int(logits[1].argmax()))


@pytest.mark.parametrize("temperature", [1e30, 1e40, 1e308])
def test_no_heat_makes_what_is_forbidden_possible(temperature: float) -> None:
    settings = SamplingSettings(temperature=temperature, seed=0, min_tokens=3)
    subject = sampler(settings, end_token_ids=frozenset({10}))
    assert 10 not in answer(subject, rows(0, 3))


@pytest.mark.parametrize("temperature", [1e-5, 1e-3, 1e30])
def test_extreme_temperatures_stay_finite(temperature: float) -> None:
    asked = SamplingSettings(temperature=temperature, top_k=3, top_p=0.9, min_p=0.1, seed=0)
    logits = torch.tensor([-1e4, 1e4, 5.0, 0.0])
    tokens, scores = candidates(logits, asked)
    assert scores.softmax(dim=0).isfinite().all()
    assert sampler(asked).draw(logits) in tokens


def test_an_impossible_token_is_never_drawn() -> None:
    row = torch.full((6,), -torch.inf)
    row[2:4] = torch.tensor([0.0, -3.0])
    for seed in range(50):
        asked = SamplingSettings(seed=seed, top_k=5, temperature=100.0)
        assert sampler(asked).draw(row) in (2, 3)


@pytest.mark.parametrize(
    "name, value",
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("logit_bias", ((1, 101.0),)),
        ("seed", -1),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("logprobs", 21),
        ("stop", ("",)),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UsageError) as problem:
        SamplingSettings(**{name: value})  # type: ignore[arg-type]
    assert name in problem.value.what


@given(
    sampling=st.builds(
        SamplingSettings,
        temperature=st.sampled_from([0.6, 1.0]),
        top_k=st.integers(0, 80),
        top_p=st.sampled_from([0.3, 0.95, 1.0]),
        min_p=st.sampled_from([0.0, 0.1]),
    ),
    seed=st.integers(0, 99),
    scale=st.sampled_from([0.0, 0.02, 1.0]),
)
def test_the_largest_are_enough_or_say_that_they_are_not(
    sampling: SamplingSettings, seed: int, scale: float
) -> None:
    logits = (rows(seed, 3) * scale).bfloat16()  # many ties, or nothing but ties
    largest = Largest(logits, logits)
    for place, row in enumerate(logits.float()):
        tokens, scores = candidates(row, sampling)
        found = largest.candidates(place, sampling)
        if found is not None:
            assert found[0].tolist() == tokens.tolist()
            assert found[1].tolist() == scores.tolist()
        elif 0 < sampling.top_k <= 64:  # more ids than are here tie with the last one
            assert (row >= row.topk(sampling.top_k).values[-1]).sum() >= 64
        assert largest.likeliest(place) in (int(row.argmax()), None)
        assert scale == 0.0 or largest.likeliest(place) is not None


def test_a_row_that_is_not_finite_fails_alone() -> None:
    for value in (float("nan"), float("inf")):
        for asked in (GREEDY, SamplingSettings(top_k=20, seed=0), SamplingSettings(seed=0)):
            logits = rows(0, 3)
            logits[1, 7] = value
            first, problem, last = sample(logits, [sampler(asked) for _ in range(3)])
            assert isinstance(problem, DataError)
            assert isinstance(first, ChosenToken)
            assert isinstance(last, ChosenToken)


def test_the_device_chooses_where_no_more_is_asked_than_a_draw_from_few() -> None:
    plain = SamplingSettings(temperature=0.6, top_k=20, top_p=0.95, min_p=0.1, seed=1)
    draw = sampler(plain).draw_of(0)
    assert draw is not None
    assert draw[:4] == (0.6, 20, 0.95, 0.1)
    assert sampler(GREEDY).draw_of(5) == Draw()
    assert sampler(replace(plain, temperature=1e300)).draw_of(0) is not None
    for more in (
        {"top_k": 0},
        {"top_k": 65},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.5},
        {"logit_bias": ((7, 5.0),)},
        {"logprobs": 0},
        {"grammar": Grammar(kind="regex", source="[a-z]{20}")},
    ):
        assert sampler(replace(plain, **more)).draw_of(0) is None, more  # type: ignore[arg-type]


def test_before_min_tokens_the_host_chooses() -> None:
    subject = sampler(replace(GREEDY, min_tokens=2))
    assert [subject.draw_of(ahead) is None for ahead in range(4)] == [True, True, False, False]
    subject.record(5)
    assert [subject.draw_of(ahead) is None for ahead in range(3)] == [True, False, False]


def test_a_token_that_may_be_forced_is_the_hosts() -> None:
    """The thought has 3 tokens; then its closing is written, and then all is free again."""
    thinking = Thinking(start_id=1, end_id=2, closing=(3, 2, 3), is_open=True, budget=3)
    subject = sampler(GREEDY, thinking=thinking)
    free = []
    for token in (9, 9, 9, 3, 2, 3, 9, 9):
        free.append("".join("h" if subject.draw_of(ahead) is None else "d" for ahead in (0, 1, 2)))
        subject.record(token)
    assert free == ["ddd", "ddh", "dhh", "hhh", "hhh", "hhh", "ddd", "ddd"]
    # What has no limit is never forced.
    assert sampler(GREEDY, thinking=replace(thinking, budget=None)).draw_of(1) is not None


def test_a_tokens_random_number_is_that_of_the_seed_and_its_place() -> None:
    """Asked for ahead or not, in whichever order, and whatever was chosen before."""
    asked = SamplingSettings(temperature=1.0, top_k=5, seed=11)

    def chances(order: list[int], before: int = 0) -> list[float]:
        subject = sampler(asked)
        for _ in range(before):
            subject.record(3)
        return [subject.draw_of(ahead).chance for ahead in order]  # type: ignore[union-attr]

    first = chances(list(range(100)))
    assert len(set(first)) == 100
    assert chances([99, 0, 40]) == [first[99], first[0], first[40]]
    assert chances([0, 1], before=50) == first[50:52]
    assert sampler(replace(asked, seed=12)).draw_of(0) != sampler(asked).draw_of(0)
    # The host draws by the same number.
    logits = torch.zeros(SIZE)
    subject = sampler(replace(asked, top_k=0))
    subject.record(3)
    assert subject.draw(logits) == int(first[1] * SIZE)
