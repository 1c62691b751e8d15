"""One call for a whole packed batch: what is asked of torch's kernel, which is not here."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from danlu.device.variants import FLASH, attention_facts
from danlu.ops import Segments
from danlu.ops.attention import ATTENTION
from tests.helpers.models.counting import Counting

LENGTHS = (5, 1, 18)


def packed(device: str, dtype: torch.dtype = torch.bfloat16) -> list[Any]:
    q, merged = (
        torch.ones(sum(LENGTHS), heads, 16, device=device, dtype=dtype, requires_grad=True)
        for heads in (4, 8)
    )
    offsets = torch.tensor([0, 5, 6, 24], dtype=torch.int32, device=device)
    return [q, merged[:, 4:6], merged[:, 6:], Segments(lengths=LENGTHS, offsets=offsets)]


def test_all_segments_are_one_call_each_way() -> None:
    q, k, v, segments = packed("meta")
    with Counting() as counting:
        out = ATTENTION.variants[FLASH](q, k, v, segments)
        assert out.shape == (24, 64)
        gradients = torch.autograd.grad(out, [q, k, v], torch.empty_like(out))
    assert [part.shape for part in gradients] == [q.shape, k.shape, v.shape]
    attention = {name: n for name, n in counting.started.items() if "attention" in name}
    assert attention == {"_flash_attention_forward": 1, "_flash_attention_backward": 1}
    assert counting.started.total() == 2


def test_it_is_causal_without_dropout_from_where_segments_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, k, v, segments = packed("cpu")
    schema = torch.ops.aten._flash_attention_forward.default._schema
    seen = []

    def kernel(*arguments: Any, **named: Any) -> list[Any]:
        seen.append({a.name: b for a, b in zip(schema.arguments, arguments, strict=False)} | named)
        return [arguments[0]]

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", kernel)
    ATTENTION.variants[FLASH](q, k, v, segments)
    (asked,) = seen
    assert asked["query"] is q
    assert asked["cum_seq_q"] is asked["cum_seq_k"] is segments.offsets
    assert (asked["max_q"], asked["max_k"], asked["scale"]) == (18, 18, 0.25)
    assert (asked["dropout_p"], asked["is_causal"]) == (0.0, True)


def test_fp32_is_attended_to_without_it() -> None:
    arguments = packed("cpu", torch.float32)
    expected = ATTENTION.variants["sdpa"](*arguments)
    assert torch.equal(ATTENTION.variants[FLASH](*arguments), expected)


def test_the_plan_knows_that_it_is_one_call() -> None:
    assert not attention_facts("cuda").by_segment
    assert attention_facts("cuda", "sdpa").by_segment
