"""Experts in a layer: their pieces in the layout, rows in their order, recomputation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from danlu.lora.adapter import LoraConfig
from danlu.lora.linear import AdapterLinear, Dropout
from danlu.model.experts import Groups
from danlu.model.layout import layout
from danlu.model.qwen3 import ExpertLayer, Layer, Linear, Qwen3, plain_linear
from danlu.model.recompute import POLICIES, Recompute
from danlu.ops import expert_linear, expert_products, reference
from danlu.ops.expert_products import EXPERT_LINEAR, EXPERT_MIX
from tests.helpers.models.packed import packed_attention, random_adapter, random_tokens
from tests.helpers.models.tiny_model import EXPERTS, tiny_model
from tests.helpers.models.variants import taken

LENGTHS = [9, 1, 14]
TARGETS = {
    "lora": LoraConfig().target_modules,
    "no experts": ("q_proj", "v_proj"),
    "only experts": ("gate_proj", "up_proj", "down_proj"),
    "up": ("up_proj",),
    "down": ("down_proj",),
}


def test_every_experts_matrices_are_pieces_of_two() -> None:
    config, model = tiny_model(num_hidden_layers=3, experts=EXPERTS)
    assert [type(layer) for layer in model.layers] == [ExpertLayer, Layer, ExpertLayer]
    table = layout(config)
    down = table["layers.2.down_proj"]
    assert [piece.hf_name for piece in down[:2]] == [
        "model.layers.2.mlp.experts.0.down_proj.weight",
        "model.layers.2.mlp.experts.1.down_proj.weight",
    ]
    assert [piece.start for piece in down[:3]] == [0, 64, 128]
    gate_up = table["layers.0.gate_up_proj"]
    assert [(piece.hf_name.split(".")[5:7], piece.start) for piece in gate_up[:3]] == [
        (["0", "gate_proj"], 0),
        (["0", "up_proj"], 32),
        (["1", "gate_proj"], 64),
    ]
    names = {name for name, _tensor in model.hf_tensors()}
    assert "model.layers.0.mlp.gate.weight" in names
    assert "model.layers.1.mlp.gate.weight" not in names
    assert "model.layers.1.mlp.up_proj.weight" in names


def test_rows_stand_in_the_order_of_their_experts() -> None:
    chosen = torch.tensor([[2, 0], [0, 3], [3, 2]])
    groups = Groups.of(chosen, 5)
    assert groups.ends.tolist() == [2, 2, 4, 6, 6]
    assert groups.tokens.tolist() == [0, 1, 0, 2, 1, 2]
    n = torch.arange(6.0).view(3, 2)
    rows = groups.rows(n)
    assert torch.equal(rows, n[groups.tokens])
    assert torch.equal(groups.by_token(rows), n[:, None].expand(3, 2, 2))
    weights = torch.tensor([[0.5, 0.25], [1.0, 0.0], [0.125, 2.0]])
    assert torch.equal(groups.mixed(rows, weights), n * weights.sum(1, keepdim=True))
    assert torch.equal(weights.flatten()[groups.order], groups.by_row(weights))


def test_the_rows_of_some_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(20, 8, generator=generator).topk(3).indices
    groups = Groups.of(chosen, 8)
    rows, ends = groups.part(slice(4, 9))
    alone = Groups.of(chosen[4:9], 8)
    assert torch.equal(groups.tokens[rows] - 4, alone.tokens)
    assert torch.equal(ends, alone.ends)


@pytest.mark.parametrize("variant", ["by_expert", "grouped_mm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_products_and_their_gradients(variant: str, dtype: torch.dtype) -> None:
    ends = torch.tensor([0, 3, 3, 11, 12, 12])
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    x, weight, upstream = numbers(12, 16), numbers(6 * 24, 16), numbers(12, 24)

    def computed(name: str, to: torch.dtype) -> list[Tensor]:
        leaves = [part.to(to).requires_grad_() for part in (x, weight)]
        with taken(EXPERT_LINEAR, name):
            of_variant = ends.to(EXPERT_LINEAR.variants[name].ends_dtype)
            y = expert_linear(*leaves, of_variant)
            return [y.detach(), *torch.autograd.grad(y, leaves, upstream.to(to))]

    twin = computed("reference", torch.float32)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for got, expected in zip(computed(variant, dtype), twin, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(
            got.float(), expected, atol=tolerance * float(expected.abs().max()), rtol=0
        )


def method(name: str, model: Qwen3, policy: Recompute) -> tuple[Linear, dict[str, Tensor]]:
    if name == "full":
        model.requires_grad_(True)
        return plain_linear, dict(model.named_parameters())
    adapter = random_adapter(LoraConfig(r=4, target_modules=TARGETS[name]), model.config)
    segments = [(f"row {n}", length) for n, length in enumerate(LENGTHS)]
    noise = Dropout(probability=0.3, seed=11, step=7, segments=segments)
    linear = AdapterLinear(adapter, noise, keeps_normed=policy not in ("selective", "gate_up"))
    return linear, dict(adapter.parameters())


def gradients(name: str, policy: Recompute, dtype: torch.dtype) -> list[Tensor]:
    config, model = tiny_model(num_hidden_layers=3, experts=replace(EXPERTS, norm_topk_prob=True))
    model.to(dtype)
    linear, leaves = method(name, model, policy)
    tokens = random_tokens(config, sum(LENGTHS))
    hidden = model(tokens, packed_attention(config, LENGTHS), linear, policy)
    upstream = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    hidden.backward(upstream.to(dtype))
    return [hidden.detach(), *(g for leaf in leaves.values() if (g := leaf.grad) is not None)]


@pytest.mark.parametrize("policy", POLICIES[1:])
@pytest.mark.parametrize("name", [*TARGETS, "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_recomputation_gives_the_same_gradients(
    name: str, policy: Recompute, dtype: torch.dtype
) -> None:
    expected = gradients(name, "none", dtype)
    got = gradients(name, policy, dtype)
    assert len(got) == len(expected) > 3
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("policy", ["gate_up", "block"])
def test_what_is_computed_again_takes_the_same_experts(policy: Recompute) -> None:
    """Whatever the router would say the second time: here it has changed in between."""
    config, model = tiny_model(num_hidden_layers=1, experts=replace(EXPERTS, mlp_only_layers=()))
    lora = LoraConfig(r=4, target_modules=("down_proj",))
    adapter = random_adapter(lora, config)
    tokens = random_tokens(config, 3)
    hidden = model(tokens, packed_attention(config, [3]), AdapterLinear(adapter), policy)
    layer = model.layers[0]
    assert isinstance(layer, ExpertLayer)
    chosen = first_choice(model, tokens)
    layer.router.data.neg_()
    assert chosen != first_choice(model, tokens)
    hidden.sum().backward()
    gradient = adapter.additions[0, "down_proj"].parts[0].b.grad
    assert gradient is not None
    by_expert = gradient.view(EXPERTS.num_experts, -1).abs().sum(1)
    assert {int(n) for n in by_expert.nonzero()} == chosen


def first_choice(model: Qwen3, tokens: Tensor) -> set[int]:
    """The experts of the first layer that tokens go to."""
    found: set[int] = set()

    class Watching(Linear):
        def into_experts(self, layer: Layer, n: Tensor, groups: Groups) -> Tensor:
            found.update(groups.chosen.flatten().tolist())
            return super().into_experts(layer, n, groups)

    with torch.no_grad():
        model(tokens, packed_attention(model.config, [len(tokens)]), Watching())
    return found


@pytest.mark.parametrize("kind", ["plain", "adapter", "dropout"])
def test_in_pieces_experts_make_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, model = tiny_model(num_hidden_layers=1, experts=replace(EXPERTS, mlp_only_layers=()))
    layer = model.layers[0]
    assert isinstance(layer, ExpertLayer)
    linear: Linear = plain_linear
    if kind != "plain":
        segments = [(f"row {n}", length) for n, length in enumerate(LENGTHS)]
        noise = Dropout(probability=0.3, seed=1, step=2, segments=segments)
        adapter = random_adapter(LoraConfig(r=4), config)
        linear = AdapterLinear(adapter, noise if kind == "dropout" else None)
    x = torch.randn(sum(LENGTHS), 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = layer.mlp(x, linear)
        monkeypatch.setattr(expert_products, "PIECE", 7 * 64)
        assert len(layer._made(x, linear, None)[1].pieces(64)) > 3
        torch.testing.assert_close(layer.mlp(x, linear), whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("variant", ["bag", "gathered"])
def test_sums_of_a_token_and_their_gradients(variant: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    groups = Groups.of(torch.rand(20, 8, generator=generator).topk(3).indices, 8)
    rows, weights, upstream = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in ((60, 64), (20, 3), (20, 64))
    )
    rows.requires_grad_()
    weights.requires_grad_()
    with taken(EXPERT_MIX, variant):
        found = groups.mixed(rows, weights)
    got = torch.autograd.grad(found, (rows, weights), upstream)
    exact = reference.expert_mix(rows.float(), groups.places.view(20, 3), weights.float())
    expected = torch.autograd.grad(exact, (rows, weights), upstream.float())
    bound = 1e-5 if dtype == torch.float32 else 0.02
    for one, other in zip((found, *got), (exact, *expected), strict=True):
        assert one.dtype == dtype
        assert (one.float() - other).abs().max() <= bound * other.abs().max()


@pytest.mark.parametrize("counts", [[1, 17, 0, 3, 70, 0], [0, 0, 0, 0, 0, 100], [5, 5, 5, 5, 5, 5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_rows_that_are_multiplied_for_evenness_are_not_seen(
    counts: list[int], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    ends = torch.tensor(counts).cumsum(0)
    x = torch.randn(sum(counts), 64, generator=generator).to(dtype)
    weight = torch.randn(6 * 32, 64, generator=generator).to(dtype)
    dy = torch.randn(sum(counts), 32, generator=generator).to(dtype)
    passes, twin = (EXPERT_LINEAR.variants[name] for name in ("by_expert", "reference"))
    bound = 1e-5 if dtype == torch.float32 else 0.02
    for name, left in (("forward", x), ("input_gradient", dy)):
        found = getattr(passes, name)(left, weight, ends)
        exact = getattr(twin, name)(left.float(), weight.float(), ends)
        assert (found.float() - exact).abs().max() <= bound * exact.abs().max()
