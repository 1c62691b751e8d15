"""QK-norm and rotary position embedding (RoPE, Su et al. 2021, half-split) of a merged projection.

Queries, keys and values stand side by side in one matrix; its gradient is made in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from danlu.ops import reference
from danlu.ops.choice import Operation, example
from danlu.ops.rms_norm import norm_gradients, normed

# Tables are made for a multiple of so many positions, so that few are made.
_POSITIONS = 2048


def rotary_table(
    num_positions: int, head_dim: int, theta: float, *, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the first positions' angles, or of a few more: [P, head_dim / 2] each.

    Twice beside each other, [P, head_dim], where the device's variant of `rotated_qkv` takes them
    so. Made once for a process; nobody may write into them.
    """
    rounded = -(-num_positions // _POSITIONS) * _POSITIONS
    whole = ROTATED_QKV.on(device).whole_angles
    return _table(rounded, head_dim, theta, device, dtype, whole)


@lru_cache(maxsize=8)
def _table(
    num_positions: int,
    head_dim: int,
    theta: float,
    device: torch.device,
    dtype: torch.dtype,
    whole: bool,
) -> tuple[Tensor, Tensor]:
    # Whoever asks first may be without gradients for good; the table is for all.
    with torch.inference_mode(False), torch.no_grad():
        positions = torch.arange(num_positions, device=device, dtype=torch.float32)
        exponents = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
        angles = positions[:, None] * (theta ** -(exponents / head_dim))[None, :]
        if whole:
            angles = torch.cat((angles, angles), dim=1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rotated_qkv(
    qkv: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    num_kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split qkv into q, k and v; RMS-norm each head of q and k and rotate it by its position.

    qkv: [T, (heads + 2 kv_heads) * head_dim]; q_norm, k_norm: [head_dim]; cos, sin: T rows of
    `rotary_table`; all in one dtype. Returns [T, heads, head_dim] and twice [T, kv_heads,
    head_dim], which nobody may write into.
    """
    rotated = ROTATED_QKV.on(qkv.device).rotated
    return rotated(qkv, q_norm, k_norm, eps, cos, sin, num_kv_heads)


class Rotating(NamedTuple):
    """A variant of `rotated_qkv`. whole_angles: it takes each angle twice, for both halves."""

    rotated: Callable[..., tuple[Tensor, Tensor, Tensor]]
    whole_angles: bool = False


# The heads that are normed and rotated at once, with the weight of their norm.
_Group = tuple[slice, Tensor]


def _in_parts(q_norm: Tensor, k_norm: Tensor, num_heads: int, num_kv_heads: int) -> list[_Group]:
    """q, then k: on a CPU what is in between stays in its cache."""
    return [(slice(0, num_heads), q_norm), (slice(num_heads, num_heads + num_kv_heads), k_norm)]


def _as_one(q_norm: Tensor, k_norm: Tensor, num_heads: int, num_kv_heads: int) -> list[_Group]:
    """q and k together: half the operations for a card's host to start."""
    weights = torch.cat((q_norm.expand(num_heads, -1), k_norm.expand(num_kv_heads, -1)))
    return [(slice(0, num_heads + num_kv_heads), weights)]


Grouping = Callable[[Tensor, Tensor, int, int], list[_Group]]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + head_dim / 2). x: [T, heads, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    out = torch.empty_like(x)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin)
    return out


def _forward(
    grouping: Grouping,
    qkv: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    num_kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    heads = qkv.view(len(qkv), -1, len(q_norm))
    num_heads = heads.shape[1] - 2 * num_kv_heads
    rotated = [
        _rotate(normed(heads[:, span], weight, eps), cos, sin)
        for span, weight in grouping(q_norm, k_norm, num_heads, num_kv_heads)
    ]
    q, k = rotated if len(rotated) == 2 else rotated[0].split([num_heads, num_kv_heads], dim=1)
    return q, k, heads[:, -num_kv_heads:]


def _input_gradient(
    gradients: Sequence[Tensor],
    x: Tensor,
    weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    *,
    with_weight: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the gradient of some heads, [T, heads, head_dim], and what adds up to the weight's.

    gradients: of what was made of these heads, side by side.
    """
    # A rotation's transpose is the rotation by the opposite angle. Joined here, so freed soon.
    joined = gradients[0] if len(gradients) == 1 else torch.cat(list(gradients), dim=1)
    turned_back = _rotate(joined, cos, -sin)
    del joined
    dx, terms = norm_gradients(turned_back, x, weight, eps, with_weight=with_weight)
    return dx.to(x.dtype), terms


class _RotatedQkv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        grouping: Grouping,
        qkv: Tensor,
        q_norm: Tensor,
        k_norm: Tensor,
        eps: float,
        cos: Tensor,
        sin: Tensor,
        num_kv_heads: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(qkv, q_norm, k_norm, cos, sin)
        ctx.grouping, ctx.eps = grouping, eps
        return _forward(grouping, qkv, q_norm, k_norm, eps, cos, sin, num_kv_heads)

    @staticmethod
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
        qkv, q_norm, k_norm, cos, sin = ctx.saved_tensors
        num_heads, num_kv_heads, head_dim = dq.shape[1], dk.shape[1], len(q_norm)
        with_weights = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        heads = qkv.view(len(qkv), -1, head_dim)
        groups = ctx.grouping(q_norm, k_norm, num_heads, num_kv_heads)
        gradients = ((dq,), (dk,)) if len(groups) == 2 else ((dq, dk),)
        found: list[Tensor] = []
        terms: list[Tensor] = []
        for (span, weight), some_gradients in zip(groups, gradients, strict=True):
            dx, some = _input_gradient(
                some_gradients, heads[:, span], weight, ctx.eps, cos, sin, with_weight=with_weights
            )
            found.append(dx)
            if some is not None:
                terms += (
                    some.split([num_heads, num_kv_heads], dim=1) if len(groups) == 1 else [some]
                )
        # One copy behind both: writing each into its place is slower on a CPU.
        dqkv = torch.cat((*found, dv), dim=1).view_as(qkv)
        dw = [part.reshape(-1, head_dim).sum(0).to(q_norm.dtype) for part in terms]
        return None, dqkv, *(dw or (None, None)), None, None, None, None


def _variant(grouping: Grouping) -> Rotating:
    def rotated(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return _forward(grouping, *arguments)
        return _RotatedQkv.apply(grouping, *arguments)  # type: ignore[no-any-return, no-untyped-call]

    return Rotating(rotated)


def _trial(variant: Rotating, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    qkv = example(6, 8 * 16, device=device, dtype=dtype).requires_grad_()
    norms = [example(16, device=device, dtype=dtype, seed=n).requires_grad_() for n in (1, 2)]
    table = _table(_POSITIONS, 16, 1e4, device, dtype, variant.whole_angles)
    cos, sin = (part[::61][:6] for part in table)
    outputs = variant.rotated(qkv, *norms, 1e-6, cos, sin, 2)
    upstream = [
        example(*out.shape, device=device, dtype=dtype, seed=n) for n, out in enumerate(outputs)
    ]
    return [*outputs, *torch.autograd.grad(outputs, [qkv, *norms], upstream)]


ROTATED_QKV = Operation(
    "rotated_qkv",
    {
        "as_one": _variant(_as_one),
        "in_parts": _variant(_in_parts),
        "reference": Rotating(reference.rotated_qkv),
    },
    _trial,
)
