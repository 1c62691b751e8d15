"""The readable twin of every operation in ops/: what is computed, without concern for speed.

Each function is the formula as the papers and the Hugging Face model have it; autograd supplies
the gradients. The tests hold the hand-written variants against these.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each vector to unit root mean square. x: [..., size]; weight: [size]."""
    x32 = x.float()
    normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of a merged projection. gate_up: [tokens, 2 * size] -> [tokens, size]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def norm_rotate(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """RMS-norm each head, then rotate it by its position (RoPE, half-split form).

    x: [tokens, heads, head_dim]; weight: [head_dim]; cos, sin: [tokens, head_dim / 2].
    """
    normed = rms_norm(x, weight, eps)
    first, second = normed.chunk(2, dim=-1)
    c, s = cos.unsqueeze(1).to(x.dtype), sin.unsqueeze(1).to(x.dtype)
    return torch.cat((first * c - second * s, second * c + first * s), dim=-1)


def segment_attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """Causal attention inside each segment. q: [tokens, heads, d]; k, v: [tokens, kv_heads, d]."""
    tokens, heads, head_dim = q.shape
    repeat = heads // k.shape[1]
    k, v = (t.repeat_interleave(repeat, dim=1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.float(), k.float()) * head_dim**-0.5
    index = torch.arange(tokens, device=q.device)
    ends = torch.tensor(lengths, device=q.device).cumsum(0)
    segment = torch.searchsorted(ends, index, right=True)
    allowed = (segment[:, None] == segment[None, :]) & (index[:, None] >= index[None, :])
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, v.float()).to(q.dtype).flatten(1)


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the negative log likelihoods. logits: [rows, vocab]; targets: [rows]."""
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def int8_linear(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Product with w = values * scale of the output. x: [rows, in]; values: [out, in]."""
    weight = values.float() * scales.float()[:, None]
    return F.linear(x.float(), weight).to(x.dtype)


def int4_linear(x: Tensor, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """Product with w = (q - 8) * scale + zero, two q in a byte; shapes as in `ops.int4_linear`."""
    inputs = packed.shape[1]
    q = torch.cat((packed % 16, packed // 16), dim=2).transpose(1, 2).reshape(-1, inputs)
    groups = scales_and_zeros.shape[0]
    scales, zeros = scales_and_zeros.float().repeat_interleave(inputs // groups, dim=0).unbind(-1)
    weight = (q.float() - 8) * scales.t() + zeros.t()
    return F.linear(x.float(), weight).to(x.dtype)
