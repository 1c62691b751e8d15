"""torch's attention, as it is called for one segment."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.ops import attention
from danlu.ops.attention import Segments, attend, each_segment


@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (1, 7), (3, 7), (1, 1)])
def test_a_card_sees_as_many_heads_of_keys_as_of_queries(
    monkeypatch: pytest.MonkeyPatch, queries: int, keys: int
) -> None:
    """On a V100 or T4, and in fp32, torch has no kernel for fewer: it would keep all scores."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, queries, 8), (2, keys, 8), (2, keys, 8))
    q, k, v = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    upstream = torch.randn(shapes[0], generator=generator)
    expected = attend(q, k, v)
    gradients = torch.autograd.grad(expected, (q, k, v), upstream)

    compute = F.scaled_dot_product_attention
    seen: list[tuple[tuple[Tensor, ...], dict[str, Any]]] = []

    def watched(*parts: Tensor, **named: Any) -> Tensor:
        seen.append((parts, named))
        return compute(*parts, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(attention, "_splits_heads", lambda _device: True)
    found = attend(q, k, v)
    ((parts, named),) = seen
    assert [part.shape[:2] for part in parts] == [(2, 3)] * 3
    assert not named.get("enable_gqa")
    # Where they lie: nothing is copied.
    assert [part.data_ptr() for part in parts] == [part.data_ptr() for part in (q, k, v)]
    torch.testing.assert_close(found, expected)
    again = torch.autograd.grad(found, (q, k, v), upstream)
    for one, other in zip(again, gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_only_cards_split_the_heads() -> None:
    kinds = {kind: attention._splits_heads(torch.device(kind)) for kind in ("cpu", "cuda", "meta")}
    assert kinds == {"cpu": False, "cuda": True, "meta": False}


def test_heads_lie_as_a_model_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token's heads side by side, values beside what they were projected with."""
    generator = torch.Generator().manual_seed(1)
    q, merged = (torch.randn(9, heads, 16, generator=generator) for heads in (4, 8))
    segments = Segments.of([5, 4], "cpu")
    arguments = q, merged[:, 4:6], merged[:, 6:], segments
    expected = each_segment(*arguments)
    monkeypatch.setattr(attention, "_splits_heads", lambda _device: True)
    torch.testing.assert_close(each_segment(*arguments), expected)
