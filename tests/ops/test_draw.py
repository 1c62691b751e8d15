"""Tokens chosen on the device: those that the host's sampler would choose, row by row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danlu.engine.request import SamplingSettings
from danlu.engine.sampling.logits import candidates
from danlu.ops.sampling.draw import DRAW, MOST_DRAWN, Draw, draw, draws_rows

TWIN = DRAW.variants["reference"]
CPU = torch.device("cpu")


def asked(rows: list[Draw]) -> Tensor:
    return torch.tensor(rows).t().contiguous()


def logits_of(seed: int, rows: int, size: int, scale: float) -> Tensor:
    """As a model gives them: of bf16, so that some are alike."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, size, generator=generator) * scale).bfloat16()


def by_the_host(row: Tensor, wanted: Draw) -> int:
    """What `engine/sampling` does of a row: its candidates, and the draw in float64."""
    if wanted.top_k == 0:
        return int(row.argmax())
    sampling = SamplingSettings(
        temperature=wanted.temperature,
        top_k=wanted.top_k,
        top_p=wanted.top_p,
        min_p=wanted.min_p,
    )
    tokens, scores = candidates(row.float(), sampling)
    cumulated = scores.double().softmax(0).cumsum(0)
    place = int(torch.searchsorted(cumulated, wanted.chance * cumulated[-1], right=True))
    return int(tokens[min(place, len(tokens) - 1)])


ANY_DRAW = st.builds(
    Draw,
    temperature=st.sampled_from([0.3, 0.6, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 20, MOST_DRAWN]),
    top_p=st.sampled_from([0.01, 0.5, 0.8, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    # Not next to an edge between two candidates, where float32 may round to the other side.
    chance=st.integers(0, 996).map(lambda n: n / 997),
)


@settings(max_examples=300)
@given(
    rows=st.lists(ANY_DRAW, min_size=1, max_size=6),
    seed=st.integers(0, 10_000),
    size=st.sampled_from([3, 64, 65, 346, 4000]),
    scale=st.sampled_from([2.0, 5.0]),
)
def test_a_row_gets_the_hosts_token(rows: list[Draw], seed: int, size: int, scale: float) -> None:
    logits = logits_of(seed, len(rows), size, scale)
    ids, is_finite = TWIN(logits, asked(rows))
    assert ids.dtype == torch.int32
    assert is_finite.tolist() == [1] * len(rows)
    largest = logits.float().topk(min(MOST_DRAWN, size)).values[:, -1]
    for row, wanted in enumerate(rows):
        # Of more alike than are looked at the host draws from all, the device from some.
        values = logits[row].float()
        last = values.topk(max(1, min(int(wanted.top_k), size))).values[-1]
        if last > largest[row] or size <= MOST_DRAWN:
            assert int(ids[row]) == by_the_host(logits[row], wanted), (row, wanted)


def test_frequencies_follow_the_probabilities() -> None:
    logits = torch.tensor([2.0, -1.0, 0.0, 1.0, -30.0]).expand(997, -1).contiguous()
    chances = [Draw(temperature=0.8, top_k=5, chance=n / 997) for n in range(997)]
    counts = torch.bincount(TWIN(logits, asked(chances))[0], minlength=5)
    assert torch.allclose(counts / 997, (logits[0] / 0.8).softmax(0), atol=0.002)


@pytest.mark.parametrize("chance", [0.0, 0.999999, 1.0 - 2**-24])
def test_at_the_edges_what_is_drawn_is_possible(chance: float) -> None:
    logits = torch.full((1, 200), -torch.inf)
    logits[0, [7, 120]] = torch.tensor([1.0, 1.0])
    ids, is_finite = TWIN(logits, asked([Draw(top_k=64, chance=chance)]))
    assert int(ids[0]) == (7 if chance == 0.0 else 120)
    assert int(is_finite[0]) == 1


@pytest.mark.parametrize("fault", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_is_named_and_gives_an_id_of_the_vocabulary(fault: float) -> None:
    for wanted in (Draw(), Draw(0.6, 20, 0.95, 0.0, 0.7)):
        logits = logits_of(0, 3, 300, 2.0)
        logits[1, 200:] = fault
        ids, is_finite = TWIN(logits, asked([wanted] * 3))
        assert is_finite.tolist() == [1, 0, 1]
        assert 0 <= int(ids[1]) < 300
        others = TWIN(logits[[0, 2]], asked([wanted] * 2))[0]
        assert ids[[0, 2]].tolist() == others.tolist()
    impossible = torch.full((1, 300), -torch.inf)
    assert TWIN(impossible, asked([Draw(top_k=5)]))[1].tolist() == [0]


def test_the_cpu_is_its_own_host() -> None:
    assert not draws_rows(CPU)
    logits = logits_of(1, 2, 100, 3.0)
    assert torch.equal(draw(logits, asked([Draw()] * 2))[0].long(), logits.argmax(-1))
