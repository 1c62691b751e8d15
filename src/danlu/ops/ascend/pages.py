"""The paged cache with Ascend's kernels: one call writes a step's tokens, one attends to all.

Requests that decode and requests that read their prompts are in the same call: it knows each one's
new tokens and length, both on the host, and finds its pages in the block table. vllm-ascend's
attention (August 2026) calls it in this form on 910B; the page of the operation allows less.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from danlu.ops.ascend.fusion_attention import CAUSAL, compressed_mask
from danlu.ops.cache.key_value_store import CacheStep
from danlu.ops.cache.paged_store import Paged


class AscendPages(Paged):
    """Laid out as `Paged`. Its kernels take 16-bit numbers only: fp32 goes the plain way."""

    @classmethod
    def replays(cls, dtype: torch.dtype) -> bool:
        return dtype != torch.float32

    def append(self, layer: int, step: CacheStep, k: Tensor, v: Tensor) -> None:
        """Write into the slots."""
        keys, values = self._store[layer]
        torch.ops.npu.npu_scatter_pa_kv_cache(
            k.contiguous(), v.contiguous(), keys, values, step.slots, cache_mode="Norm"
        )

    def attend(self, layer: int, step: CacheStep, q: Tensor) -> Tensor:
        """Attend with all requests at once."""
        if q.dtype == torch.float32:
            return super().attend(layer, step, q)
        keys, values = self._store[layer].flatten(3)  # [blocks, block_tokens, kv_heads * head_dim]
        out: Tensor = torch.ops.npu.npu_fused_infer_attention_score(
            q,
            keys,
            values,
            atten_mask=compressed_mask(q.device),
            actual_seq_lengths=list(accumulate(step.counts)),
            actual_seq_lengths_kv=list(step.ends),
            block_table=step.block_table,
            num_heads=q.shape[1],
            num_key_value_heads=self._store.shape[4],
            scale=q.shape[2] ** -0.5,
            input_layout="TND",
            sparse_mode=CAUSAL,
            block_size=self.block_tokens,
        )[0]
        return out.flatten(1)
