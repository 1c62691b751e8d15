"""Models with experts against transformers: logits, gradients, greedy answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.engine.engine import Engine
from danlu.engine.request import Request, SamplingSettings
from danlu.lora.adapter import ALL_TARGETS, Adapter, LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.experts import Balance
from danlu.model.layout import layout, projection_module
from danlu.model.qwen3 import Linear, Qwen3
from danlu.model.recompute import Recompute
from danlu.ops import cross_entropy_sum
from danlu.ops.expert_products import EXPERT_LINEAR
from tests.helpers.models.hugging_face import place_of, segment_logits, transformers_twin
from tests.helpers.models.packed import (
    packed_attention,
    packed_logits,
    random_adapter,
    random_tokens,
)
from tests.helpers.models.tiny_engine import (
    random_prompt,
    run_all,
    tokenizer,
    tokens_of,
    varied_model,
)
from tests.helpers.models.tiny_model import EXPERTS, tiny_model
from tests.helpers.models.variants import taken

LENGTHS = [7, 1, 12]
SHAPES: dict[str, dict[str, Any]] = {
    "some layers dense": {"num_hidden_layers": 3, "experts": EXPERTS},
    "every other layer": {
        "num_hidden_layers": 4,
        "experts": replace(EXPERTS, mlp_only_layers=(), decoder_sparse_step=2),
    },
    "probabilities add up to 1": {
        "num_hidden_layers": 2,
        "experts": replace(EXPERTS, mlp_only_layers=(), norm_topk_prob=True),
    },
    "one expert of three": {
        "num_hidden_layers": 2,
        "experts": replace(EXPERTS, num_experts=3, num_experts_per_tok=1, mlp_only_layers=()),
    },
    "all experts": {"experts": replace(EXPERTS, num_experts_per_tok=8, mlp_only_layers=())},
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
every_variant = pytest.mark.parametrize("variant", ["by_expert", "grouped_mm", "reference"])


def distance(got: Tensor, expected: Tensor) -> float:
    """Length of the difference, as a share of the expected tensor's."""
    return float((got - expected).norm() / expected.norm().clamp(min=1e-12))


@every_shape
@every_variant
def test_logits(shape: dict[str, Any], variant: str) -> None:
    config, model = tiny_model(**shape)
    tokens = random_tokens(config, sum(LENGTHS))
    with torch.no_grad(), taken(EXPERT_LINEAR, variant):
        expected = segment_logits(transformers_twin(model), tokens, LENGTHS)
        got = packed_logits(model, tokens, LENGTHS)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@every_shape
def test_gradients_of_full_training(shape: dict[str, Any]) -> None:
    config, model = tiny_model(**shape)
    twin = transformers_twin(model)
    tokens, targets = (random_tokens(config, sum(LENGTHS), seed) for seed in (0, 1))
    cross_entropy_sum(segment_logits(twin, tokens, LENGTHS), targets).backward()
    model.requires_grad_(True)
    cross_entropy_sum(packed_logits(model, tokens, LENGTHS), targets).backward()
    theirs = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    for name, pieces in layout(config).items():
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        for piece in pieces:
            got = gradient[piece.start : piece.start + piece.shape[0]]
            expected = place_of(piece.hf_name, theirs)
            assert distance(got, expected) < 1e-4 or not (got.any() or expected.any()), piece


@pytest.mark.parametrize(
    ("targets", "rslora"),
    [
        (ALL_TARGETS, False),
        (ALL_TARGETS, True),
        (("q_proj", "v_proj"), False),
        (("up_proj", "o_proj"), False),
        (("gate_proj", "down_proj"), True),
        (("down_proj",), False),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else f"rslora={value}",
)
@pytest.mark.parametrize("name", ["some layers dense", "probabilities add up to 1"])
def test_gradients_of_lora(name: str, targets: tuple[str, ...], rslora: bool) -> None:
    """transformers computes with W + s B A of leaves A and B, which is what LoRA means."""
    config, model = tiny_model(**SHAPES[name])
    lora = LoraConfig(r=4, lora_alpha=6, use_rslora=rslora, target_modules=targets)
    adapter = random_adapter(lora, config)
    twin = transformers_twin(model)
    leaves, weights = merged_weights(model, adapter)
    tokens, wanted = (random_tokens(config, sum(LENGTHS), seed) for seed in (0, 1))
    # Tied to the embedding.
    tensors = {k: v.clone() for k, v in twin.state_dict().items() if k != "lm_head.weight"}
    for hf_name, weight in weights.items():
        put(tensors, hf_name, weight)
    parts = [
        torch.func.functional_call(twin, tensors, kwargs={"input_ids": part[None]}).logits[0]
        for part in tokens.split(LENGTHS)
    ]
    expected = torch.cat(parts)
    got = packed_logits(model, tokens, LENGTHS, AdapterLinear(adapter))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    cross_entropy_sum(expected, wanted).backward()
    cross_entropy_sum(got, wanted).backward()
    for (layer, target, letter), gradient in gradients_of(adapter).items():
        theirs = leaves[layer, target, letter].grad
        assert theirs is not None
        if theirs.any() or gradient.any():  # an expert without rows has none
            assert distance(gradient, theirs) < 1e-4, (layer, target, letter)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("policy", ["none", "gate_up", "block"])
def test_the_loss_that_evens_out_shares(policy: Recompute) -> None:
    """With transformers' load_balancing_loss_func; the last tokens are filler and do not count."""
    config, model = tiny_model(**SHAPES["some layers dense"])
    assert config.experts is not None
    twin = transformers_twin(model)
    tokens, targets = (random_tokens(config, 24, seed) for seed in (0, 1))
    theirs = twin(input_ids=tokens[None, :20], output_router_logits=True)
    (cross_entropy_sum(theirs.logits[0], targets[:20]) + 50 * theirs.aux_loss).backward()
    model.requires_grad_(True)
    linear = Linear()
    linear.balance = Balance(config.experts, coefficient=25.0, num_tokens=20)
    hidden = model(tokens, packed_attention(config, [20, 4]), linear, policy)[:20]
    loss = linear.balance.close(2.0)
    assert float(loss) == pytest.approx(float(theirs.aux_loss.detach()), rel=1e-5)
    cross_entropy_sum(linear(model.head, "lm_head", hidden), targets[:20]).backward()
    expected = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    for layer in (0, 2):
        name = f"model.layers.{layer}.mlp.gate.weight"
        gradient = model.get_parameter(f"layers.{layer}.router").grad
        assert gradient is not None
        assert distance(gradient, expected[name]) < 1e-4
    embedding = model.embed_tokens.grad
    assert embedding is not None
    assert distance(embedding, expected["model.embed_tokens.weight"]) < 1e-4


def merged_weights(
    model: Qwen3, adapter: Adapter
) -> tuple[dict[tuple[int, str, str], Tensor], dict[str, Tensor]]:
    """Leaves A and B, and W + s B A of each projection that the adapter changes, by its name."""
    plain, leaves, merged = dict(model.hf_tensors()), {}, {}
    for layer, target, a, b in adapter.tensors():
        own = a.clone().requires_grad_(), b.clone().requires_grad_()
        leaves[layer, target, "A"], leaves[layer, target, "B"] = own
        name = f"{projection_module(layer, target)}.weight"
        merged[name] = plain[name] + adapter.config.scaling * own[1] @ own[0]
    return leaves, merged


def put(tensors: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Put a weight into a state of transformers' model; those of all experts are one tensor."""
    if ".experts." not in name:
        tensors[name] = value
        return
    path, _number, kind, _weight = name.rsplit(".", 3)
    key = f"{path}.{'down' if kind == 'down_proj' else 'gate_up'}_proj"
    whole = tensors[key].clone()
    place_of(name, {key: whole}).copy_(value)
    tensors[key] = whole


def gradients_of(adapter: Adapter) -> dict[tuple[int, str, str], Tensor]:
    """Gradients of every A and B, by layer and target."""
    found = {}
    for (layer, _merged), addition in adapter.additions.items():
        assert addition.a.grad is not None
        count = addition.num_experts or 1
        a = addition.a.grad.view(count, -1, addition.a.shape[1])
        names = [name for name, *_rest in addition.matrices()]
        for number in range(count):
            for place, part in enumerate(addition.parts):
                assert part.b.grad is not None
                name = names[number * len(addition.parts) + place]
                found[layer, name, "A"] = a[number, part.rank_rows]
                found[layer, name, "B"] = part.b.grad.view(count, -1, part.b.shape[1])[number]
    return found


@pytest.mark.parametrize("name", ["some layers dense", "probabilities add up to 1"])
def test_greedy_equals_generate(name: str) -> None:
    model = varied_model(**SHAPES[name])
    twin = transformers_twin(model)
    prompts = [random_prompt(number) for number in range(12)]
    sampling = SamplingSettings(temperature=0.0, max_tokens=12)
    engine = Engine(model, tokenizer(), prompt_tokens_per_step=64, num_requests=9)
    ours = run_all(engine, [Request(prompt=p, sampling=sampling) for p in prompts])
    for prompt, outputs in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = twin.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert tokens_of(outputs) == theirs[0, len(prompt) :].tolist()


def test_bf16_is_as_close_to_fp32_as_transformers_in_bf16() -> None:
    """Where both choose the experts that fp32 chooses; bounds as for dense models."""
    config, model = tiny_model(**SHAPES["all experts"])
    for _name, tensor in model.hf_tensors():
        tensor.copy_(tensor.bfloat16())
    tokens = random_tokens(config, sum(LENGTHS))
    with torch.no_grad():
        exact = packed_logits(model, tokens, LENGTHS)
        theirs = segment_logits(transformers_twin(model, torch.bfloat16), tokens, LENGTHS)
        ours = packed_logits(model.bfloat16(), tokens, LENGTHS)
    error = distance(ours.float(), exact)
    assert error < 0.02
    assert error < 1.2 * distance(theirs.float(), exact)
