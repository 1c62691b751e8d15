"""Every layout of the cache against the readable twin: prompts, continued prompts, many at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.ops import Cache
from danlu.ops.cache import key_value_store
from danlu.ops.cache.key_value_store import ByHead, Twin
from danlu.ops.cache.paged_store import CACHE, Paged, step_of
from tests.helpers.models.cache_steps import HEAD_DIM, HEADS, STEPS, answers, scattered_tables

CPU = torch.device("cpu")
SHARE = {torch.float32: 2e-6, torch.bfloat16: 0.02}
both_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"]
)


@both_dtypes
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("kind", [ByHead, Paged])
def test_they_answer_as_the_twin_does(kind: type[Cache], name: str, dtype: torch.dtype) -> None:
    """What is behind a request's end, in its last block, is nobody's: here it is NaN."""
    for got, expected in zip(
        answers(kind, STEPS[name], dtype), answers(Twin, STEPS[name], torch.float32), strict=True
    ):
        assert got.dtype == dtype
        assert got.shape == (len(expected), HEADS * HEAD_DIM)
        torch.testing.assert_close(got.float(), expected, atol=SHARE[dtype], rtol=SHARE[dtype])


@pytest.mark.parametrize("most", [128, 700, 1 << 15])
def test_requests_are_gathered_in_groups(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_value_store, "GATHERED_TOKENS", most)
    ends = [5, 130, 7, 300, 1]
    step = step_of(scattered_tables(ends, 128), [end - 1 for end in ends], ends, 128, CPU)
    covered = [n for group in step.groups for n in range(group.rows.start, group.rows.stop)]
    assert covered == list(range(len(ends)))
    for group in step.groups:
        assert group.blocks.shape[0] == 1 or group.beyond.numel() <= most
    assert len(step.groups) == {128: 5, 700: 4, 1 << 15: 1}[most]
    torch.testing.assert_close(
        answers(Paged, STEPS["many decode"], torch.float32)[-1],
        answers(Twin, STEPS["many decode"], torch.float32)[-1],
    )


def test_another_layout_that_mixes_requests_is_switched_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Mixing(ByHead):
        def attend(self, layer: int, step: key_value_store.CacheStep, q: Tensor) -> Tensor:
            return super().attend(layer, step, q).flip(0)

    monkeypatch.setattr(CACHE, "_chosen", {})
    monkeypatch.setattr(CACHE, "off", {})
    both = {"native": Mixing, "by_head": Mixing}
    monkeypatch.setattr(CACHE, "variants", {**CACHE.variants, **both})
    assert CACHE.name_on(CPU) == "paged"
    names = [fault.partition(": ")[0] for fault in CACHE.off["cpu"]]
    assert names == ["cache=native", "cache=by_head"]
