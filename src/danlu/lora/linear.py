"""`linear` with one trainable adapter: forward and backward written by hand.

For a merged projection with input n = norm(x) (or swiglu(x), or x):

    y = n W^T + residual, and for each part
    y[out] += s * (m * n) a^T b^T        (m: dropout, s: scaling)

Only x and the small product t = (m * n) a^T are kept for the backward pass; n is computed again,
unless it is kept too.
With dy given: dt = s * dy[out] b; db = s * dy[out]^T t; da = dt^T (m * n);
dn = dy W + m * (dt a); the residual's gradient is dy. W is frozen, so it gets none. The result
equals PEFT's. Products take copies of a and b in the dtype of x, made once for a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.lora.adapter import Adapter, Working, stable_seed
from danlu.lora.expert_adapter import AddedToExperts, into_experts, out_of_experts
from danlu.model.experts import Balance, Groups
from danlu.model.qwen3 import (
    Head,
    Layer,
    Linear,
    begin_product,
    norm_before,
    plain_linear,
    product_gradient,
    projection_input,
)
from danlu.ops import (
    Stream,
    add_input_gradient,
    add_low_rank,
    end_linear,
    hand_over,
    low_rank_gradients,
    rms_norm_backward,
    swiglu_backward,
)

Copies = dict[torch.dtype, Mapping[tuple[int, str], Working]]


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """Masks as a pure function of (seed, step, segment, layer, target): no state, any packing.

    segments: (key, tokens) of each segment in the batch, the key naming row and example.
    """

    probability: float
    seed: int
    step: int
    segments: Sequence[tuple[str, int]]

    def mask(self, layer: int, target: str, like: Tensor) -> Tensor:
        """Return the mask for `like` [T, in], divided by the probability to keep."""
        keep = 1.0 - self.probability
        rows = []
        for key, tokens in self.segments:
            seed = stable_seed(self.seed, self.step, key, layer, target)
            generator = torch.Generator(device=like.device).manual_seed(seed)
            noise = torch.rand((tokens, like.shape[1]), generator=generator, device=like.device)
            rows.append(noise < keep)
        return torch.cat(rows).to(like.dtype).div_(keep)


@dataclass(frozen=True)
class AdapterLinear(Linear):
    """The `linear` of LoRA training: the frozen projection plus one adapter's addition.

    keeps_normed: keep each projection's input behind its norm or swiglu, too; costs memory, saves
    computing it again. is_second: the value of the MLP's last projection is not needed. copies: the
    adapter's matrices by dtype, made when they are first needed: good until a and b change.
    """

    adapter: Adapter
    dropout: Dropout | None = None
    keeps_normed: bool = False
    is_second: bool = False
    copies: Copies = field(default_factory=dict)
    balance: Balance | None = None

    def second_pass(self) -> AdapterLinear:
        return replace(self, is_second=True)

    def __call__(
        self, layer: Layer | Head, name: str, x: Tensor | Stream, residual: Tensor | None = None
    ) -> Tensor:  # [T, in] -> [T, out]
        if not isinstance(layer, Layer):
            return plain_linear(layer, name, x, residual)
        addition = self.adapter.additions.get((layer.index, name))
        if addition is None:
            return plain_linear(layer, name, x, residual)
        if not torch.is_grad_enabled():
            return self.compute(layer, name, x, residual)[0]
        bs = [part.b for part in addition.parts]
        return _LoraProjection.apply(x, residual, addition.a, self, layer, name, *bs)  # type: ignore[no-any-return, no-untyped-call]

    def into_experts(self, layer: Layer, n: Tensor, groups: Groups) -> Tensor:
        added = self._added_to_experts(layer, "gate_up_proj", n.dtype)
        if added is None:
            return super().into_experts(layer, n, groups)
        return into_experts(added, n, groups)

    def out_of_experts(
        self, layer: Layer, gate_up: Tensor, groups: Groups, weights: Tensor
    ) -> Tensor:
        added = self._added_to_experts(layer, "down_proj", gate_up.dtype)
        if added is None:
            return super().out_of_experts(layer, gate_up, groups, weights)
        return out_of_experts(added, gate_up, groups, weights, has_value=not self.is_second)

    def _added_to_experts(
        self, layer: Layer, name: str, dtype: torch.dtype
    ) -> AddedToExperts | None:
        addition = self.adapter.additions.get((layer.index, name))
        if addition is None:
            return None
        return AddedToExperts(
            layer=layer,
            name=name,
            addition=addition,
            work=self.working(layer, name, dtype),
            scaling=self.adapter.config.scaling,
            mask=None if self.dropout is None else self.dropout.mask,
        )

    def working(self, layer: Layer, name: str, dtype: torch.dtype) -> Working:
        """Return the matrices of one projection in a dtype."""
        if dtype not in self.copies:
            self.copies[dtype] = self.adapter.working(dtype)
        return self.copies[dtype][layer.index, name]

    def compute(
        self, layer: Layer, name: str, x: Tensor | Stream, residual: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return y, and n and t behind it; see above. Where y is not needed, it is left empty."""
        addition = self.adapter.additions[layer.index, name]
        parts = addition.parts
        n = projection_input(layer, name, x)
        work = self.working(layer, name, n.dtype)
        if self.dropout is None:
            t = F.linear(n, work.a)
        else:
            masked = [
                F.linear(n * self.dropout.mask(layer.index, part.name, n), work.a[part.rank_rows])
                for part in parts
            ]
            t = torch.cat(masked, dim=1)
        if self.is_second and name == "down_proj":
            return n.new_empty(len(n), addition.out_features), n, t
        y, left = begin_product(layer, name, n, residual)
        add_low_rank(y, t, work.b, self.adapter.config.scaling)
        return end_linear(y, left), n, t


class _LoraProjection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        a: Tensor,
        linear: AdapterLinear,
        layer: Layer,
        name: str,
        *bs: Tensor,
    ) -> Tensor:
        ctx.linear, ctx.layer, ctx.name = linear, layer, name
        y, n, t = linear.compute(layer, name, x, residual)
        ctx.save_for_backward(x, n if linear.keeps_normed else None, t)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, n, t = ctx.saved_tensors
        linear: AdapterLinear = ctx.linear
        layer: Layer = ctx.layer
        name: str = ctx.name
        addition = linear.adapter.additions[layer.index, name]
        work = linear.working(layer, name, x.dtype)
        scaling, dropout = linear.adapter.config.scaling, linear.dropout
        n = projection_input(layer, name, x) if n is None else n
        dt, dbs = low_rank_gradients(dy, t, work.b, scaling)
        dn = product_gradient(layer, name, dy) if ctx.needs_input_grad[0] else None
        if dropout is None:
            da = dt.t() @ n
            if dn is not None:
                add_input_gradient(dn, dt, work.a)
        else:
            pieces = []
            for part in addition.parts:
                mask = dropout.mask(layer.index, part.name, n)
                dt_part = dt[:, part.rank_rows]
                pieces.append(dt_part.t() @ (n * mask))
                if dn is not None:
                    dn.add_((dt_part @ work.a[part.rank_rows]).mul_(mask))
            da = torch.cat(pieces)
        dx = None if dn is None else _input_gradient(layer, name, x, dn)
        d_residual = dy if ctx.needs_input_grad[1] else None
        bs = [part.b for part in addition.parts]
        return (
            *(dx, d_residual, hand_over(addition.a, da), None, None, None),
            *(hand_over(b, db) for b, db in zip(bs, dbs, strict=True)),
        )


def _input_gradient(layer: Layer, name: str, x: Tensor, grad: Tensor) -> Tensor:
    """Carry the gradient through what precedes the projection."""
    if name == "down_proj":
        return swiglu_backward(grad, x)
    norm = norm_before(layer, name)
    if norm is None:
        return grad
    return rms_norm_backward(grad, x, norm, layer.config.rms_norm_eps, with_weight=False)[0]
