"""Experts on the simulated NPU, by npu_grouped_matmul in both directions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from danlu.device.variants import ASCEND, REFERENCE
from danlu.engine.engine import Engine
from danlu.engine.request import Request
from danlu.lora.adapter import LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.config import Quantization
from danlu.model.quantized import floats_bytes
from danlu.model.recompute import Recompute
from danlu.ops.cache.graph import GRAPH
from danlu.ops.expert_products import EXPERT_LINEAR
from danlu.ops.frozen.expert_bits import EXPERT_BITS
from tests.helpers.models.packed import packed_attention, random_adapter, random_tokens
from tests.helpers.models.tiny_engine import (
    GREEDY,
    random_prompt,
    run_all,
    tokenizer,
    tokens_of,
    varied_model,
)
from tests.helpers.models.tiny_engine import random_adapter as adapter_like
from tests.helpers.models.tiny_model import EXPERTS, quantized_tiny, tiny_model
from tests.helpers.models.variants import ascend_variants, taken
from tests.sim.record import recording

LENGTHS = [9, 1, 14]
SHAPE = {"num_hidden_layers": 3, "experts": EXPERTS}


def gradients(device: str, policy: Recompute) -> list[Tensor]:
    config, model = tiny_model(device=device, **SHAPE)
    adapter = random_adapter(LoraConfig(r=4), config, device=device)
    tokens = random_tokens(config, sum(LENGTHS)).to(device)
    attend = packed_attention(config, LENGTHS, device)
    hidden = model(tokens, attend, AdapterLinear(adapter), policy)
    upstream = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    hidden.backward(upstream.to(device))
    found = [parameter.grad for _name, parameter in adapter.parameters()]
    return [hidden.detach().cpu(), *(g.cpu() for g in found if g is not None)]


@pytest.mark.parametrize("policy", ["none", "gate_up", "block"])
def test_gradients_are_those_of_the_cpu(policy: Recompute) -> None:
    expected = gradients("cpu", policy)
    with taken(EXPERT_LINEAR, ASCEND, "npu"), recording() as record:
        got = gradients("npu", policy)
    assert record.operations["npu::npu_grouped_matmul"] > 20
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_it_answers_as_on_the_cpu() -> None:
    prompts = [random_prompt(number) for number in range(6)]
    answers = []
    for device in ("cpu", "npu"):
        with taken(EXPERT_LINEAR, ASCEND, "npu"):
            engine = Engine(varied_model(device=device, **SHAPE), tokenizer())
            outputs = run_all(engine, [Request(prompt=p, sampling=GREEDY) for p in prompts])
        answers.append([tokens_of(each) for each in outputs])
    assert answers[0] == answers[1]


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_in_few_bits_it_answers_by_ascends_product_as_by_floats(form: Quantization) -> None:
    shape = {"num_hidden_layers": 3, "experts": replace(EXPERTS, moe_intermediate_size=64)}
    prompts = [random_prompt(number) for number in range(6)]
    answers = []
    for variant in (ASCEND, REFERENCE):
        plain = varied_model(device="npu", **shape).to(torch.bfloat16)
        with ascend_variants(), taken(EXPERT_BITS, variant, "npu"):
            model = quantized_tiny(plain, form, keeps_head=False)
            assert (floats_bytes(model) == 0) == (variant == ASCEND)
            with recording() as record:
                outputs = run_all(
                    Engine(model, tokenizer()),
                    [Request(prompt=p, sampling=GREEDY) for p in prompts],
                )
        assert record.operations["npu::npu_grouped_matmul"] > 8
        answers.append([tokens_of(each) for each in outputs])
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("form", [None, "int8"])
@pytest.mark.parametrize(
    "adapters", [(0, 0, 0), (1, 1), (0, 1, 2)], ids=["base", "one adapter", "several"]
)
def test_recorded_steps_have_the_tokens_of_single_operations(
    form: Quantization | None, adapters: tuple[int, ...]
) -> None:
    """Which experts rows go to changes from step to step, and so does what they read."""
    model = varied_model(device="npu", **SHAPE).to(torch.bfloat16)
    if form is not None:
        model = quantized_tiny(model, form, keeps_head=False)
    made = {n: adapter_like(n, model) if n else None for n in set(adapters)}
    asked = [
        Request(
            prompt=random_prompt(number, 3 + 20 * number),
            sampling=replace(GREEDY, max_tokens=5 + 3 * number),
            adapter=made[n],
        )
        for number, n in enumerate(adapters)
    ]
    found = []
    for graph in (ASCEND, REFERENCE):
        with taken(GRAPH, graph, "npu"), recording() as record:
            outputs = run_all(Engine(model, tokenizer()), asked)
        found.append([tokens_of(each) for each in outputs])
        assert (record.operations["npu::graph_replay"] > 3) == (graph == ASCEND)
    assert found[0] == found[1]
