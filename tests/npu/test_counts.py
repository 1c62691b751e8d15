"""What a decoding step costs a card's host: operations that it starts, waits, copies.

Before the cache took the whole batch a layer started 65, 115 and 507 operations for 1, 8 and 64
requests, 26 more with an adapter, and attended to each of them in turn. With it 54, with fused
kernels 14, and 12 more with any number of adapters; recorded, one for its lengths
(test_graphs.py). In training a layer started 210 (LoRA) and 130 (all weights), with fused kernels
77 and 42.

A start is a kernel, but for `addmm`: two where nothing is added. With a matrix to add and 16-bit
numbers it is four (ops-nn, aclnn_addmm.cpp, November 2026): the product in fp32, the matrix in
fp32, their sum, the sum rounded; they move 14 numbers of 16 bits for each of the sum. An addition
behind the product moves 4 with the product's own, and the norm that reads the sum 2 more; a norm
that adds, 5 in all. So a layer that adds in its norms is 14 kernels for a token, 16 if it added
behind the products, and would be 20 with `addmm`.
"""

from __future__ import annotations

import pytest
import torch

from danlu.device.datasheets import CATALOGUE
from danlu.engine.engine import Engine
from danlu.engine.request import Request, SamplingSettings
from danlu.lora.adapter import LoraConfig
from danlu.model.recompute import POLICIES, Recompute
from danlu.ops.cache.graph import GRAPH
from tests.helpers.models.counting import counted, moved_by_token, planned
from tests.helpers.models.tiny_engine import (
    GREEDY,
    random_adapter,
    random_prompt,
    tokenizer,
    varied_model,
)
from tests.helpers.models.variants import taken
from tests.sim.record import Record, recording

# As Qwen3's own files have it.
QWEN3 = SamplingSettings(temperature=0.6, top_k=20, top_p=0.95, seed=1, max_tokens=12)


def decoding_step(
    layers: int, count: int, sampling: SamplingSettings, *, with_adapter: bool
) -> Record:
    """The second step of some requests, in bf16: each gets a token."""
    model = varied_model(device="npu", num_hidden_layers=layers).to(torch.bfloat16)
    adapter = random_adapter(1, model) if with_adapter else None
    engine = Engine(model, tokenizer(), prompt_tokens_per_step=10_000)
    for n in range(count):
        request = Request(prompt=random_prompt(n), sampling=sampling, adapter=adapter)
        engine.add(request, [].append)
    engine.step()
    with recording() as record:
        engine.step()
    return record


CASES = [
    *((count, sampling, False) for count in (1, 8, 64) for sampling in (GREEDY, QWEN3)),
    *((count, GREEDY, True) for count in (1, 64)),
]


def check(
    count: int, sampling: SamplingSettings, with_adapter: bool, in_a_layer: int, besides: int
) -> None:
    one, two = (
        decoding_step(layers, count, sampling, with_adapter=with_adapter) for layers in (1, 2)
    )
    found = two.operations.total() - one.operations.total()
    assert found <= in_a_layer, two.operations - one.operations
    assert one.operations.total() - found <= besides
    for record in (one, two):
        assert record.waits.total() == 1, record.waits
        assert record.uploads.total() == 1, record.uploads
        assert record.pageable.total() == 0, record.pageable


@pytest.mark.parametrize(("count", "sampling", "with_adapter"), CASES)
def test_a_step_costs_the_same_for_one_request_and_for_many(
    count: int, sampling: SamplingSettings, with_adapter: bool
) -> None:
    # Besides the layers: embeddings, angles, groups of requests, head, the largest logits.
    check(count, sampling, with_adapter, 54 + 22 * with_adapter, 24)


@pytest.mark.parametrize(("count", "sampling", "with_adapter"), CASES)
def test_fused_a_layer_starts_fourteen(
    count: int, sampling: SamplingSettings, with_adapter: bool, fused: None
) -> None:
    with taken(GRAPH, "reference", "npu"):
        # Three a projection, for one adapter and for several.
        check(count, sampling, with_adapter, 14 + 12 * with_adapter, 14)


@pytest.mark.parametrize("with_adapter", [False, True])
def test_fused_norms_add_and_products_do_not(with_adapter: bool, fused: None) -> None:
    """But for the first norm, to which nothing has been added yet, and the head's."""
    with taken(GRAPH, "reference", "npu"):
        record = decoding_step(3, 1, GREEDY, with_adapter=with_adapter)
    assert record.operations["npu::npu_add_rms_norm"] == 5
    assert not [name for name in record.operations if "addmm" in name]


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "offload"])
@pytest.mark.parametrize("lora", [LoraConfig(r=4), None], ids=["lora", "full"])
def test_fused_a_training_step_starts_and_moves_what_was_planned(
    policy: Recompute, lora: LoraConfig | None, fused: None
) -> None:
    """Offloading is `block` with copies to the host, which the plan counts apart."""
    batch = [8] * 4
    counted(2, batch, policy, lora, "npu")  # what is made once does not count
    config, few, _bytes = counted(2, batch, policy, lora, "npu")
    _config, many, _bytes = counted(4, batch, policy, lora, "npu")
    by_token = moved_by_token(policy, lora, "npu", with_narrow=True)
    launches, numbers = planned(config, policy, lora, CATALOGUE["ascend-910b-64g"])
    assert launches == pytest.approx((many.total() - few.total()) / 2, rel=1e-6)
    assert numbers == pytest.approx(by_token, rel=0.05)
