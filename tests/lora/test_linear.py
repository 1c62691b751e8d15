"""Dropout inside the hand-written LoRA, and what must not depend on packing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.lora.adapter import Adapter, LoraConfig
from danlu.lora.linear import AdapterLinear, Dropout
from danlu.model.qwen3 import Head, Layer, Linear, plain_linear, projection_input
from tests.helpers.models.packed import packed_logits, random_adapter, random_tokens
from tests.helpers.models.tiny_model import tiny_model

SEGMENTS = [("row 3", 9), ("row 8", 1), ("row 5", 14)]
LENGTHS = [tokens for _key, tokens in SEGMENTS]


def dropout(
    segments: list[tuple[str, int]] = SEGMENTS, *, p: float = 0.3, step: int = 7
) -> Dropout:
    return Dropout(probability=p, seed=11, step=step, segments=segments)


class AutogradLinear(Linear):
    """The same formula written plainly: autograd finds the gradients."""

    def __init__(self, adapter: Adapter, noise: Dropout) -> None:
        self.adapter = adapter
        self.noise = noise

    def __call__(
        self, layer: Layer | Head, name: str, x: Tensor, residual: Tensor | None = None
    ) -> Tensor:
        if not isinstance(layer, Layer):
            return plain_linear(layer, name, x, residual)
        n = projection_input(layer, name, x)
        y = F.linear(n, getattr(layer, name))
        addition = self.adapter.additions[layer.index, name]
        pieces = []
        for part in addition.parts:
            masked = n * self.noise.mask(layer.index, part.name, n)
            t = F.linear(masked, addition.a[part.rank_rows])
            pieces.append(F.linear(t, part.b) * self.adapter.config.scaling)
        y = y + torch.cat(pieces, dim=1)
        return y if residual is None else residual + y


def gradients(adapter: Adapter, linear: AdapterLinear | AutogradLinear) -> list[Tensor]:
    config, model = tiny_model()
    tokens = random_tokens(config, sum(LENGTHS))
    logits = packed_logits(model, tokens, LENGTHS, linear)
    upstream = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    parameters = [parameter for _name, parameter in adapter.parameters()]
    return [logits.detach(), *torch.autograd.grad(logits, parameters, upstream)]


def test_gradients_with_dropout_are_those_of_autograd() -> None:
    adapter = random_adapter(LoraConfig(r=4), tiny_model()[0])
    ours = gradients(adapter, AdapterLinear(adapter, dropout()))
    plain = gradients(adapter, AutogradLinear(adapter, dropout()))
    for got, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(
            got, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
        )


def test_a_mask_depends_on_its_row_and_not_on_the_packing() -> None:
    like = torch.empty(24, 64)
    packed = dropout().mask(1, "q_proj", like).split(LENGTHS)
    for (key, tokens), rows in zip(SEGMENTS, packed, strict=True):
        assert torch.equal(dropout([(key, tokens)]).mask(1, "q_proj", like), rows)
    backwards = dropout(SEGMENTS[::-1]).mask(1, "q_proj", like).split(LENGTHS[::-1])
    for rows, same in zip(packed, backwards[::-1], strict=True):
        assert torch.equal(rows, same)


def test_masks_differ_by_seed_step_row_layer_and_target() -> None:
    like = torch.empty(24, 64)
    base = dropout().mask(1, "q_proj", like)
    others = [
        Dropout(probability=0.3, seed=12, step=7, segments=SEGMENTS).mask(1, "q_proj", like),
        dropout(step=8).mask(1, "q_proj", like),
        dropout([("row 4", 9), *SEGMENTS[1:]]).mask(1, "q_proj", like),
        dropout().mask(0, "q_proj", like),
        dropout().mask(1, "k_proj", like),
    ]
    assert not any(torch.equal(base, other) for other in others)


def test_a_mask_keeps_the_expected_share_and_the_expected_value() -> None:
    for p in (0.05, 0.5):
        mask = dropout([("row", 500)], p=p).mask(0, "up_proj", torch.empty(500, 400))
        values = mask.unique()
        torch.testing.assert_close(values, torch.tensor([0.0, 1 / (1 - p)]))
        # 200,000 draws: one standard deviation of the mean is at most 0.0023.
        assert abs(mask.mean().item() - 1.0) < 0.012


def test_the_loss_of_a_packed_batch_with_dropout_is_that_of_its_segments() -> None:
    config, model = tiny_model()
    adapter = random_adapter(LoraConfig(r=4), config)
    tokens = random_tokens(config, sum(LENGTHS))
    with torch.no_grad():
        packed = packed_logits(model, tokens, LENGTHS, AdapterLinear(adapter, dropout()))
        alone = [
            packed_logits(model, part, [len(part)], AdapterLinear(adapter, dropout([segment])))
            for part, segment in zip(tokens.split(LENGTHS), SEGMENTS, strict=True)
        ]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_only_the_small_product_and_the_input_are_kept() -> None:
    """Saved for backward per call: x, t and the adapter's own matrices, nothing of output size."""
    config, model = tiny_model()
    adapter = random_adapter(LoraConfig(r=4), config)
    x = torch.randn(10, config.hidden_size, requires_grad=True)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        AdapterLinear(adapter)(model.layers[0], "gate_up_proj", x)
    own = {id(p) for _name, p in adapter.parameters()}
    kept = sum(t.numel() for t in saved if id(t) not in own)
    assert kept <= x.numel() + 10 * 2 * 4


def test_without_gradients_no_backward_pass_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    config, model = tiny_model()
    linear = AdapterLinear(random_adapter(LoraConfig(r=4), config), dropout())
    tokens = random_tokens(config, sum(LENGTHS))
    expected = packed_logits(model, tokens, LENGTHS, linear).detach()
    monkeypatch.setattr(
        torch.autograd.Function, "apply", classmethod(lambda *_given: pytest.fail("set up"))
    )
    with torch.no_grad():
        assert torch.equal(packed_logits(model, tokens, LENGTHS, linear), expected)


def test_products_take_the_matrices_as_they_are_when_a_microstep_begins() -> None:
    """Their copies in bf16 are made once for it: an update shows in the next one."""
    config, model = tiny_model()
    model.to(torch.bfloat16)
    adapter = random_adapter(LoraConfig(r=4), config)
    x = torch.randn(5, config.hidden_size).to(torch.bfloat16)

    def computed(linear: AdapterLinear) -> Tensor:
        return linear(model.layers[0], "qkv_proj", x).detach()

    first = AdapterLinear(adapter)
    before = computed(first)
    with torch.no_grad():
        for _layer, _name, _a, b in adapter.tensors():
            b.mul_(2)
    assert torch.equal(computed(first), before)
    after = computed(AdapterLinear(adapter))
    assert not torch.equal(after, before)
    torch.testing.assert_close(
        after.float() - before.float(),
        before.float() - plain_linear(model.layers[0], "qkv_proj", x).float(),
        atol=0.02,
        rtol=0.05,
    )
