"""The ladder ends, every rung needs less, and none comes twice; for all models and any data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.tokens.examples import Example
from danlu.data.tokens.pack import Batch, pack
from danlu.device.datasheets import CATALOGUE, cpu_facts
from danlu.model.recompute import POLICIES
from danlu.model.sizes import published_config, published_names
from danlu.plan.job import BatchShape, Job, StepPlan
from danlu.plan.memory import memory_of
from danlu.train.fit.ladder import LEAST_CHUNK_ROWS, next_rung

ALL_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CPU = cpu_facts(description="", memory_bytes=2**34, threads=2, has_fast_bf16=True)
CARD = CATALOGUE["rtx-4090-24g"]


def examples(lengths: list[int]) -> list[Example]:
    return [
        Example(
            tokens=np.zeros(length, dtype=np.int32),
            supervised=np.arange(length) >= length // 2,
            row=row,
            part=0,
        )
        for row, length in enumerate(lengths)
    ]


def shape(batch: Batch) -> BatchShape:
    return BatchShape(
        tokens=batch.num_tokens,
        targets=batch.num_targets,
        squares=sum(length**2 for length in batch.segment_lengths),
        segments=len(batch.segment_lengths),
    )


lengths = st.lists(st.integers(2, 3000), min_size=1, max_size=20)
arithmetics = st.builds(
    StepPlan,
    micro_batch_tokens=st.integers(1, 60_000),
    chunk_rows=st.sampled_from([1, 32, 64, 100, 256, 1024]),
    recompute=st.sampled_from(POLICIES),
)


@given(
    name=st.sampled_from(published_names()),
    lengths=lengths,
    first=arithmetics,
    on_card=st.booleans(),
    trains_all=st.booleans(),
)
def test_every_rung_needs_less_and_the_ladder_ends(
    name: str, lengths: list[int], first: StepPlan, on_card: bool, trains_all: bool
) -> None:
    config = published_config(name)
    assert config is not None
    ranks = None if trains_all else dict.fromkeys(ALL_LAYERS, 8)
    job = Job(config=config, number_bytes=2, ranks=ranks)
    device = CARD if on_card else CPU
    policies = [policy for policy in POLICIES if on_card or policy != "offload"]

    def needed(step_plan: StepPlan) -> int:
        packed = pack(examples(lengths), step_plan.micro_batch_tokens)
        return max(memory_of(job, step_plan, shape(batch), device).total for batch in packed)

    way, seen = first, {first}
    while True:
        packed = pack(examples(lengths), way.micro_batch_tokens)
        rung = next_rung(way, packed, policies=policies)
        if rung is None:
            break
        assert rung not in seen
        only_the_chunk = replace(rung, chunk_rows=way.chunk_rows) == way
        assert needed(rung) <= needed(way) if only_the_chunk else needed(rung) < needed(way)
        seen.add(rung)
        way = rung
    # At the end nothing is left: single examples, the last policy, small chunks.
    assert max(batch.num_tokens for batch in packed) == max(lengths)
    assert POLICIES.index(way.recompute) >= POLICIES.index(policies[-1])
    targets = max(batch.num_targets for batch in packed)
    assert min(way.chunk_rows, targets) <= LEAST_CHUNK_ROWS


@given(lengths=lengths, first=arithmetics)
def test_an_evaluation_keeps_the_policy(lengths: list[int], first: StepPlan) -> None:
    way = first
    while rung := next_rung(way, pack(examples(lengths), way.micro_batch_tokens), policies=[]):
        assert rung.recompute == first.recompute
        way = rung


def test_the_order_of_the_rungs() -> None:
    rows = examples([100, 60, 60, 60])
    way: StepPlan | None = StepPlan(micro_batch_tokens=4096, chunk_rows=1024, recompute="none")
    rungs = []
    while way := next_rung(way, pack(rows, way.micro_batch_tokens), policies=POLICIES):
        rungs.append((way.micro_batch_tokens, way.chunk_rows, way.recompute))
    assert rungs == [
        (140, 70, "none"),
        (100, 64, "none"),
        (100, 64, "selective"),
        (100, 64, "gate_up"),
        (100, 64, "block"),
        (100, 64, "offload"),
    ]
