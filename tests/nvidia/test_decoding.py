"""The engine with the kernels for NVIDIA cards: its answers, and what a decoded token starts.

With torch's own operations a layer starts 52 for a token (tests/npu/test_counts.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from danlu.device.variants import TRITON
from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request
from danlu.model.config import Quantization
from danlu.model.layout import PROJECTIONS
from danlu.model.qwen3 import Qwen3, replace_weight
from danlu.ops import QuantizedWeight
from danlu.ops.frozen.int4 import INT4_LINEAR
from danlu.ops.frozen.quantized import INT8_LINEAR
from tests.helpers.models.tiny_engine import (
    GREEDY,
    random_adapter,
    random_prompt,
    run_all,
    tokenizer,
    tokens_of,
    varied_model,
)
from tests.helpers.models.variants import nvidia_variants, taken
from tests.nvidia.starting import Starting


@pytest.fixture
def kernels() -> Iterator[None]:
    """Compute on the CPU as a card does."""
    with nvidia_variants():
        yield


def quantized_layers(model: Qwen3, quantization: Quantization) -> Qwen3:
    for layer in model.layers:
        for projection in PROJECTIONS:
            weight = getattr(layer, projection)
            quantized = QuantizedWeight(weight, quantization, weight.device)
            quantized.fill(weight)
            replace_weight(layer, projection, quantized)
    return model


def decoding_step(
    layers: int, adapters: Sequence[int], quantization: Quantization | None = None
) -> Counter[str]:
    """The second step of some requests, in bf16: each gets a token."""
    model = varied_model(num_hidden_layers=layers).to(torch.bfloat16)
    if quantization is not None:
        quantized_layers(model, quantization)
    made = {n: random_adapter(n, model) if n else None for n in set(adapters)}
    engine = Engine(model, tokenizer(), prompt_tokens_per_step=1000)
    for number, n in enumerate(adapters):
        prompt = random_prompt(number, 3)
        engine.add(Request(prompt=prompt, sampling=GREEDY, adapter=made[n]), [].append)
    engine.step()
    with Starting() as starting:
        engine.step()
    return Counter(starting.names)


@pytest.mark.parametrize(
    ("adapters", "most"),
    [([0], 8), ([0] * 5, 11), ([1], 8 + 4), ([0, 1, 2, 1], 11 + 8)],
    ids=["one request", "five", "an adapter", "several adapters"],
)
def test_a_decoded_token_starts_few_operations_a_layer(
    adapters: list[int], most: int, kernels: None
) -> None:
    """Two norms, rotation, cache, attention and its joining, swiglu, four products.

    With any number of adapters two more for each of the four projections. One request's norms,
    swiglu and an adapter's B are in its products.
    """
    one, two = (decoding_step(layers, adapters) for layers in (1, 2))
    assert two.total() - one.total() == most, two - one
    # Embeddings, angles, head, and sampling.
    assert one.total() - most <= 14, one


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_with_weights_in_few_bits_as_many(quantization: Quantization, kernels: None) -> None:
    """The residual is in the products; one request has norms and swiglu of their own."""
    one, two = (decoding_step(layers, [0, 1], quantization) for layers in (1, 2))
    assert two.total() - one.total() == 11 + 8, two - one
    one, two = (decoding_step(layers, [0], quantization) for layers in (1, 2))
    assert two.total() - one.total() == 11, two - one


def answers(model: Qwen3) -> list[list[Output]]:
    """Prompts of more pages than one, read in chunks beside requests that decode; two adapters."""
    adapters = [random_adapter(n, model) if n else None for n in range(3)]
    requests = [
        Request(
            prompt=random_prompt(number, length),
            sampling=replace(GREEDY, logprobs=1, max_tokens=4),
            adapter=adapter,
            prompt_logprobs=1,
        )
        for number, (adapter, length) in enumerate(zip(adapters, (3, 135, 20), strict=True))
    ]
    return run_all(Engine(model, tokenizer(), prompt_tokens_per_step=100), requests)


def logprobs_of(outputs: list[Output]) -> list[float]:
    return [one.logprob for output in outputs for one in output.prompt_logprobs]


def test_answers_are_those_of_the_cpu() -> None:
    model = varied_model(num_hidden_layers=2)
    expected = answers(model)
    with nvidia_variants():
        found = answers(model)
    for here, there in zip(expected, found, strict=True):
        assert tokens_of(here) == tokens_of(there)
        assert logprobs_of(here) == pytest.approx(logprobs_of(there), abs=1e-3)


@pytest.mark.soak
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_quantised_model_answers_as_on_the_cpu(quantization: Quantization) -> None:
    """The same levels, multiplied by other kernels; int4's lie otherwise."""
    requests = [Request(prompt=random_prompt(n, 4 + n), sampling=GREEDY) for n in range(2)]
    found = []
    for name in ("reference", TRITON):
        with taken(INT8_LINEAR, name), taken(INT4_LINEAR, name):
            model = quantized_layers(varied_model(num_hidden_layers=1).half(), quantization)
            found.append([tokens_of(one) for one in run_all(Engine(model, tokenizer()), requests)])
    assert found[0] == found[1]
    assert found[0][0]


@pytest.mark.soak
def test_answers_in_bfloat16_are_close_to_those_of_the_cpu() -> None:
    model = varied_model(num_hidden_layers=1).to(torch.bfloat16)
    expected = answers(model)
    with nvidia_variants():
        found = answers(model)
    for here, there in zip(expected, found, strict=True):
        assert logprobs_of(here) == pytest.approx(logprobs_of(there), abs=0.1)
        assert tokens_of(there)
