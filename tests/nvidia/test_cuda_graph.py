"""Recorded steps on CUDA: the order that torch demands, and tokens as of single operations."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from danlu.device.variants import CUDA_GRAPH, GROUPED_MM, TRITON
from danlu.engine.engine import Engine
from danlu.engine.request import Request, SamplingSettings
from danlu.model.attention import rotary_table_of
from danlu.model.config import Quantization
from danlu.ops import rotary_table
from danlu.ops.cache.graph import GRAPH, recorder_for
from danlu.ops.cache.paged_store import CACHE
from danlu.ops.expert_products import EXPERT_LINEAR
from danlu.ops.nvidia.cuda_graph import CudaRecorder
from tests.helpers.models.tiny_engine import (
    GREEDY,
    random_adapter,
    random_prompt,
    run_all,
    tokenizer,
    tokens_of,
    varied_model,
)
from tests.helpers.models.tiny_model import EXPERTS, quantized_tiny
from tests.helpers.models.variants import nvidia_variants, taken
from tests.nvidia.starting import CudaGraphs

CPU = torch.device("cpu")


DRAWN = SamplingSettings(temperature=0.9, top_k=20, top_p=0.95, seed=5)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaGraphs:
    stand_in = CudaGraphs()
    stand_in.put_in(monkeypatch)
    return stand_in


def test_it_is_computed_on_a_side_stream_before_it_is_captured(cuda: CudaGraphs) -> None:
    x = torch.ones(3)

    def compute() -> Tensor:
        cuda.note("compute")
        return x * 2

    replay = CudaRecorder()(compute, CPU)
    assert cuda.asked == [
        "default: side waits for default",
        "side: compute",
        "default: default waits for side",
        "capture: begin thread_local",
        "capture: compute",
        "capture: end",
    ]
    x.fill_(5)
    assert replay([1]).tolist() == [10] * 3
    assert cuda.asked[6:] == ["default: replay"]


def test_a_capture_that_fails_leaves_nobody_on_its_stream(cuda: CudaGraphs) -> None:
    def compute() -> Tensor:
        if cuda.streams[-1] == "capture":
            raise RuntimeError("operation not permitted when stream is capturing")
        return torch.ones(1)

    with pytest.raises(RuntimeError, match="not permitted"):
        CudaRecorder()(compute, CPU)
    assert cuda.streams[-1] == "default"


@pytest.mark.parametrize("knows", [False, True], ids=["torch 2.11", "torch 2.13"])
def test_a_capture_that_fails_is_over_for_the_allocator(cuda: CudaGraphs, knows: bool) -> None:
    """Else `torch.cuda.empty_cache` would fail from then on in torch 2.10 and 2.11."""

    def compute() -> Tensor:
        if cuda.streams[-1] == "capture":
            if knows:
                cuda.captures.clear()
            raise RuntimeError("operation not permitted when stream is capturing")
        return torch.ones(1)

    record = CudaRecorder()
    with pytest.raises(RuntimeError, match="not permitted"):
        record(compute, CPU)
    assert not cuda.captures
    assert record(lambda: torch.ones(1), CPU)([1]).tolist() == [1]


def test_an_engines_recordings_share_a_pool_and_another_engine_has_its_own(
    cuda: CudaGraphs,
) -> None:
    x = torch.ones(3)
    mine, other = CudaRecorder(), CudaRecorder()
    replays = [mine(lambda: x + 1, CPU), mine(lambda: x + 2, CPU)]
    theirs = other(lambda: x + 3, CPU)
    first, second, third = cuda.pools
    assert first is second
    assert first is not third
    # What all recordings with a pool have left, none can use any more.
    del replays
    gc.collect()
    again = mine(lambda: x, CPU)
    assert cuda.pools[3] not in (first, third)
    del theirs, again


def test_an_engines_recordings_share_two_streams_of_its_own(cuda: CudaGraphs) -> None:
    """cuBLAS keeps a workspace for each stream, and a graph's end takes that of its stream."""
    mine, other = CudaRecorder(), CudaRecorder()
    replays = [one(lambda: torch.ones(1), CPU) for one in (mine, mine, other, mine)]
    warming, capturing, *others = cuda.made_streams
    assert len(others) == 2
    assert cuda.captured_on == [capturing, capturing, others[1], capturing]
    assert warming is not capturing
    del replays


def test_the_trial_finds_it_right(cuda: CudaGraphs) -> None:
    with taken(CACHE, TRITON):
        assert GRAPH._fault(CUDA_GRAPH, CPU) is None
        assert GRAPH.name_on(CPU) != CUDA_GRAPH
        with taken(GRAPH, CUDA_GRAPH):
            one, two = (recorder_for(torch.float32, CPU) for _ in range(2))
            assert one is not two


def test_the_trial_sees_lengths_that_stay_as_they_were_recorded(
    cuda: CudaGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = CACHE.variants[TRITON]

    def attend(self: object, layer: int, step: object, q: Tensor) -> Tensor:
        frozen = torch.tensor(step.ends, dtype=torch.int32)  # type: ignore[attr-defined]
        return kind.attend(self, layer, replace(step, lengths=frozen), q)  # type: ignore[type-var,arg-type]

    stale = type("Stale", (kind,), {"attend": attend})
    monkeypatch.setitem(CACHE.variants, "stale", stale)
    with taken(CACHE, "stale"):
        assert GRAPH._fault(CUDA_GRAPH, CPU) is not None


def test_the_table_of_angles_that_a_recording_reads_lives_as_long_as_its_engine() -> None:
    """A graph holds no tensor; others of the process may ask for many tables meanwhile."""
    model = varied_model(num_hidden_layers=1)
    engine = Engine(model, tokenizer())
    run_all(engine, [Request(prompt=random_prompt(1, 5), sampling=GREEDY)])
    table = rotary_table_of(model.config, engine.context_tokens, CPU, model.dtype)
    read = [weakref.ref(part) for part in table]
    del table
    for n in range(10):
        rotary_table(1, 8, 1e4 + n, device=CPU, dtype=torch.float32)
    gc.collect()
    assert all(part() is not None for part in read)


def test_tokens_are_those_of_single_operations(cuda: CudaGraphs) -> None:
    """Requests that come and go, with adapters: steps have different numbers of rows and groups.

    One of them draws. Steps that are recorded run ahead of the host, the others do not.
    """
    model = varied_model(num_hidden_layers=1)
    adapters = [None, random_adapter(1, model), random_adapter(2, model)]
    asked = [
        Request(
            prompt=random_prompt(n, 5 + 20 * n),
            sampling=replace(DRAWN if n == 1 else GREEDY, max_tokens=3 + n),
            adapter=adapter,
        )
        for n, adapter in enumerate(adapters)
    ]
    found = []
    with nvidia_variants():
        for variant in (CUDA_GRAPH, "reference"):
            with taken(GRAPH, variant):
                outputs = run_all(Engine(model, tokenizer(), prompt_tokens_per_step=80), asked)
                found.append([tokens_of(one) for one in outputs])
    assert found[0] == found[1]
    assert cuda.asked.count("default: replay") >= 2
    assert len(cuda.pools) >= 2


@pytest.mark.soak
@pytest.mark.parametrize(
    ("form", "variant"), [(None, GROUPED_MM), ("int8", GROUPED_MM), (None, TRITON)]
)
def test_which_experts_compute_is_found_anew_at_each_start(
    cuda: CudaGraphs, form: Quantization | None, variant: str
) -> None:
    """With several adapters on them, too."""
    experts = replace(EXPERTS, mlp_only_layers=())
    model = varied_model(num_hidden_layers=1, experts=experts).to(torch.bfloat16)
    adapters = [None, random_adapter(1, model), random_adapter(2, model)]
    asked = [
        Request(
            prompt=random_prompt(n, 5 + n), sampling=replace(GREEDY, max_tokens=4), adapter=adapter
        )
        for n, adapter in enumerate(adapters)
    ]
    found = []
    with nvidia_variants(), taken(EXPERT_LINEAR, variant):
        if form is not None:
            model = quantized_tiny(model, form, keeps_head=False)
        for variant in (CUDA_GRAPH, "reference"):
            with taken(GRAPH, variant):
                outputs = run_all(Engine(model, tokenizer()), asked)
                found.append([tokens_of(one) for one in outputs])
    assert found[0] == found[1]
    assert cuda.asked.count("default: replay") >= 2
