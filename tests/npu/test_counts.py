"""What a decoding step costs a card's host: operations that it starts, waits, copies.

Before the cache took the whole batch a layer started 65, 115 and 507 operations for 1, 8 and 64
requests, 26 more with an adapter, and attended to each of them in turn.
"""

from __future__ import annotations

import pytest
import torch

from danlu.engine.engine import Engine
from danlu.engine.request import Request, SamplingSettings
from danlu.ops.product import RESIDUAL
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
    with taken(RESIDUAL, "in_product", "npu"):  # as a card does by itself
        engine.step()
        with recording() as record:
            engine.step()
    return record


@pytest.mark.parametrize(
    ("count", "sampling", "with_adapter"),
    [
        *((count, sampling, False) for count in (1, 8, 64) for sampling in (GREEDY, QWEN3)),
        *((count, GREEDY, True) for count in (1, 64)),
    ],
)
def test_a_step_costs_the_same_for_one_request_and_for_many(
    count: int, sampling: SamplingSettings, with_adapter: bool
) -> None:
    one, two = (
        decoding_step(layers, count, sampling, with_adapter=with_adapter) for layers in (1, 2)
    )
    in_a_layer = two.operations.total() - one.operations.total()
    assert in_a_layer <= 52 + 26 * with_adapter
    # Embeddings, angles, groups of requests, head, the largest logits.
    assert one.operations.total() - in_a_layer <= 24
    for record in (one, two):
        assert record.waits.total() == 1, record.waits
        assert record.uploads.total() == 1, record.uploads
        assert record.pageable.total() == 0, record.pageable
