"""The cache of the CPU with kernels for steps that only decode (native/kernels/decoding.cpp)."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor

from danlu.ops.cache.key_value_store import ByHead, CacheStep
from danlu.ops.native.library import KernelCall, Kind, Pointer, Size, library

# Numbers that the kernel adds up together.
_WIDTH = 16


class _Append(KernelCall):
    kind = Kind.APPEND
    _fields_ = (
        *((name, Pointer) for name in ("k", "v", "keys", "values", "slots")),
        *((name, Size) for name in ("rows", "heads", "size", "k_stride", "v_stride", "num_slots")),
    )


class _Attend(KernelCall):
    kind = Kind.ATTEND_CACHED
    _fields_ = (
        *((name, Pointer) for name in ("q", "keys", "values", "out", "table", "lengths")),
        *((name, Size) for name in ("rows", "heads", "kv_heads", "size", "q_stride")),
        *((name, Size) for name in ("num_slots", "block_tokens", "table_stride")),
    )


class NativeCache(ByHead):
    """`ByHead`, read by kernels of ours where every request has one new token."""

    takes_tables = True

    @classmethod
    def replays(cls, dtype: torch.dtype) -> bool:
        """Whether a decoding step can be recorded: in bf16."""
        return dtype == torch.bfloat16

    def append(self, layer: int, step: CacheStep, k: Tensor, v: Tensor) -> None:
        """Write into the slots."""
        native = library()
        if not self._suits(k):
            super().append(layer, step, k, v)
            return
        k, v = (part if part[0].is_contiguous() else part.contiguous() for part in (k, v))
        keys, values = self._store[layer]
        heads, num_slots, size = keys.shape
        native.run(
            _Append(
                k=k,
                v=v,
                keys=keys,
                values=values,
                slots=step.slots,
                rows=len(k),
                heads=heads,
                size=size,
                k_stride=k.stride(0),
                v_stride=v.stride(0),
                num_slots=num_slots,
            ),
        )

    def attend(self, layer: int, step: CacheStep, q: Tensor) -> Tensor:
        """Attend with all requests at once that have one new token, and with each of the others.

        A token is computed by the same kernel whatever else is in its step, so that a request says
        alone what it says among others.
        """
        if not self._suits(q):
            return super().attend(layer, step, q)
        if step.is_decoding:
            return self._attend_rows(layer, step, slice(0, len(q)), q)
        outputs, row, request = [], 0, 0
        for is_one, counts in groupby(step.counts, key=lambda count: count == 1):
            sizes = list(counts)
            requests, some = slice(request, request + len(sizes)), q[row : row + sum(sizes)]
            if is_one:
                outputs.append(self._attend_rows(layer, step, requests, some))
            else:
                outputs += self._attend_each(layer, some.split(sizes), step.runs[requests])
            request, row = requests.stop, row + len(some)
        return torch.cat(outputs)

    def _attend_rows(self, layer: int, step: CacheStep, requests: slice, q: Tensor) -> Tensor:
        """Attend with one query of each of these requests."""
        q = q if q[0].is_contiguous() else q.contiguous()
        keys, values = self._store[layer]
        kv_heads, num_slots, size = keys.shape
        out = q.new_empty(len(q), q.shape[1] * size)
        table = step.block_table[requests]
        library().run(
            _Attend(
                q=q,
                keys=keys,
                values=values,
                out=out,
                table=table,
                lengths=step.lengths[requests],
                rows=len(q),
                heads=q.shape[1],
                kv_heads=kv_heads,
                size=size,
                q_stride=q.stride(0),
                num_slots=num_slots,
                block_tokens=self.block_tokens,
                table_stride=table.stride(0),
            )
        )
        return out

    def _suits(self, x: Tensor) -> bool:
        return x.dtype == torch.bfloat16 and x.shape[2] % _WIDTH == 0
