"""The readable twin of every operation: what is computed, without any concern for speed.

Each function is the formula as the papers and the Hugging Face model have it; autograd supplies
the gradients. The tests hold the hand-written variants against these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.device.memory import sent

# Of the largest logits of a row so many at most are drawn from.
MOST_DRAWN = 64


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each vector to unit root mean square. x: [..., size]; weight: [size]."""
    x32 = x.float()
    normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def add_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return rms_norm(x + y), and x + y. x, y: [rows, size]; weight: [size]."""
    total = x + y
    return rms_norm(total, weight, eps), total


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of a merged projection. gate_up: [tokens, 2 * size] -> [tokens, size]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def draw(logits: Tensor, asked: Tensor) -> Tensor:
    """Choose a token of each row by its own settings: see `ops.draw`, which says what they are.

    logits: [N, V]; asked: fp32 [5, N] -> int32 [2, N]. Without sorting: what stands before a
    candidate is counted. In fp32, for some accelerators have nothing wider.
    """
    temperature, top_k, top_p, min_p, chance = asked.unsqueeze(-1)  # [N, 1] each
    logits = logits.float()
    maxima = logits.amax(-1, keepdim=True)
    largest = logits.topk(min(MOST_DRAWN, logits.shape[1]), dim=-1)
    ids, order = largest.indices.sort(dim=-1)
    values = largest.values.gather(-1, order)  # [N, C], of ascending ids
    is_larger = values[:, None, :] > values[:, :, None]  # [N, C, C]: the last than the one before
    powers = ((values - maxima) / temperature).exp() * (is_larger.sum(-1) < top_k)
    numbers = torch.arange(values.shape[1], device=logits.device, dtype=torch.int32)
    is_alike = (values[:, None, :] == values[:, :, None]) & (numbers > numbers[:, None])
    before = ((is_larger | is_alike) * powers[:, None, :]).sum(-1)
    powers = powers * ((before < top_p * powers.sum(-1, keepdim=True)) | (top_p >= 1))
    powers = powers * (powers >= min_p * powers.amax(-1, keepdim=True))
    drawn = ids.gather(-1, place_of(powers, chance).long())
    chosen = torch.where(top_k > 0, drawn, logits.argmax(-1, keepdim=True))
    return torch.cat((chosen, maxima.isfinite()), dim=1).t().to(torch.int32)


def place_of(powers: Tensor, chance: Tensor) -> Tensor:
    """Return where a draw falls among candidates, of which those of power 0 are none.

    powers: fp32 [N, C], not normalised; chance: [N, 1] in [0, 1) -> int32 [N, 1].
    """
    count = powers.shape[1]
    places = torch.arange(count, device=powers.device, dtype=torch.int32)
    is_possible = powers > 0
    cumulated = powers.cumsum(-1)
    is_behind = is_possible & (cumulated > chance * cumulated[:, -1:])
    first = count - torch.where(is_behind, count - places, 0).amax(-1, keepdim=True)
    # Where rounding leads past the end: the last one that is possible.
    last = torch.where(is_possible, places, 0).amax(-1, keepdim=True)
    return torch.where(first < count, first, last)


def grouped_linear(
    x: Tensor, matrices: Tensor, ends: Tensor, total: Tensor | None = None
) -> Tensor:
    """Multiply each group of rows with its own matrix, and add to a total [tokens, out], if any.

    x: [tokens, in]; matrices: [groups, in, out]; ends: [groups], where each group's rows end.
    """
    starts = [0, *ends.tolist()]
    groups = [x[start:end] for start, end in pairwise(starts)]
    y = torch.cat([rows @ matrix for rows, matrix in zip(groups, matrices, strict=True)])
    return y if total is None else total.add_(y)


def expert_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Multiply each expert's rows with its matrix. x: [rows, in]; weight: [experts * out, in].

    ends: [experts], where each expert's rows end.
    """
    starts = [0, *ends.tolist()]
    groups = [x[start:end] for start, end in pairwise(starts)]
    matrices = weight.view(len(ends), -1, x.shape[1])
    return torch.cat([F.linear(rows, w) for rows, w in zip(groups, matrices, strict=True)])


def expert_mix(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Add up rows [R, H] of each token: places and weights [T, K] -> [T, H]."""
    return (rows[places] * weights[..., None]).sum(1)


def fused_linear(
    x: Tensor,
    weight: Tensor,
    norm: Tensor | None,
    eps: float,
    gated: bool,
    residual: Tensor | None,
    pair: tuple[Tensor, Tensor, Tensor] | None,
) -> Tensor:
    """Norm or swiglu of a row where asked for, its product with weight [out, in], the residual.

    pair: an adapter's matrices in groups, and where these end; see `grouped_linear`.
    """
    if norm is not None:
        x = rms_norm(x, norm, eps)
    if gated:
        x = swiglu(x)
    y = F.linear(x, weight)
    if pair is not None:
        a, b, ends = pair
        y = grouped_linear(grouped_linear(x, a, ends), b, ends, y)
    return y if residual is None else residual + y


def low_rank(
    t: Tensor, *parts: Tensor, places: Sequence[tuple[slice, slice]], scaling: float
) -> Tensor:
    """Multiply the columns of t [tokens, ranks] that belong to a target with its b [out, rank].

    places: each target's rows of the output, and its columns of t. Returns [tokens, out].
    """
    whole = t.new_zeros(max(out.stop for out, _ranks in places), t.shape[1])
    for part, (out, ranks) in zip(parts, places, strict=True):
        whole[out, ranks] = part
    return scaling * t @ whole.t()


def rotated_qkv(
    qkv: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    num_kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """RMS-norm each head of q and k, then rotate it by its position (RoPE, half-split form).

    qkv: [tokens, (heads + 2 kv_heads) * head_dim]; cos, sin: [tokens, head_dim / 2].
    """
    heads = qkv.view(len(qkv), -1, len(q_norm))
    q, k, v = heads.split([heads.shape[1] - 2 * num_kv_heads, num_kv_heads, num_kv_heads], dim=1)
    c, s = cos.unsqueeze(1), sin.unsqueeze(1)

    def rotated(x: Tensor, weight: Tensor) -> Tensor:
        first, second = rms_norm(x, weight, eps).chunk(2, dim=-1)
        return torch.cat((first * c - second * s, second * c + first * s), dim=-1)

    return rotated(q, q_norm), rotated(k, k_norm), v


def segment_attention(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> Tensor:
    """Causal attention inside each segment. q: [tokens, heads, d]; k, v: [tokens, kv_heads, d].

    offsets: [segments + 1], where each segment begins, and the end of the last.
    """
    tokens, heads, head_dim = q.shape
    repeat = heads // k.shape[1]
    k, v = (t.repeat_interleave(repeat, dim=1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.float(), k.float()) * head_dim**-0.5
    index = torch.arange(tokens, device=q.device)
    segment = torch.searchsorted(offsets[1:].long(), index, right=True)
    allowed = (segment[:, None] == segment[None, :]) & (index[:, None] >= index[None, :])
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, v.float()).to(q.dtype).flatten(1)


def linear(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """x W^T + residual. x: [rows, in]; weight: [out, in]; residual: [rows, out]."""
    return residual + F.linear(x, weight)


def accumulate(total: Tensor, addend: Tensor) -> None:
    """Add in fp32, in place."""
    total.copy_(total + addend.float())


def adamw(
    state: tuple[Tensor, Tensor, Tensor, Tensor],
    gradient: Tensor,
    betas: tuple[float, float],
    eps: float,
    learning_rate: float,
    weight_decay: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One update of (vector, first moment, second moment, number of updates)."""
    vector, mean, square, updates = state
    updates = updates + 1
    mean = betas[0] * mean + (1 - betas[0]) * gradient
    square = betas[1] * square + (1 - betas[1]) * gradient.square()
    length = (square / weight_so_far(betas[1], updates)).sqrt() + eps
    step = mean / weight_so_far(betas[0], updates) / length
    return vector * (1 - learning_rate * weight_decay) - learning_rate * step, mean, square, updates


def weight_so_far(beta: float, count: Tensor) -> Tensor:
    """Return 1 - beta^count, which a moment is divided by, without fp32's loss near 1."""
    return -torch.expm1(count * (math.log(beta) if beta else -math.inf))


def cached_attention(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of a request's last tokens to all of them.

    q: [new, heads, d]; keys, values: [tokens, kv_heads, d].
    """
    before = len(keys) - len(q)
    padded = torch.cat((q.new_zeros(before, *q.shape[1:]), q))
    offsets = torch.arange(2, device=q.device) * len(keys)
    return segment_attention(padded, keys, values, offsets)[before:]


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
    q = torch.cat((packed & 15, packed >> 4), dim=2).transpose(1, 2).reshape(-1, inputs)
    groups = scales_and_zeros.shape[0]
    scales, zeros = scales_and_zeros.float().repeat_interleave(inputs // groups, dim=0).unbind(-1)
    weight = (q.float() - 8) * scales.t() + zeros.t()
    return F.linear(x.float(), weight).to(x.dtype)


# The 16 levels of nf4 (Dettmers et al. 2023, QLoRA, appendix E).
NF4_LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def nf4_linear(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Product with w = level * scale, two levels in a byte; shapes as in `ops/frozen/nf4.py`."""
    levels = sent(torch.tensor(NF4_LEVELS), x.device)
    q = torch.stack((values >> 4, values & 15), dim=-1).flatten(1)
    weight = levels[q.long()] * scales.float().repeat_interleave(
        q.shape[1] // scales.shape[1], dim=1
    )
    return F.linear(x.float(), weight).to(x.dtype)


def quantized_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to e4m3 (3 bits of mantissa, up to 448), its largest number to 448.

    x: [rows, size] -> values of that shape, and scales [rows] in fp32: x = values * scale. Rows of
    zeros, or of less than 1e-30, stay finite; what is not finite stays so.
    """
    most = x.float().abs().amax(dim=1).clamp(min=1e-30)
    return (x.float() * (448.0 * most.reciprocal())[:, None]).to(torch.float8_e4m3fn), most / 448.0


def fp8_linear(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Product of x, rounded by rows, with w = values * scale. x: [rows, in]; values: [out, in]."""
    rows, row_scales = quantized_rows(x)
    y = F.linear(rows.float(), values.float())
    return (y * row_scales[:, None] * scales).to(x.dtype)
