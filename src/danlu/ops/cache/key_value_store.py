"""The cache of keys and values: how it lies in memory, writing into it, attending to it.

A cache has blocks of `block_tokens` slots; which request uses which block, others decide. The
layout is the device's: on the CPU a head's tokens together, read where they lie; on accelerators a
block's, as their kernels take it (`paged_store.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from danlu.device.variants import NATIVE
from danlu.ops import reference
from danlu.ops.attention import ATTENTION, attend

# Tokens whose keys and values are copied at once for a group of requests: with 8 heads of 128
# numbers in bf16 67 MB of keys, and as many of values.
GATHERED_TOKENS = 1 << 15
# Variants of attention that take fp32 for what lies between queries and outputs.
_SUMS_IN_FP32 = ("float32", NATIVE)


class RequestGroup(NamedTuple):
    """Requests of a step that are attended to at once.

    rows: of the step. blocks: their blocks, [N, W]. beyond: bool [N, W * block_tokens], the slots
    behind a request's last token.
    """

    rows: slice
    blocks: Tensor
    beyond: Tensor


@dataclass(frozen=True, kw_only=True)
class CacheStep:
    """One step of N requests with T new tokens, as a cache needs it.

    On the host: counts, the new tokens of each request; ends, how many it then has in the cache;
    tables, its blocks. On the device: slots [T] int32, where the new ones go; lengths [N] int32,
    the same as ends; block_table [N, W] int32, the same as tables where a cache takes them; offsets
    [N + 1] int32, where each request's new tokens begin, and T.
    """

    counts: Sequence[int]
    ends: Sequence[int]
    tables: Sequence[Sequence[int]]
    block_tokens: int
    slots: Tensor
    block_table: Tensor
    lengths: Tensor
    offsets: Tensor

    @cached_property
    def wide_slots(self) -> Tensor:
        """The slots in int64, as torch's own operations take them."""
        return self.slots.long()

    @cached_property
    def runs(self) -> list[list[tuple[int, int]]]:
        """The slots [start, end) of each request's tokens, in order; neighbours joined."""
        return [
            _runs(table, end, self.block_tokens)
            for table, end in zip(self.tables, self.ends, strict=True)
        ]

    @cached_property
    def groups(self) -> list[RequestGroup]:
        """The requests, in groups whose tokens can be copied at once."""
        widths = [-(-end // self.block_tokens) for end in self.ends]
        most = GATHERED_TOKENS // self.block_tokens
        groups = []
        start = 0
        for stop in range(1, len(widths) + 1):
            more = widths[start : stop + 1]
            if stop == len(widths) or len(more) * max(more) > most:
                groups.append(self._group(slice(start, stop), max(widths[start:stop])))
                start = stop
        return groups

    def _group(self, rows: slice, width: int) -> RequestGroup:
        places = torch.arange(width * self.block_tokens, device=self.lengths.device)
        beyond = places >= self.lengths[rows, None]
        return RequestGroup(rows, self.block_table[rows, :width], beyond)

    @property
    def is_decoding(self) -> bool:
        """Whether every request has one new token."""
        return all(count == 1 for count in self.counts)


class Cache(ABC):
    """Keys and values of every layer. Not filled: on the CPU memory is touched when it is used.

    block_tokens: slots of a block. gathered_tokens: the most of which attention copies keys and
    values. takes_tables: it reads a step's block tables on the device. pads_rows: steps that only
    decode shall have one of few numbers of rows, so that a graph of them can be captured.
    """

    block_tokens: ClassVar[int]
    gathered_tokens: ClassVar[int] = 0
    takes_tables: ClassVar[bool] = False
    pads_rows: ClassVar[bool] = False

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        num_blocks: int,
        head_dim: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = self._shape(kv_heads, num_blocks, head_dim)
        self._store = torch.empty(layers, 2, *shape, device=device, dtype=dtype)

    @classmethod
    @abstractmethod
    def _shape(cls, kv_heads: int, num_blocks: int, head_dim: int) -> tuple[int, ...]:
        """Return how a layer's keys lie in memory; its values do likewise."""

    @classmethod
    def replays(cls, dtype: torch.dtype) -> bool:
        """Whether a decoding step can be recorded: of the host it takes lengths only."""
        return False

    @abstractmethod
    def append(self, layer: int, step: CacheStep, k: Tensor, v: Tensor) -> None:
        """Write keys and values [T, kv_heads, head_dim] of the step's tokens into their slots."""

    @abstractmethod
    def attend(self, layer: int, step: CacheStep, q: Tensor) -> Tensor:
        """Attend with every new token to its request's tokens up to itself.

        q: [T, heads, head_dim] -> [T, heads * head_dim].
        """


class ByHead(Cache):
    """[layers, 2 (keys, values), kv_heads, S, head_dim] with S slots.

    Attention over 4,096 tokens runs twice as fast on the CPU as with S before kv_heads.
    """

    block_tokens = 16

    @classmethod
    def _shape(cls, kv_heads: int, num_blocks: int, head_dim: int) -> tuple[int, ...]:
        return kv_heads, num_blocks * cls.block_tokens, head_dim

    def append(self, layer: int, step: CacheStep, k: Tensor, v: Tensor) -> None:
        """Write into the slots."""
        for part, new in zip(self._store[layer], (k, v), strict=True):
            part.index_copy_(1, step.wide_slots, new.transpose(0, 1))

    def attend(self, layer: int, step: CacheStep, q: Tensor) -> Tensor:
        """Attend request by request."""
        outputs = self._attend_each(layer, q.split(list(step.counts)), step.runs)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _attend_each(
        self, layer: int, parts: Sequence[Tensor], all_runs: Sequence[Sequence[tuple[int, int]]]
    ) -> list[Tensor]:
        """Attend with each request's queries to the slots in its runs."""
        keys, values = self._store[layer]
        return [
            self._attend(part, keys, values, runs)
            for part, runs in zip(parts, all_runs, strict=True)
        ]

    @staticmethod
    def _attend(q: Tensor, keys: Tensor, values: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        if len(q) == 1:
            return _attend_once(q[0], keys, values, runs)
        return attend_new(q, *(_joined(store, runs) for store in (keys, values)))


class Twin(Cache):
    """The readable twin: [layers, 2, S, kv_heads, head_dim], attention as its formula has it."""

    block_tokens = 16

    @classmethod
    def _shape(cls, kv_heads: int, num_blocks: int, head_dim: int) -> tuple[int, ...]:
        return num_blocks * cls.block_tokens, kv_heads, head_dim

    def append(self, layer: int, step: CacheStep, k: Tensor, v: Tensor) -> None:
        """Write into the slots."""
        self._store[layer, 0, step.wide_slots], self._store[layer, 1, step.wide_slots] = k, v

    def attend(self, layer: int, step: CacheStep, q: Tensor) -> Tensor:
        """Attend request by request."""
        outputs = []
        for part, runs in zip(q.split(list(step.counts)), step.runs, strict=True):
            found = [self._store[layer][:, start:end] for start, end in runs]
            keys, values = torch.cat(found, dim=1)
            outputs.append(reference.cached_attention(part, keys, values))
        return torch.cat(outputs)


def attend_new(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with the last tokens of one request to all of them.

    q: [new, heads, head_dim]; k, v: [kv_heads, tokens, head_dim] -> [new, heads * head_dim].
    """
    queries = q.transpose(0, 1)
    # Whole segments as exactly as training computes them.
    if k.shape[1] == len(q) and ATTENTION.name_on(q.device) in _SUMS_IN_FP32:
        out = attend(queries.float(), k.float(), v.float()).to(q.dtype)
    else:
        out = attend(queries, k, v)
    return out.transpose(0, 1).reshape(len(q), -1)


def _attend_once(
    q: Tensor, keys: Tensor, values: Tensor, runs: Sequence[tuple[int, int]]
) -> Tensor:
    """Attend with one query, q: [heads, head_dim], reading every run where it lies.

    Nothing is masked, so it is two products a run; on a CPU they are several times faster than
    the fused attention, which is made for many queries (docs/performance.md).
    """
    kv_heads = keys.shape[0]
    grouped = q.reshape(kv_heads, -1, q.shape[1]) * q.shape[1] ** -0.5
    scores = [torch.matmul(grouped, keys[:, start:end].transpose(1, 2)) for start, end in runs]
    weights = torch.cat(scores, dim=2).softmax(dim=2, dtype=torch.float32).to(q.dtype)
    parts = weights.split([end - start for start, end in runs], dim=2)
    out = torch.matmul(parts[0], values[:, runs[0][0] : runs[0][1]])
    for part, (start, end) in zip(parts[1:], runs[1:], strict=True):
        out += torch.matmul(part, values[:, start:end])
    return out.reshape(1, -1)


def _joined(store: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
    parts = [store[:, start:end] for start, end in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _runs(table: Sequence[int], num_tokens: int, block_tokens: int) -> list[tuple[int, int]]:
    """Return the slots [start, end) of the first tokens in blocks, in order; neighbours joined."""
    count = -(-num_tokens // block_tokens)
    first = table[0]
    if table[:count] == list(range(first, first + count)):  # as they mostly lie
        return [(first * block_tokens, first * block_tokens + num_tokens)]
    found: list[tuple[int, int]] = []
    left = num_tokens
    for block in table:
        if left <= 0:
            break
        start, tokens = block * block_tokens, min(block_tokens, left)
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], start + tokens)
        else:
            found.append((start, start + tokens))
        left -= tokens
    return found
