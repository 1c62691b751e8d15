"""Keys and values of computed tokens, in blocks, and attention over them.

`blocks` and `scheduler` decide which request uses which block. A step writes behind the tokens that
are counted as computed, so a failed step can be repeated. How it lies in memory, `ops` knows.
Shapes: T tokens of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu import ops
from danlu.device.memory import free_bytes, is_out_of_memory
from danlu.engine.step_inputs import Step
from danlu.errors import CapacityError
from danlu.language import _
from danlu.model.attention import Rotation, Table
from danlu.model.config import ModelConfig
from danlu.model.qwen3 import Layer
from danlu.units import readable_bytes

# The share of free memory that a cache may take, and how many full contexts are enough.
_CACHE_SHARE = 0.6
_CONTEXTS = 16
# With less than this no conversation is worth beginning.
_LEAST_TOKENS = 256


def empty_cache(
    config: ModelConfig, num_blocks: int, *, device: torch.device, dtype: torch.dtype
) -> ops.Cache:
    """Allocate a cache in the device's layout.

    Raises CapacityError where memory does not suffice.
    """
    kind = ops.cache_of(device)
    try:
        return kind(
            config.num_hidden_layers,
            config.num_key_value_heads,
            num_blocks,
            config.head_dim,
            device=device,
            dtype=dtype,
        )
    except Exception as problem:
        if not is_out_of_memory(problem):
            raise
        num_tokens = num_blocks * kind.block_tokens
        raise _no_room(config, dtype, num_tokens, free_bytes(device)) from problem


def default_tokens(
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    step_tokens: int,
    rows: int,
    floats: int = 0,
) -> int:
    """Return how many tokens a cache should hold: a share of free memory, no more than needed.

    step_tokens, rows: the most tokens and rows of logits of one step, which needs memory beside the
    cache. floats: bytes of floats that a product makes of weights. Raises CapacityError where next
    to nothing is left.
    """
    widest = 2 * config.intermediate_size + 4 * config.hidden_size
    experts = config.experts
    if experts is not None:  # a row for each expert of a token
        of_row = 2 * experts.moe_intermediate_size + 2 * config.hidden_size
        widest = max(widest, experts.num_experts_per_tok * of_row)
    # Of the widest operation its input and output; of logits also what sampling makes of them.
    step_bytes = 2 * step_tokens * widest * dtype.itemsize + 3 * rows * config.vocab_size * 4
    step_bytes += floats
    free = free_bytes(device)
    room = int(_CACHE_SHARE * max(0, free - step_bytes))
    # Attention may copy keys and values, each into two forms: of all tokens, or of so many.
    copied, token_bytes = 4 * config.kv_size * dtype.itemsize, _token_bytes(config, dtype)
    beside_them = room - copied * ops.cache_of(device).gathered_tokens
    fitting = max(beside_them // token_bytes, room // (token_bytes + copied))
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
    """The `attend` of the engine: each request continues the tokens in its blocks.

    table: of as many positions as the longest sequence may have.
    """

    def __init__(self, config: ModelConfig, cache: ops.Cache, step: Step, table: Table) -> None:
        self._cache, self._step = cache, step.cache
        self._rotation = Rotation(config, step.positions, table)

    def __call__(self, layer: Layer, qkv: Tensor) -> Tensor:  # [T, q + 2 kv] -> [T, q]
        q, k, v = self._rotation(layer, qkv)
        self._cache.append(layer.index, self._step, k, v)
        return self._cache.attend(layer.index, self._step, q)
