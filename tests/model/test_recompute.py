"""Recomputation: the same gradients to the last bit, and less and less that is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.lora.adapter import LoraConfig
from danlu.lora.linear import AdapterLinear, Dropout
from danlu.model.qwen3 import Head, Layer, Linear, Qwen3, plain_linear
from danlu.model.recompute import POLICIES, Recompute
from tests.helpers.models.packed import packed_attention, random_adapter, random_tokens
from tests.helpers.models.tiny_model import tiny_model
from tests.helpers.training.saved_bytes import counting_saved

LENGTHS = [9, 1, 14]
METHODS = ("lora", "some projections", "full")


def method(name: str, model: Qwen3, policy: Recompute) -> tuple[Linear, dict[str, Tensor]]:
    """The `linear` of a training method, and what it trains."""
    if name == "full":
        model.requires_grad_(True)
        return plain_linear, dict(model.named_parameters())
    targets = {
        "lora": LoraConfig().target_modules,
        "some projections": ("q_proj", "v_proj", "up_proj"),
        # Nothing is trained before the first layer's MLP: its attention has no gradients at all.
        "only MLPs": ("gate_proj", "up_proj", "down_proj"),
        "only the last": ("down_proj",),
    }[name]
    adapter = random_adapter(LoraConfig(r=4, target_modules=targets), model.config)
    segments = [(f"row {n}", length) for n, length in enumerate(LENGTHS)]
    noise = Dropout(probability=0.3, seed=11, step=7, segments=segments)
    linear = AdapterLinear(adapter, noise, keeps_normed=policy not in ("selective", "gate_up"))
    return linear, dict(adapter.parameters())


def gradients(name: str, policy: Recompute, dtype: torch.dtype) -> tuple[list[Tensor], int]:
    """The last residual stream with all gradients, and the bytes kept for the backward pass."""
    config, model = tiny_model(num_hidden_layers=3)
    model.to(dtype)
    linear, leaves = method(name, model, policy)
    tokens = random_tokens(config, sum(LENGTHS))
    with counting_saved(ignore=model.parameters()) as saved:
        hidden = model(tokens, packed_attention(config, LENGTHS), linear, policy)
    upstream = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    hidden.backward(upstream.to(dtype))
    return [hidden.detach(), *(g for leaf in leaves.values() if (g := leaf.grad) is not None)], (
        saved.num_bytes
    )


@pytest.mark.parametrize("policy", POLICIES[1:])
@pytest.mark.parametrize("name", [*METHODS, "only MLPs", "only the last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_gradients_are_the_same(name: str, policy: Recompute, dtype: torch.dtype) -> None:
    expected, _ = gradients(name, "none", dtype)
    got, _ = gradients(name, policy, dtype)
    assert len(got) == len(expected) > 5
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_each_policy_keeps_less_than_the_one_before(name: str) -> None:
    kept = [gradients(name, policy, torch.float32)[1] for policy in POLICIES[:-1]]
    assert kept == sorted(set(kept), reverse=True)
    # A layer keeps what enters it, [T, hidden_size] of fp32 in each of 3 layers; and the embedding
    # its token ids, where it is trained.
    ids = 8 * sum(LENGTHS) if name == "full" else 0
    assert kept[-1] == 3 * sum(LENGTHS) * 64 * 4 + ids


def test_nothing_runs_twice_without_gradients() -> None:
    config, model = tiny_model()
    calls = []

    class Recorded(Linear):
        def __call__(
            self, layer: Layer | Head, name: str, x: Tensor, residual: Tensor | None = None
        ) -> Tensor:
            calls.append(name)
            return super().__call__(layer, name, x, residual)

    attend = packed_attention(config, [5])
    with torch.no_grad(), counting_saved(ignore=()) as saved:
        model(random_tokens(config, 5), attend, Recorded(), "block")
    assert len(calls) == 8
    assert saved.num_bytes == 0
