"""The model, its full training and its LoRA training against transformers and PEFT."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.lora.adapter import ALL_TARGETS, LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.layout import layout
from danlu.model.qwen3 import Qwen3
from danlu.ops import cross_entropy_sum
from tests.helpers.models.hugging_face import (
    peft_matrix,
    peft_twin,
    segment_logits,
    transformers_twin,
)
from tests.helpers.models.packed import packed_logits, random_adapter, random_tokens
from tests.helpers.models.tiny_model import tiny_model

LENGTHS = [9, 1, 14]
SHAPES: list[dict[str, Any]] = [
    {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16},
    {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32},
    {"num_attention_heads": 6, "num_key_value_heads": 1, "head_dim": 24, "rope_theta": 1e6},
]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["no-gqa", "gqa-2", "gqa-6"])
tied_or_not = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def distance(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to the norm of what is expected."""
    return ((got - expected).norm() / expected.norm()).item()


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")


@every_shape
@tied_or_not
def test_logits(shape: dict[str, Any], tied: bool) -> None:
    config, model = tiny_model(tie_word_embeddings=tied, **shape)
    tokens = random_tokens(config, sum(LENGTHS))
    with torch.no_grad():
        expected = segment_logits(transformers_twin(model), tokens, LENGTHS)
        got = packed_logits(model, tokens, LENGTHS)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@every_shape
@tied_or_not
def test_gradients_of_full_training(shape: dict[str, Any], tied: bool) -> None:
    config, model = tiny_model(tie_word_embeddings=tied, **shape)
    twin = transformers_twin(model)
    tokens, targets = (random_tokens(config, sum(LENGTHS), seed) for seed in (0, 1))
    loss_of(segment_logits(twin, tokens, LENGTHS), targets).backward()
    model.requires_grad_(True)
    cross_entropy_sum(packed_logits(model, tokens, LENGTHS), targets).backward()
    expected = dict(twin.named_parameters())
    for name, gradient in hf_gradients(model).items():
        assert distance(gradient, expected[name].grad) < 1e-4, name


def hf_gradients(model: Qwen3) -> dict[str, Tensor]:
    """Gradients of the merged weights under Hugging Face's names."""
    result = {}
    for name, pieces in layout(model.config).items():
        gradient = model.get_parameter(name).grad
        assert gradient is not None, name
        for piece in pieces:
            result[piece.hf_name] = gradient[piece.start : piece.start + piece.shape[0]]
    return result


@pytest.mark.parametrize(
    ("targets", "rslora"),
    [
        (ALL_TARGETS, False),
        (ALL_TARGETS, True),
        (("q_proj", "v_proj"), False),
        (("k_proj", "up_proj", "o_proj"), False),
        (("gate_proj", "down_proj"), True),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else f"rslora={value}",
)
@every_shape
def test_gradients_of_lora(shape: dict[str, Any], targets: tuple[str, ...], rslora: bool) -> None:
    config, model = tiny_model(**shape)
    lora = LoraConfig(r=4, lora_alpha=6, use_rslora=rslora, target_modules=targets)
    adapter = random_adapter(lora, config)
    wrapped = peft_twin(transformers_twin(model), adapter)
    tokens, wanted = (random_tokens(config, sum(LENGTHS), seed) for seed in (0, 1))
    expected = segment_logits(wrapped, tokens, LENGTHS)
    got = packed_logits(model, tokens, LENGTHS, AdapterLinear(adapter))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    loss_of(expected, wanted).backward()
    cross_entropy_sum(got, wanted).backward()
    for (layer, _merged), addition in adapter.additions.items():
        assert addition.a.grad is not None
        for part in addition.parts:
            assert part.b.grad is not None
            pairs = (("A", addition.a.grad[part.rank_rows]), ("B", part.b.grad))
            for letter, gradient in pairs:
                reference = peft_matrix(wrapped, layer, part.name, letter).grad
                assert distance(gradient, reference) < 1e-4, (layer, part.name, letter)
    assert all(p.grad is None for p in model.parameters())


@tied_or_not
def test_a_packed_batch_equals_its_segments_alone(tied: bool) -> None:
    config, model = tiny_model(tie_word_embeddings=tied)
    adapter = random_adapter(LoraConfig(r=2), config)
    tokens = random_tokens(config, sum(LENGTHS))
    with torch.no_grad():
        packed = packed_logits(model, tokens, LENGTHS, AdapterLinear(adapter))
        alone = [
            packed_logits(model, part, [len(part)], AdapterLinear(adapter))
            for part in tokens.split(LENGTHS)
        ]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_bf16_is_as_close_to_fp32_as_transformers_in_bf16() -> None:
    """Bounds: 2 % of the fp32 logits' norm, and no more than 1.2 times transformers' own error."""
    config, model = tiny_model(num_hidden_layers=4)
    for _name, tensor in model.hf_tensors():
        tensor.copy_(tensor.bfloat16())  # the same numbers for every contestant
    tokens = random_tokens(config, sum(LENGTHS))
    with torch.no_grad():
        exact = packed_logits(model, tokens, LENGTHS)
        theirs = segment_logits(transformers_twin(model, torch.bfloat16), tokens, LENGTHS)
        ours = packed_logits(model.bfloat16(), tokens, LENGTHS)
    error = distance(ours.float(), exact)
    assert error < 0.02
    assert error < 1.2 * distance(theirs.float(), exact)


def test_lora_gradients_in_bf16_are_as_close_as_peft() -> None:
    """Bounds per matrix: 5 % of the fp32 gradient's norm, and 1.5 times PEFT's own error."""
    config, model = tiny_model()
    for _name, tensor in model.hf_tensors():
        tensor.copy_(tensor.bfloat16())
    adapter = random_adapter(LoraConfig(r=4), config)
    tokens, wanted = (random_tokens(config, sum(LENGTHS), seed) for seed in (0, 1))

    wrapped = peft_twin(transformers_twin(model, torch.bfloat16), adapter)
    loss_of(segment_logits(wrapped, tokens, LENGTHS), wanted).backward()
    exact = lora_gradients(model, adapter, tokens, wanted)
    ours = lora_gradients(model.bfloat16(), adapter, tokens, wanted)
    for (layer, target, letter), gradient in ours.items():
        expected = exact[layer, target, letter]
        theirs = peft_matrix(wrapped, layer, target, letter).grad
        error = distance(gradient, expected)
        assert error < 0.05, (layer, target, letter)
        assert error < 1.5 * distance(theirs.float(), expected), (layer, target, letter)


def lora_gradients(
    model: Qwen3, adapter: Any, tokens: Tensor, wanted: Tensor
) -> dict[tuple[int, str, str], Tensor]:
    for _name, parameter in adapter.parameters():
        parameter.grad = None
    logits = packed_logits(model, tokens, LENGTHS, AdapterLinear(adapter))
    cross_entropy_sum(logits, wanted).backward()
    result = {}
    for (layer, _merged), addition in adapter.additions.items():
        for part in addition.parts:
            result[layer, part.name, "A"] = addition.a.grad[part.rank_rows].clone()
            result[layer, part.name, "B"] = part.b.grad.clone()
    return result
