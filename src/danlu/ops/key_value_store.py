"""The store of keys and values: how it lies in memory, and writing into it.

Everywhere it is seen as [layers, 2 (keys, values), kv_heads, S, head_dim], S slots. On the CPU it
lies so: a head's tokens together, and attention over 4,096 tokens runs twice as fast as with S
before kv_heads. On accelerators a slot's heads lie together, so that writing one touches nothing
else: Ascend's `index_copy_` along any dimension but the first transposes the whole tensor there and
back (ops-nn's sources of August 2026).
"""

from __future__ import annotations

import torch
from torch import Tensor


def empty_cache(
    layers: int,
    kv_heads: int,
    num_slots: int,
    head_dim: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Allocate a store; not filled: on the CPU memory is touched when a slot is first written."""
    if device.type == "cpu":
        return torch.empty(layers, 2, kv_heads, num_slots, head_dim, device=device, dtype=dtype)
    store = torch.empty(layers, 2, num_slots, kv_heads, head_dim, device=device, dtype=dtype)
    return store.transpose(2, 3)


def append_to_cache(store: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
    """Write keys and values [T, kv_heads, head_dim] of T tokens into their slots [T].

    store: of one layer, [2, kv_heads, S, head_dim].
    """
    for part, new in zip(store, (k, v), strict=True):
        by_slot = part.transpose(0, 1)
        if by_slot.is_contiguous():
            by_slot.index_copy_(0, slots, new)
        else:
            part.index_copy_(1, slots, new.transpose(0, 1))
