"""Sampling: frequencies follow the model's probabilities; settings are checked."""

from __future__ import annotations

import pytest
import torch

from danlu.engine.request import SamplingSettings
from danlu.engine.sampler import Sampler, candidates, sample
from danlu.errors import UsageError


def test_frequencies_follow_the_probabilities() -> None:
    logits = torch.tensor([2.0, -1.0, 0.0, 1.0, -30.0])
    sampler = Sampler(SamplingSettings(temperature=0.8, seed=0), [0])
    counts = torch.zeros(5)
    for _draw in range(4000):
        counts[sampler.draw(logits)] += 1
    expected = (logits / 0.8).softmax(dim=0)
    assert torch.allclose(counts / 4000, expected, atol=0.025)


def test_greedy_and_drawn_rows_share_a_batch() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    greedy = SamplingSettings(temperature=0.0)
    drawn = SamplingSettings(temperature=2.0, seed=3)
    tokens = sample(logits, [Sampler(s, [1]) for s in (greedy, drawn, greedy)])
    assert [tokens[0], tokens[2]] == logits[[0, 2]].argmax(dim=-1).tolist()
    assert tokens[1] == Sampler(drawn, [1]).draw(logits[1])


def test_the_repetition_penalty_counts_prompt_and_answer() -> None:
    sampler = Sampler(SamplingSettings(temperature=0.0, repetition_penalty=100.0), [0])
    logits = torch.tensor([[3.0, 2.0, 1.0, -1.0]])
    assert [sample(logits, [sampler])[0] for _step in range(3)] == [1, 2, 0]


@pytest.mark.parametrize("temperature", [1e-5, 1e-3, 1e30])
def test_extreme_temperatures_stay_finite(temperature: float) -> None:
    settings = SamplingSettings(temperature=temperature, top_k=3, top_p=0.9, min_p=0.1, seed=0)
    logits = torch.tensor([-1e4, 1e4, 5.0, 0.0])
    tokens, scores = candidates(logits, settings)
    assert scores.softmax(dim=0).isfinite().all()
    assert Sampler(settings, [0]).draw(logits) in tokens


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
        ("seed", -1),
        ("max_tokens", 0),
        ("stop", ("",)),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UsageError) as problem:
        SamplingSettings(**{name: value})  # type: ignore[arg-type]
    assert name in problem.value.what
