"""The engine on the NPU: the CPU's tokens, greedy and drawn, with several adapters in a batch."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from danlu.engine.engine import Engine
from danlu.engine.request import Request, SamplingSettings
from danlu.errors import CapacityError
from danlu.model.qwen3 import Qwen3
from tests.helpers.models.tiny_engine import (
    GREEDY,
    random_adapter,
    random_prompt,
    run_all,
    tokenizer,
    tokens_of,
    varied_model,
)
from tests.sim.memory import MEMORY

DRAWN = SamplingSettings(
    temperature=1.5,
    top_k=50,
    top_p=0.95,
    min_p=0.01,
    repetition_penalty=1.2,
    seed=7,
    max_tokens=12,
)
samplings = pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])


@lru_cache(maxsize=2)
def model(device: str) -> Qwen3:
    return varied_model(device=device)


def answers(subject: Qwen3, sampling: SamplingSettings) -> list[list[int]]:
    """Eight prompts in one engine, by the plain model and two adapters."""
    adapters = [None, random_adapter(1, subject), random_adapter(2, subject)]
    requests = [
        Request(prompt=random_prompt(n), sampling=sampling, adapter=adapters[n % 3])
        for n in range(8)
    ]
    engine = Engine(subject, tokenizer(), prompt_tokens_per_step=50)
    return [tokens_of(outputs) for outputs in run_all(engine, requests)]


@samplings
def test_tokens_are_those_of_the_cpu(sampling: SamplingSettings) -> None:
    on_cpu = answers(model("cpu"), sampling)
    assert answers(model("npu"), sampling) == on_cpu
    assert {len(tokens) for tokens in on_cpu} == {12}
    assert len({tuple(tokens) for tokens in on_cpu}) == len(on_cpu)


def test_tokens_in_bf16_are_those_of_the_cpu() -> None:
    on_cpu, on_npu = (
        answers(varied_model(device=device).to(torch.bfloat16), DRAWN) for device in ("cpu", "npu")
    )
    assert on_npu == on_cpu


def test_writing_a_token_touches_its_own_slot_only() -> None:
    """Along another dimension than the first an Ascend would copy the whole store for it."""
    written: list[tuple[int, ...]] = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
        ) -> Any:
            if "index_copy" in func.__name__:
                written.append((args[1], args[0].is_contiguous()))
            return func(*args, **(kwargs or {}))

    engine = Engine(model("npu"), tokenizer())
    engine.add(Request(prompt=random_prompt(1), sampling=GREEDY), [].append)
    with Watching():
        engine.step()
    assert set(written) == {(0, True)}


def test_memory_is_given_back() -> None:
    subject = model("npu")
    engine = Engine(subject, tokenizer())
    gc.collect()
    before = torch.npu.memory_allocated()  # the cache is there already
    requests = [Request(prompt=random_prompt(n), sampling=GREEDY) for n in range(4)]
    ids = [engine.add(request, [].append) for request in requests]
    engine.step()
    assert engine.figures().cache_usage > 0
    engine.abort(ids[0])
    while engine.num_unfinished:
        engine.step()
    gc.collect()
    assert engine.figures().cache_usage == 0
    assert torch.npu.memory_allocated() == before


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 0.9])
def test_it_starts_whatever_share_of_the_card_the_weights_take(share: float) -> None:
    """The cache is sized by what the weights leave, not by what the card has."""
    wide = {"hidden_size": 256, "intermediate_size": 2048}
    subject = varied_model(device="npu", **wide)
    gc.collect()
    taken = torch.npu.memory_allocated()
    with MEMORY.limited_to(int(taken / share)):
        engine = Engine(subject, tokenizer(), prompt_tokens_per_step=8, num_requests=1)
        assert torch.npu.memory_allocated() - taken <= 0.7 * (MEMORY.budget - taken)
        request = Request(prompt=random_prompt(3), sampling=GREEDY)
        [outputs] = run_all(engine, [request])
    on_cpu = Engine(varied_model(**wide), tokenizer(), prompt_tokens_per_step=8, num_requests=1)
    assert [tokens_of(outputs)] == [tokens_of(x) for x in run_all(on_cpu, [request])]


@pytest.mark.parametrize("settings", [{}, {"cache_tokens": 100_000}])
def test_a_card_that_the_weights_fill_is_said(settings: dict[str, int]) -> None:
    subject = model("npu")
    gc.collect()
    with (
        MEMORY.limited_to(int(torch.npu.memory_allocated() * 1.01)),
        pytest.raises(CapacityError, match="cache of keys and values"),
    ):
        Engine(subject, tokenizer(), **settings)
