"""Keys and values of computed tokens, in blocks, and attention over them.

`blocks` and `scheduler` decide which request uses which block. A step writes behind the tokens that
are counted as computed, so a failed step can be repeated. Shapes: T tokens of the batch, S slots
(blocks times tokens a block).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu import ops
from danlu.device.memory import free_bytes, is_out_of_memory
from danlu.engine.scheduler import TokenSequence
from danlu.errors import CapacityError
from danlu.language import _
from danlu.model.attention import rotated_qkv
from danlu.model.config import ModelConfig
from danlu.model.qwen3 import Layer
from danlu.units import readable_bytes

# The share of free memory that a cache may take, and how many full contexts are enough.
_CACHE_SHARE = 0.6
_CONTEXTS = 16
# With less than this no conversation is worth beginning.
_LEAST_TOKENS = 256


def empty_cache(
    config: ModelConfig, num_slots: int, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Allocate the store of all blocks: [layers, 2 (keys, values), kv_heads, S, head_dim].

    Raises CapacityError where memory does not suffice.
    """
    shape = (config.num_hidden_layers, config.num_key_value_heads, num_slots, config.head_dim)
    try:
        return ops.empty_cache(*shape, device=device, dtype=dtype)
    except Exception as problem:
        if not is_out_of_memory(problem):
            raise
        raise _no_room(config, dtype, num_slots, free_bytes(device)) from problem


def default_tokens(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, *, step_tokens: int, rows: int
) -> int:
    """Return how many tokens a cache should hold: a share of free memory, no more than needed.

    step_tokens, rows: the most tokens and rows of logits of one step, which needs memory beside the
    cache. Raises CapacityError where next to nothing is left.
    """
    widest = 2 * config.intermediate_size + 4 * config.hidden_size
    # Of the widest operation its input and output; of logits also what sampling makes of them.
    step_bytes = 2 * step_tokens * widest * dtype.itemsize + 3 * rows * config.vocab_size * 4
    free = free_bytes(device)
    fitting = int(_CACHE_SHARE * max(0, free - step_bytes)) // _token_bytes(config, dtype)
    enough = _CONTEXTS * config.max_position_embeddings
    if fitting < min(_LEAST_TOKENS, enough):
        raise _no_room(config, dtype, _LEAST_TOKENS, free)
    return min(fitting, enough)


def _token_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    numbers = 2 * config.num_key_value_heads * config.head_dim
    return config.num_hidden_layers * numbers * dtype.itemsize


def _no_room(config: ModelConfig, dtype: torch.dtype, num_tokens: int, free: int) -> CapacityError:
    return CapacityError(
        _("The memory does not suffice for the cache of keys and values."),
        why=_(
            "{tokens:,} tokens need {needed} beside the weights and the work of a step; "
            "{free} are free."
        ).format(
            tokens=num_tokens,
            needed=readable_bytes(num_tokens * _token_bytes(config, dtype)),
            free=readable_bytes(free),
        ),
        fix=_(
            "Use --quantization int8 or a smaller model, end other programs on the device, or give "
            "fewer tokens: --cache_tokens {tokens}"
        ).format(tokens=max(_LEAST_TOKENS, num_tokens // 2)),
    )


class CachedAttention:
    """The `attend` of the engine: each segment continues the tokens in its blocks.

    segments: (sequence, number of tokens to compute) in the order of the batch. positions, slots:
    where each token stands in its sequence, and in the store; `place` takes them back as they are
    on the device, where they come with the rest of the step's numbers.
    """

    def __init__(
        self,
        config: ModelConfig,
        store: Tensor,
        segments: Sequence[tuple[TokenSequence, int]],
        *,
        block_tokens: int,
    ) -> None:
        self._store = store
        self._config = config
        size = block_tokens
        self._lengths: list[int] = []
        self._runs: list[list[tuple[int, int]]] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        for sequence, num_tokens in segments:
            new = range(sequence.computed, sequence.computed + num_tokens)
            self._lengths.append(num_tokens)
            self._runs.append(_runs(sequence.blocks, new.stop, size))
            self.positions += new
            self.slots += [sequence.blocks[place // size] * size + place % size for place in new]

    def place(self, positions: Tensor, slots: Tensor) -> None:
        """Take positions and slots, [T] each, on the store's device."""
        self._slots = slots
        head_dim, theta = self._config.head_dim, self._config.rope_theta
        self._cos, self._sin = ops.rotary_table(positions, head_dim, theta)

    def __call__(self, layer: Layer, qkv: Tensor) -> Tensor:  # [T, q + 2 kv] -> [T, q]
        q, k, v = rotated_qkv(layer, qkv, self._cos, self._sin)
        store = self._store[layer.index]  # [2, kv_heads, S, head_dim]
        ops.append_to_cache(store, self._slots, k, v)
        keys, values = store
        outputs = [
            ops.cached_attention(part, keys, values, spans)
            for part, spans in zip(q.split(self._lengths), self._runs, strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _runs(blocks: Sequence[int], num_tokens: int, block_tokens: int) -> list[tuple[int, int]]:
    """Return the slots [start, end) of the first tokens in blocks, in order; neighbours joined."""
    found: list[tuple[int, int]] = []
    left = num_tokens
    for block in blocks:
        if left <= 0:
            break
        start, tokens = block * block_tokens, min(block_tokens, left)
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], start + tokens)
        else:
            found.append((start, start + tokens))
        left -= tokens
    return found
