"""Generation against transformers: greedy tokens, and which tokens each setting leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from danlu.engine.engine import Engine
from danlu.engine.request import Request, SamplingSettings
from danlu.engine.sampling.logits import Penalties, candidates
from danlu.model.qwen3 import Qwen3
from tests.helpers.models.tiny_engine import (
    random_prompt,
    run_all,
    tokenizer,
    tokens_of,
    varied_model,
)


def _as_transformers(model: Qwen3) -> Qwen3ForCausalLM:
    """The same weights in transformers' model."""
    config = model.config
    names = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
        *("num_attention_heads", "num_key_value_heads", "rms_norm_eps"),
        *("max_position_embeddings", "tie_word_embeddings"),
    )
    fields: dict[str, Any] = {name: getattr(config, name) for name in names}
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    twin = Qwen3ForCausalLM(Qwen3Config(**fields, rope_parameters=rope)).eval()
    state = twin.state_dict()
    with torch.no_grad():
        for name, tensor in model.hf_tensors():
            state[name].copy_(tensor)
    return twin


@pytest.mark.parametrize(
    "seed, penalty, overrides",
    [
        (0, 1.0, {"tie_word_embeddings": True}),
        (1, 1.3, {"tie_word_embeddings": False, "num_key_value_heads": 1, "head_dim": 16}),
    ],
)
def test_greedy_equals_generate(seed: int, penalty: float, overrides: dict[str, Any]) -> None:
    size = tokenizer().vocab_size
    model = varied_model(seed=seed, **overrides)
    twin = _as_transformers(model)
    prompts = [random_prompt(100 * seed + number) for number in range(25)]
    ends = frozenset(range(0, size, 29))
    sampling = SamplingSettings(temperature=0.0, max_tokens=16, repetition_penalty=penalty)
    requests = [Request(prompt=p, sampling=sampling, end_token_ids=ends) for p in prompts]
    engine = Engine(model, tokenizer(), prompt_tokens_per_step=64, num_requests=9)
    ours = run_all(engine, requests)
    lengths = set()
    for prompt, outputs in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = twin.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=16,
            repetition_penalty=penalty,
            eos_token_id=sorted(ends),
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert tokens_of(outputs) == theirs
        assert outputs[-1].finish_reason == ("stop" if theirs[-1] in ends else "length")
        lengths.add(len(theirs))
    assert len(lengths) > 3


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(temperature=0.7),
        SamplingSettings(temperature=0.7, top_k=20, top_p=0.8),
        SamplingSettings(temperature=1.3, top_p=0.5),
        SamplingSettings(temperature=0.6, top_k=20, top_p=0.95, min_p=0.1),
        SamplingSettings(temperature=1.0, min_p=0.3),
        SamplingSettings(temperature=0.9, top_k=5, repetition_penalty=1.4),
        SamplingSettings(temperature=0.9, top_k=1000, top_p=0.01),
    ],
)
def test_each_setting_leaves_the_tokens_that_transformers_leaves(
    settings: SamplingSettings,
) -> None:
    warpers = LogitsProcessorList()
    if settings.repetition_penalty != 1.0:
        warpers.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    warpers.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        warpers.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1.0:
        warpers.append(TopPLogitsWarper(settings.top_p))
    if settings.min_p:
        warpers.append(MinPLogitsWarper(settings.min_p))
    generator = torch.Generator().manual_seed(0)
    for _case in range(20):
        logits = torch.randn(300, generator=generator) * 4
        seen = torch.randint(0, 300, (30,), generator=generator)
        theirs = warpers(seen[None], logits[None].clone())[0].softmax(dim=0)
        penalties = Penalties(settings, seen.tolist())
        tokens, scores = candidates(penalties.apply(logits), settings)
        ours = torch.zeros(300).scatter(0, tokens, scores.softmax(dim=0))
        assert torch.equal(ours > 0, theirs > 0)
        assert torch.allclose(ours, theirs, atol=1e-6)
