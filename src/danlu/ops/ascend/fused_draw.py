"""Draws with npu_top_k_top_p, which sorts a row and leaves -infinity where nothing may be drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.reference import place_of


def draw(logits: Tensor, asked: Tensor) -> Tensor:
    """See `ops.draw`. Of all that tie with the last of top-k all stay."""
    temperature, top_k, top_p, min_p, chance = asked.unsqueeze(-1)
    maxima = logits.amax(-1, keepdim=True).float()
    scores = torch.ops.npu.npu_top_k_top_p(
        (logits.float() - maxima) / temperature,
        p=top_p[:, 0].contiguous(),
        k=top_k[:, 0].clamp(1, logits.shape[1]).to(torch.int32),
    )
    powers = scores.exp()
    powers = powers * (powers >= min_p)  # the largest is 1
    drawn = place_of(powers, chance)
    ids = torch.where(top_k > 0, drawn, logits.argmax(-1, keepdim=True).to(torch.int32))
    return torch.cat((ids, maxima.isfinite().to(torch.int32)), dim=1).t().contiguous()
