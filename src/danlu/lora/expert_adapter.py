"""What an adapter adds to experts' products: forward and backward written by hand.

For the rows x of an expert, and each part of its merged matrix:

    y[out] += s * x a^T b^T

as in `lora.linear`, with a and b of the row's expert. The two products of a layer's experts keep
what enters them: tokens behind the norm, once for all their experts, and gate and up before
swiglu. What a token's experts make of it is not kept: with w the weight of a row and
g = dy W + s dy b a the gradient of what `down_proj` multiplied, w left out, the gradient of w is
the sum of g * x.
Shapes: as in `model.experts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from danlu.lora.adapter import LowRank, Working
from danlu.model.experts import Groups
from danlu.model.qwen3 import Layer, expert_product, expert_product_gradient
from danlu.ops import (
    Blocks,
    expert_input_gradient,
    expert_linear,
    expert_weight_gradient,
    hand_over,
    swiglu,
    swiglu_backward,
)


@dataclass(frozen=True, kw_only=True)
class AddedToExperts:
    """An adapter's matrices beside one of the two merged matrices of a layer's experts.

    work: their numbers in the dtype that is computed in. mask: of dropout, as `lora.linear` has it;
    None without.
    """

    layer: Layer
    name: str
    addition: LowRank
    work: Working
    scaling: float
    mask: Callable[[int, str, Tensor], Tensor] | None = None

    def product(self, x: Tensor, groups: Groups, t: Tensor) -> Tensor:
        """Multiply rows [R, in] with their experts' matrices, and add what t [R, ranks] becomes."""
        y = expert_product(self.layer, self.name, x, groups)
        _add(y, t, self.work.b, self.scaling, groups.ends)
        return y

    def narrow(self, x: Tensor, groups: Groups) -> Tensor:
        """Return t [R, ranks]."""
        if self.mask is None:
            return expert_linear(x, self.work.a, groups.ends)
        parts = self._masked_parts(x, groups)
        return torch.cat([expert_linear(x * m, a, groups.ends) for _ranks, a, m in parts], dim=1)

    def input_gradient(self, dy: Tensor, dt: Tensor, x: Tensor, groups: Groups) -> Tensor:
        """Return the gradient of rows x [R, in]."""
        dx = expert_product_gradient(self.layer, self.name, dy, groups)
        if self.mask is None:
            return dx.add_(expert_input_gradient(dt, self.work.a, groups.ends))
        for ranks, a, mask in self._masked_parts(x, groups):
            some = dt[:, ranks].contiguous()
            dx.add_(expert_input_gradient(some, a, groups.ends).mul_(mask))
        return dx

    def a_gradient(self, dt: Tensor, x: Tensor, groups: Groups) -> Tensor:
        """Return the gradient of a."""
        if self.mask is None:
            return expert_weight_gradient(dt, x, groups.ends)
        da = torch.empty_like(self.work.a)
        of_experts = da.view(len(groups.ends), -1, da.shape[1])
        for ranks, a, mask in self._masked_parts(x, groups):
            some = expert_weight_gradient(dt[:, ranks].contiguous(), x * mask, groups.ends)
            of_experts[:, ranks] = some.view(len(of_experts), -1, a.shape[1])
        return da

    def _masked_parts(self, x: Tensor, groups: Groups) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """List the parts with their columns of t, their a, and their masks [R, in].

        A token's mask is the same for all experts, and where it has a row of each, wide enough for
        all of these: so it does not depend on what else is in the batch.
        """
        assert self.mask is not None
        tokens, experts = groups.chosen.shape
        is_shared = self.name == "gate_up_proj"
        for part in self.addition.parts:
            width = x.shape[1] * (1 if is_shared else experts)
            mask = self.mask(self.layer.index, f"experts.{part.name}", x.new_empty(tokens, width))
            by_row = groups.tokens if is_shared else groups.order
            a = self.work.a.view(len(groups.ends), -1, x.shape[1])[:, part.rank_rows]
            yield (
                part.rank_rows,
                a.flatten(0, 1),
                mask.view(-1, x.shape[1]).index_select(0, by_row),
            )

    def parameters(self) -> list[Tensor]:
        """List a and each b."""
        return [self.addition.a, *(part.b for part in self.addition.parts)]

    def handed_over(self, da: Tensor, dbs: list[Tensor]) -> list[Tensor | None]:
        """Give the gradients to a and each b, as autograd is to be answered."""
        bs = (part.b for part in self.addition.parts)
        given = [hand_over(b, db) for b, db in zip(bs, dbs, strict=True)]
        return [hand_over(self.addition.a, da), *given]


def into_experts(added: AddedToExperts, n: Tensor, groups: Groups) -> Tensor:
    """Compute `Linear.into_experts` with an adapter."""
    if not torch.is_grad_enabled():
        rows = groups.rows(n)
        return added.product(rows, groups, added.narrow(rows, groups))
    return _IntoExperts.apply(n, added, groups, *added.parameters())  # type: ignore[no-any-return, no-untyped-call]


def out_of_experts(
    added: AddedToExperts, gate_up: Tensor, groups: Groups, weights: Tensor, *, has_value: bool
) -> Tensor:
    """Compute `Linear.out_of_experts` with an adapter. has_value: whether the value is read."""
    if not torch.is_grad_enabled():
        x = swiglu(gate_up)
        return groups.mixed(added.product(x, groups, added.narrow(x, groups)), weights)
    return _OutOfExperts.apply(gate_up, weights, added, groups, has_value, *added.parameters())  # type: ignore[no-any-return, no-untyped-call]


def add_to_experts(
    y: Tensor, x: Tensor, a: Tensor, blocks: Blocks, scaling: float, ends: Tensor
) -> None:
    """Add to y [R, out] in place what an adapter makes of rows x [R, in]."""
    _add(y, expert_linear(x, a, ends), blocks, scaling, ends)


def _add(y: Tensor, t: Tensor, blocks: Blocks, scaling: float, ends: Tensor) -> None:
    for b, (out, ranks) in zip(blocks.parts, blocks.places, strict=True):
        y[:, out] += expert_linear(t[:, ranks] * scaling, b, ends)


def _narrow_gradients(
    dy: Tensor, t: Tensor, blocks: Blocks, scaling: float, ends: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return the gradient of t, and of each b in fp32."""
    dt, dbs = torch.empty_like(t), []
    for b, (out, ranks) in zip(blocks.parts, blocks.places, strict=True):
        some = dy[:, out].contiguous()
        dt[:, ranks] = expert_input_gradient(some, b, ends) * scaling
        db = expert_weight_gradient(some, t[:, ranks].contiguous(), ends)
        dbs.append(db.float().mul_(scaling))
    return dt, dbs


class _IntoExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, n: Tensor, added: AddedToExperts, groups: Groups, *_matrices: Tensor
    ) -> Tensor:
        ctx.added, ctx.groups = added, groups
        rows = groups.rows(n)
        t = added.narrow(rows, groups)
        ctx.save_for_backward(n, t)
        return added.product(rows, groups, t)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        n, t = ctx.saved_tensors
        added: AddedToExperts = ctx.added
        groups: Groups = ctx.groups
        dt, dbs = _narrow_gradients(dy, t, added.work.b, added.scaling, groups.ends)
        x = groups.rows(n)
        da = added.a_gradient(dt, x, groups)
        dn = None
        if ctx.needs_input_grad[0]:
            dn = groups.sums(added.input_gradient(dy, dt, x, groups))
        return dn, None, None, *added.handed_over(da, dbs)


class _OutOfExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gate_up: Tensor,
        weights: Tensor,
        added: AddedToExperts,
        groups: Groups,
        has_value: bool,
        *_matrices: Tensor,
    ) -> Tensor:
        ctx.added, ctx.groups = added, groups
        x = swiglu(gate_up)
        t = added.narrow(x, groups)
        ctx.save_for_backward(gate_up, weights, t)
        if not has_value:
            return x.new_empty(len(weights), added.addition.out_features)
        return groups.mixed(added.product(x, groups, t), weights)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gate_up, weights, t = ctx.saved_tensors
        added: AddedToExperts = ctx.added
        groups: Groups = ctx.groups
        x, w = swiglu(gate_up), groups.by_row(weights).unsqueeze(-1)
        dy = dy.index_select(0, groups.tokens)
        dt, dbs = _narrow_gradients(dy, t * w, added.work.b, added.scaling, groups.ends)
        g = added.input_gradient(dy, dt, x, groups)
        d_weights = None
        if ctx.needs_input_grad[1]:
            d_weights = groups.by_token((g.float() * x).sum(-1)).to(weights.dtype)
        da = added.a_gradient(dt * w, x, groups)
        d_gate_up = swiglu_backward(g * w, gate_up) if ctx.needs_input_grad[0] else None
        return d_gate_up, d_weights, None, None, None, *added.handed_over(da, dbs)
