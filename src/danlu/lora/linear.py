"""`linear` with one trainable adapter: forward and backward written by hand.

For a merged projection with input n = norm(x) (or swiglu(x), or x):

    y = n W^T, and for each part   y[out] += s * (m * n) a^T b^T        (m: dropout, s: scaling)

Only x and the small product t = (m * n) a^T are kept for the backward pass; n is computed again,
unless it is kept too.
With dy given: dt = s * dy[out] b; db = s * dy[out]^T t; da = dt^T (m * n);
dn = dy W + m * (dt a). W is frozen, so it gets no gradient. The result equals PEFT's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.lora.adapter import Adapter, stable_seed
from danlu.model.qwen3 import Head, Layer, Linear, norm_before, plain_linear, projection_input
from danlu.ops import rms_norm_backward, swiglu_backward


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
    computing it again. is_second: the value of the MLP's last projection is not needed.
    """

    adapter: Adapter
    dropout: Dropout | None = None
    keeps_normed: bool = False
    is_second: bool = False

    def second_pass(self) -> AdapterLinear:
        return replace(self, is_second=True)

    def __call__(self, layer: Layer | Head, name: str, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        if not isinstance(layer, Layer):
            return plain_linear(layer, name, x)
        addition = self.adapter.additions.get((layer.index, name))
        if addition is None:
            return plain_linear(layer, name, x)
        bs = [part.b for part in addition.parts]
        return _LoraProjection.apply(x, addition.a, self, layer, name, *bs)  # type: ignore[no-any-return, no-untyped-call]


class _LoraProjection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, linear: AdapterLinear, layer: Layer, name: str, *bs: Tensor
    ) -> Tensor:
        ctx.linear, ctx.layer, ctx.name = linear, layer, name
        parts = linear.adapter.additions[layer.index, name].parts
        n = projection_input(layer, name, x)
        a_work = a.to(x.dtype)
        dropout = linear.dropout
        if dropout is None:
            t = F.linear(n, a_work)
        else:
            masked = [
                F.linear(n * dropout.mask(layer.index, part.name, n), a_work[part.rank_rows])
                for part in parts
            ]
            t = torch.cat(masked, dim=1)
        ctx.save_for_backward(x, n if linear.keeps_normed else None, t, a, *bs)
        weight = getattr(layer, name)
        if linear.is_second and name == "down_proj":
            return x.new_empty(x.shape[0], weight.shape[0])
        y = F.linear(n, weight)
        scaling = linear.adapter.config.scaling
        for part, b in zip(parts, bs, strict=True):
            scaled = t[:, part.rank_rows] * scaling
            y[:, part.out_rows] += F.linear(scaled, b.to(x.dtype))
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, n, t, a, *bs = ctx.saved_tensors
        linear: AdapterLinear = ctx.linear
        layer: Layer = ctx.layer
        name: str = ctx.name
        parts = linear.adapter.additions[layer.index, name].parts
        scaling, dropout = linear.adapter.config.scaling, linear.dropout
        n = projection_input(layer, name, x) if n is None else n
        dt = torch.empty_like(t)
        dbs: list[Tensor] = []
        for part, b in zip(parts, bs, strict=True):
            dy_part = dy[:, part.out_rows]
            dt[:, part.rank_rows] = (dy_part @ b.to(dy.dtype)) * scaling
            db = dy_part.t() @ t[:, part.rank_rows]
            dbs.append(db.to(b.dtype).mul_(scaling))
        a_work = a.to(dy.dtype)
        dn = dy @ getattr(layer, name) if ctx.needs_input_grad[0] else None
        if dropout is None:
            da = dt.t() @ n
            if dn is not None:
                dn.addmm_(dt, a_work)
        else:
            pieces = []
            for part in parts:
                mask = dropout.mask(layer.index, part.name, n)
                dt_part = dt[:, part.rank_rows]
                pieces.append(dt_part.t() @ (n * mask))
                if dn is not None:
                    dn.add_((dt_part @ a_work[part.rank_rows]).mul_(mask))
            da = torch.cat(pieces)
        dx = None if dn is None else _input_gradient(layer, name, x, dn)
        return dx, da.to(a.dtype), None, None, None, *dbs


def _input_gradient(layer: Layer, name: str, x: Tensor, grad: Tensor) -> Tensor:
    """Carry the gradient through what precedes the projection."""
    if name == "down_proj":
        return swiglu_backward(grad, x)
    norm = norm_before(layer, name)
    if norm is None:
        return grad
    return rms_norm_backward(grad, x, norm, layer.config.rms_norm_eps, with_weight=False)[0]
