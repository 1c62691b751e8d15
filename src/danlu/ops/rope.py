"""QK-norm and rotary position embedding (RoPE, Su et al. 2021, half-split) of a merged projection.

Queries, keys and values stand side by side in one matrix; its gradient is made in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from danlu.ops import reference
from danlu.ops.choice import Operation, example, twin_gradients
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
    passes = ROTATED_QKV.on(qkv.device)
    arguments = (qkv, q_norm, k_norm, eps, cos, sin, num_kv_heads)
    if not torch.is_grad_enabled():
        return passes.forward(*arguments)
    return _RotatedQkv.apply(passes, *arguments)  # type: ignore[no-any-return, no-untyped-call]


class RotationPasses(NamedTuple):
    """A variant of `rotated_qkv`, with its arguments.

    backward(gradients, arguments, with_weights) returns the gradients of qkv, q_norm and k_norm,
    the last two None where they are not wanted. whole_angles: it takes each angle twice, for both
    halves.
    """

    forward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    backward: Callable[[Sequence[Tensor], Any, bool], tuple[Tensor, Tensor | None, Tensor | None]]
    whole_angles: bool = False


class _RotatedQkv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, passes: RotationPasses, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        qkv, q_norm, k_norm, eps, cos, sin, num_kv_heads = arguments
        ctx.save_for_backward(qkv, q_norm, k_norm, cos, sin)
        ctx.passes, ctx.eps, ctx.num_kv_heads = passes, eps, num_kv_heads
        return passes.forward(*arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        qkv, q_norm, k_norm, cos, sin = ctx.saved_tensors
        arguments = (qkv, q_norm, k_norm, ctx.eps, cos, sin, ctx.num_kv_heads)
        with_weights = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        found = ctx.passes.backward(gradients, arguments, with_weights)
        return None, *found, None, None, None, None


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


def _backward(
    grouping: Grouping, gradients: Sequence[Tensor], arguments: Any, with_weights: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    qkv, q_norm, k_norm, eps, cos, sin, num_kv_heads = arguments
    dq, dk, dv = gradients
    num_heads, head_dim = dq.shape[1], len(q_norm)
    heads = qkv.view(len(qkv), -1, head_dim)
    groups = grouping(q_norm, k_norm, num_heads, num_kv_heads)
    of_groups = ((dq,), (dk,)) if len(groups) == 2 else ((dq, dk),)
    found: list[Tensor] = []
    terms: list[Tensor] = []
    for (span, weight), some_gradients in zip(groups, of_groups, strict=True):
        dx, some = _input_gradient(
            some_gradients, heads[:, span], weight, eps, cos, sin, with_weight=with_weights
        )
        found.append(dx)
        if some is not None:
            terms += some.split([num_heads, num_kv_heads], dim=1) if len(groups) == 1 else [some]
    # One copy behind both: writing each into its place is slower on a CPU.
    dqkv = torch.cat((*found, dv), dim=1).view_as(qkv)
    dw = [part.reshape(-1, head_dim).sum(0).to(q_norm.dtype) for part in terms]
    return dqkv, *(dw or (None, None))


def _twin_backward(
    gradients: Sequence[Tensor], arguments: Any, with_weights: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    tensors, rest = arguments[:3], arguments[3:]
    dqkv, *dw = twin_gradients(reference.rotated_qkv, gradients, tensors, *rest)
    return dqkv, *(dw if with_weights else (None, None))


def _passes(grouping: Grouping) -> RotationPasses:
    return RotationPasses(partial(_forward, grouping), partial(_backward, grouping))


def _trial(passes: RotationPasses, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    qkv = example(6, 8 * 16, device=device, dtype=dtype).requires_grad_()
    norms = [example(16, device=device, dtype=dtype, seed=n).requires_grad_() for n in (1, 2)]
    table = _table(_POSITIONS, 16, 1e4, device, dtype, passes.whole_angles)
    cos, sin = (part[::61][:6] for part in table)
    outputs = _RotatedQkv.apply(passes, qkv, *norms, 1e-6, cos, sin, 2)  # type: ignore[no-untyped-call]
    upstream = [
        example(*out.shape, device=device, dtype=dtype, seed=n) for n, out in enumerate(outputs)
    ]
    return [*outputs, *torch.autograd.grad(outputs, [qkv, *norms], upstream)]


ROTATED_QKV = Operation(
    "rotated_qkv",
    {
        "as_one": _passes(_as_one),
        "in_parts": _passes(_in_parts),
        "reference": RotationPasses(reference.rotated_qkv, _twin_backward),
    },
    _trial,
)
