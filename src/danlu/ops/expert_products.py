"""Products of rows with experts' matrices: each expert's rows stand side by side, some have none.

And the sums of what a token's experts made of it.

All experts' matrices are one tensor [E * out, in], expert after expert, as the model keeps them,
and so are an adapter's. Both directions are here, for autograd and for backward passes written by
hand.
Shapes: R rows, E experts; ends [E]: where each expert's rows end, the last is R.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.device.memory import sent
from danlu.device.nvidia_cards import BLACKWELL
from danlu.device.variants import GROUPED_MM, REFERENCE
from danlu.device.weight_forms import PIECE
from danlu.ops import reference
from danlu.ops.choice import NotHere, Operation, example

# As `expert_mix`.
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]


class ExpertPasses(NamedTuple):
    """A variant: the three functions below, and in which dtype it takes `ends`."""

    forward: Callable[[Tensor, Tensor, Tensor], Tensor]
    input_gradient: Callable[[Tensor, Tensor, Tensor], Tensor]
    weight_gradient: Callable[[Tensor, Tensor, Tensor], Tensor]
    ends_dtype: torch.dtype = torch.int64


def expert_ends(by_expert: Tensor, num_experts: int) -> Tensor:
    """Return where the rows of each expert end [E]. by_expert: int64 [R], rows' experts, sorted."""
    dtype = EXPERT_LINEAR.on(by_expert.device).ends_dtype
    numbers = torch.arange(num_experts, device=by_expert.device)
    return torch.searchsorted(by_expert, numbers, right=True, out_int32=dtype == torch.int32)


def expert_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Multiply each expert's rows with its matrix: x [R, in], weight [E * out, in] -> [R, out]."""
    if not torch.is_grad_enabled():
        return EXPERT_LINEAR.on(x.device).forward(x, weight, ends)
    return _ExpertLinear.apply(x, weight, ends)  # type: ignore[no-any-return, no-untyped-call]


def expert_input_gradient(dy: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Return the gradient of x [R, in], from that of the product, dy [R, out]."""
    return EXPERT_LINEAR.on(dy.device).input_gradient(dy, weight, ends)


def expert_weight_gradient(dy: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    """Return the gradient of the weight [E * out, in], zero where an expert has no rows."""
    return EXPERT_LINEAR.on(dy.device).weight_gradient(dy, x, ends)


def expert_mix(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Add up rows of each token: rows [R, H], places int64 and weights [T, K] -> [T, H].

    Without gradients.
    """
    return EXPERT_MIX.on(rows.device)(rows, places, weights)


def expert_pieces(ends: Tensor, num_rows: int, size: int) -> list[slice]:
    """Cut rows of so many numbers into pieces that caches hold, where experts end.

    For a device that goes from one expert to the next; others take all rows at once.
    """
    most = PIECE // size
    if num_rows <= most or EXPERT_LINEAR.on(ends.device).forward is not _forward:
        return [slice(0, num_rows)]
    pieces, start, last = [], 0, 0
    for end in ends.tolist():
        if end - start > most and last > start:
            pieces.append(slice(start, last))
            start = last
        last = end
    return [*pieces, slice(start, num_rows)]


class _ExpertLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, ends)
        return EXPERT_LINEAR.on(x.device).forward(x, weight, ends)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, ends = ctx.saved_tensors
        dy = dy.contiguous()
        dx = expert_input_gradient(dy, weight, ends) if ctx.needs_input_grad[0] else None
        dw = None if x is None else expert_weight_gradient(dy, x, ends)
        return dx, dw, None


def rows_of(ends: Tensor) -> Iterator[tuple[int, slice]]:
    """List the experts that have rows, and which. For a device that is its own host."""
    for expert, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        if start < end:
            yield expert, slice(start, end)


def _even_rows_of(x: Tensor, ends: Tensor) -> Iterator[tuple[int, slice]]:
    """List the experts that have rows, and which to multiply: some of the next ones' as well.

    Those are overwritten by their own products, which follow. oneDNN compiles a 16-bit product for
    each number of rows, 1.4 ms, and keeps the last 64: of 128 experts none would be there again.
    """
    for expert, rows in rows_of(ends):
        if x.dtype == torch.bfloat16:
            count = rows.stop - rows.start
            step = 1 if count <= 16 else 4 if count <= 64 else 8
            rows = slice(rows.start, min(rows.start - (-count // step * step), len(x)))
        yield expert, rows


def _forward(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    matrices = weight.view(len(ends), -1, x.shape[1])
    y = x.new_empty(len(x), matrices.shape[1])
    for expert, rows in _even_rows_of(x, ends):
        torch.mm(x[rows], matrices[expert].t(), out=y[rows])
    return y


def _input_gradient(dy: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    matrices = weight.view(len(ends), dy.shape[1], -1)
    dx = dy.new_empty(len(dy), matrices.shape[2])
    for expert, rows in _even_rows_of(dy, ends):
        torch.mm(dy[rows], matrices[expert], out=dx[rows])
    return dx


def _weight_gradient(dy: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    dw = x.new_zeros(len(ends), dy.shape[1], x.shape[1])
    for expert, rows in rows_of(ends):
        torch.mm(dy[rows].t(), x[rows], out=dw[expert])
    return dw.flatten(0, 1)


# The grouped kernels read rows in pieces of 16 bytes.
_ALIGNED = 16
# The cards that they are for, Hopper and data centres' Blackwell, by compute capability. On others
# torch copies where rows end to the host and multiplies for every expert, those without rows too
# (ATen/native/GroupedMMUtils.h, cuda/ScaledBlasDeviceUtils.cpp): a kernel in Triton does not.
_GROUPED_CARDS = (9, BLACKWELL)


@cache
def _require_grouped_kernels() -> None:
    """Raise NotHere on a card for which torch has none."""
    if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] not in _GROUPED_CARDS:
        raise NotHere("torch has grouped kernels for Hopper and data centres' Blackwell only")


@cache
def _writes_what_was_there() -> bool:
    """Whether torch leaves what it finds where an expert has no rows, as on a B200.

    Its kernel there begins a sum with its first rows (pytorch/pytorch, issue 172439;
    NVIDIA/cutlass, issue 2674); that for Hopper begins with nought.
    """
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == BLACKWELL


def _is_grouped(*tensors: Tensor) -> bool:
    _require_grouped_kernels()
    return all(
        tensor.dtype == torch.bfloat16 and tensor.shape[-1] * tensor.itemsize % _ALIGNED == 0
        for tensor in tensors
    )


def _grouped_forward(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    matrices = weight.view(len(ends), -1, x.shape[1])
    if not _is_grouped(x, matrices.transpose(1, 2)):
        return _forward(x, weight, ends)
    return torch._grouped_mm(x, matrices.transpose(1, 2), offs=ends)


def _grouped_input_gradient(dy: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    matrices = weight.view(len(ends), dy.shape[1], -1)
    if not _is_grouped(dy, matrices):
        return _input_gradient(dy, weight, ends)
    return torch._grouped_mm(dy, matrices, offs=ends)


def _grouped_weight_gradient(dy: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    if not _is_grouped(dy, x):
        return _weight_gradient(dy, x, ends)
    dw = torch._grouped_mm(dy.t(), x, offs=ends)
    if _writes_what_was_there():
        is_empty = ends.diff(prepend=ends.new_zeros(1)) == 0
        dw.masked_fill_(is_empty[:, None, None], 0.0)  # not multiplied: it may be no number
    return dw.flatten(0, 1)


def _twin_input_gradient(dy: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    x = dy.new_zeros(len(dy), weight.shape[1], requires_grad=True)
    with torch.enable_grad():
        return torch.autograd.grad(reference.expert_linear(x, weight, ends), x, dy)[0]


def _twin_weight_gradient(dy: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    weight = dy.new_zeros(len(ends) * dy.shape[1], x.shape[1], requires_grad=True)
    with torch.enable_grad():
        return torch.autograd.grad(reference.expert_linear(x, weight, ends), weight, dy)[0]


def _trial(passes: ExpertPasses, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    ends = sent(torch.tensor([0, 5, 5, 13], dtype=passes.ends_dtype), device)
    x, dy = (example(13, width, device=device, dtype=dtype) for width in (64, 96))
    weight = example(4 * 96, 64, device=device, dtype=dtype)
    return [
        passes.forward(x, weight, ends),
        passes.input_gradient(dy, weight, ends),
        passes.weight_gradient(dy, x, ends),
    ]


EXPERT_LINEAR: Operation[ExpertPasses] = Operation(
    "expert_linear",
    {
        "by_expert": ExpertPasses(_forward, _input_gradient, _weight_gradient),
        GROUPED_MM: ExpertPasses(
            _grouped_forward, _grouped_input_gradient, _grouped_weight_gradient, torch.int32
        ),
        REFERENCE: ExpertPasses(
            reference.expert_linear, _twin_input_gradient, _twin_weight_gradient
        ),
    },
    _trial,
)


def _gathered(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    by_token = rows.index_select(0, places.flatten()).view(*places.shape, -1)
    return torch.bmm(weights.unsqueeze(1), by_token).squeeze(1)


def _bag(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Read each row where it stands: so many of them, once more in memory, cost more than a sum."""
    return F.embedding_bag(places, rows, per_sample_weights=weights, mode="sum")


def _mix_trial(mix: Mix, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    rows, weights = (example(*shape, device=device, dtype=dtype) for shape in ((15, 96), (5, 3)))
    places = sent(torch.arange(15).mul(4).remainder(15).view(5, 3), device)
    with torch.no_grad():
        return [mix(rows, places, weights)]


EXPERT_MIX: Operation[Mix] = Operation(
    "expert_mix",
    {"bag": _bag, "gathered": _gathered, REFERENCE: reference.expert_mix},
    _mix_trial,
)
