"""What Ascend's fused kernels compute, as op-plugin's pages document it, on host tensors.

Registered in torch's namespace `npu` with the real schemas: so torch itself refuses a call whose
names or types torch_npu would not take, and the simulated device counts each call as one operation
and looks its arguments up in `limits.py`. Operations that torch_npu differentiates save here what
they save there; the others refuse a tensor that wants a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.sim.record import note_refusal, place
from tests.sim.refusals import NotOnTheCard
from tests.sim.schemas import SCHEMAS

_WITH_GRADIENT = ("npu_rms_norm", "npu_rotary_mul", "npu_swiglu", "npu_fusion_attention")


def register() -> torch.library.Library:
    """Declare the operations; they are there as long as what is returned."""
    library = torch.library.Library("npu", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
        name = schema.partition("(")[0]
        library.impl(name, _computing(name), "CPU")
        if name not in _WITH_GRADIENT:
            overload = getattr(torch.ops.npu, name).default
            library.impl(name, _without_gradient(name, overload), "Autograd")
    for name, (keep, backward) in _GRADIENTS.items():
        torch.library.register_autograd(f"npu::{name}", backward, setup_context=keep, lib=library)
    return library


def _computing(name: str) -> Callable[..., Any]:
    names = [argument.name for argument in getattr(torch.ops.npu, name).default._schema.arguments]
    return lambda *args, **named: COMPUTES[name](**dict(zip(names, args, strict=False)), **named)


def _without_gradient(name: str, overload: torch._ops.OpOverload) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            sentence = f"On an Ascend 910B {name} has no gradient: {place()}"
            note_refusal(sentence)
            raise NotOnTheCard(sentence)
        with torch._C._AutoDispatchBelowAutograd():
            return overload(*args, **kwargs)

    return kernel


def npu_rms_norm(input: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Return x * rstd * gamma, rounded once, and rstd in fp32 with the normed dimensions as 1."""
    x = input.float()
    dims = tuple(range(-gamma.dim(), 0))
    rstd = torch.rsqrt(x.square().mean(dims, keepdim=True) + epsilon)
    return (x * rstd * gamma.float()).to(input.dtype), rstd


def npu_add_rms_norm(
    x1: Tensor, x2: Tensor, gamma: Tensor, epsilon: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norm of the rounded sum, rstd as `npu_rms_norm` does, and the sum."""
    total = (x1.float() + x2.float()).to(x1.dtype)
    return *npu_rms_norm(total, gamma, epsilon), total


def npu_rms_norm_backward(
    dy: Tensor, input: Tensor, gamma: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    """Return dx in the input's dtype and dgamma in fp32."""
    dims = tuple(range(-gamma.dim(), 0))
    n, weighted = input.float() * rstd, dy.float() * gamma.float()
    dx = rstd * (weighted - n * (weighted * n).mean(dims, keepdim=True))
    dgamma = (dy.float() * n).reshape(-1, *gamma.shape).sum(0)
    return dx.to(input.dtype), dgamma


def npu_rotary_mul(
    input: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half", rotate: Tensor | None = None
) -> Tensor:
    """Return r1 * x + r2 * (-second half, first half)."""
    first, second = input.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (r1.float() * input.float() + r2.float() * turned).to(input.dtype)


def npu_swiglu(input: Tensor, dim: int = -1) -> Tensor:
    """Return silu(first half) * second half."""
    gate, up = input.float().chunk(2, dim)
    return (F.silu(gate) * up).to(input.dtype)


def npu_swiglu_backward(grad_output: Tensor, input: Tensor, dim: int = -1) -> Tensor:
    """Return the gradient of the whole input."""
    gate, up = input.float().chunk(2, dim)
    grad, sigmoid = grad_output.float(), torch.sigmoid(gate)
    d_gate = grad * up * sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat((d_gate, grad * F.silu(gate)), dim).to(input.dtype)


def _lengths(ends: Sequence[int]) -> list[int]:
    return [end - start for start, end in pairwise((0, *ends))]


def _scores(q: Tensor, k: Tensor, scale: float, causal: bool) -> Tensor:
    """Scores [heads, queries, keys] in fp32; the last query stands at the last key."""
    k = k.float().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = torch.einsum("qhd,khd->hqk", q.float(), k) * scale
    if causal:
        rows = torch.arange(len(q)) + len(k) - len(q)
        scores.masked_fill_(torch.arange(len(k)) > rows[:, None], -torch.inf)
    return scores


def _attended(weights: Tensor, v: Tensor) -> Tensor:
    v = v.float().repeat_interleave(weights.shape[0] // v.shape[1], dim=1)
    return torch.einsum("hqk,khd->qhd", weights, v)


def npu_fusion_attention(
    query: Tensor, key: Tensor, value: Tensor, head_num: int, input_layout: str, **named: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int, int]:
    """Packed segments (TND): the output, and the softmax's maxima and sums, eight times each."""
    lengths = _lengths(named["actual_seq_qlen"])
    causal = named.get("sparse_mode", 0) == 3 and named.get("atten_mask") is not None
    outputs, maxima, sums = [], [], []
    for q, k, v in zip(*(t.split(lengths) for t in (query, key, value)), strict=True):
        scores = _scores(q, k, named.get("scale", 1.0), causal)
        largest = scores.amax(2, keepdim=True)
        powers = (scores - largest).exp()
        total = powers.sum(2, keepdim=True)
        outputs.append(_attended(powers / total, v))
        maxima.append(largest.transpose(0, 1).expand(-1, -1, 8))
        sums.append(total.transpose(0, 1).expand(-1, -1, 8))
    out = torch.cat(outputs).to(query.dtype)
    return out, torch.cat(maxima), torch.cat(sums), query.new_empty(0), 0, 0, 0


def npu_fusion_attention_grad(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    head_num: int,
    input_layout: str,
    **named: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from the maxima and sums that were kept."""
    lengths = _lengths(named["actual_seq_qlen"])
    scale, causal = named.get("scale_value", 1.0), named.get("sparse_mode", 0) == 3
    kept = (named[name] for name in ("softmax_max", "softmax_sum", "attention_in"))
    found = [
        _segment_gradients(*parts, scale=scale, causal=causal)
        for parts in zip(*(t.split(lengths) for t in (query, key, value, dy, *kept)), strict=True)
    ]
    dq, dk, dv = (torch.cat(parts).to(query.dtype) for parts in zip(*found, strict=True))
    return dq, dk, dv, query.new_empty(0), query.new_empty(0)


def _segment_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dy: Tensor,
    largest: Tensor,
    total: Tensor,
    out: Tensor,
    *,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    scores = _scores(q, k, scale, causal)
    largest, total = (t[..., :1].transpose(0, 1) for t in (largest, total))
    weights = (scores - largest).exp() / total
    repeat = q.shape[1] // k.shape[1]
    k32, v32 = (t.float().repeat_interleave(repeat, dim=1) for t in (k, v))
    dy32 = dy.float()
    mean = (dy32 * out.float()).sum(-1).t()[..., None]  # [heads, queries, 1]
    d_scores = weights * (torch.einsum("qhd,khd->hqk", dy32, v32) - mean) * scale
    dq = torch.einsum("hqk,khd->qhd", d_scores, k32)
    dk = torch.einsum("hqk,qhd->khd", d_scores, q.float())
    dv = torch.einsum("hqk,qhd->khd", weights, dy32)
    dk, dv = (t.unflatten(1, (-1, repeat)).sum(2) for t in (dk, dv))
    return dq, dk, dv


def npu_scatter_pa_kv_cache(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    **named: Any,
) -> None:
    """Write each token's heads into its slot of [blocks, block_size, heads, head_dim]."""
    for cache, new in ((key_cache, key), (value_cache, value)):
        cache.view(-1, *cache.shape[2:])[slot_mapping.long()] = new


def npu_fused_infer_attention_score(
    query: Tensor, key: Tensor, value: Tensor, **named: Any
) -> tuple[Tensor, Tensor]:
    """TND with pages: each request's last tokens attend to all of its tokens."""
    counts = _lengths(named["actual_seq_lengths"])
    heads, size = named["num_key_value_heads"], named["block_size"]
    outputs = []
    for q, blocks, end in zip(
        query.split(counts), named["block_table"], named["actual_seq_lengths_kv"], strict=False
    ):
        used = blocks[: -(-end // size)].long()
        k, v = (t[used].view(-1, heads, q.shape[2])[:end] for t in (key, value))
        outputs.append(_attended(_scores(q, k, named["scale"], causal=True).softmax(2), v))
    return torch.cat(outputs).to(query.dtype), query.new_zeros(1, dtype=torch.float32)


def npu_weight_quant_batchmatmul(
    x: Tensor,
    weight: Tensor,
    antiquant_scale: Tensor,
    antiquant_offset: Tensor | None = None,
    antiquant_group_size: int = 0,
    **named: Any,
) -> Tensor:
    """Return x @ ((weight + offset) * scale); scale and offset [N], or [groups, N]."""
    offset = torch.zeros_like(antiquant_scale) if antiquant_offset is None else antiquant_offset
    return (x.float() @ _from_few_bits(weight, antiquant_scale, offset)).to(x.dtype)


def _from_few_bits(weight: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Return floats [K, N] of int8, or of eight int4 in an int32 [K, N / 8]."""
    if weight.dtype == torch.int32:
        shifts = torch.arange(0, 32, 4, dtype=torch.int32)
        nibbles = (weight[..., None] >> shifts) & 15
        weight = torch.where(nibbles >= 8, nibbles - 16, nibbles).flatten(-2)
    scale, offset = scale.float(), offset.float()
    if scale.dim() == 2:
        size = len(weight) // len(scale)
        scale, offset = (t.repeat_interleave(size, 0) for t in (scale, offset))
    return (weight.float() + offset) * scale


def npu_grouped_matmul(x: Sequence[Tensor], weight: Sequence[Tensor], **named: Any) -> list[Tensor]:
    """Group rows of one tensor (group_type 0): each with its matrix of [groups, in, out].

    Rows behind the last group are whatever was in memory. Few bits with scales and offsets are as
    in `npu_weight_quant_batchmatmul`. With group_type 2 what is summed over is
    in groups: x [out, rows], weight [rows, in] -> [groups, out, in]; that a group without rows
    gives zeros is assumed.
    """
    (rows,), (matrices,) = x, weight
    starts = [0, *named["group_list"].tolist()]
    if named["group_type"] == 2:
        sums = [
            rows[:, start:end].float() @ matrices[start:end].float()
            for start, end in pairwise(starts)
        ]
        return [torch.stack(sums).to(rows.dtype)]
    if named.get("antiquant_scale") is not None:
        (scales,), (offsets,) = named["antiquant_scale"], named["antiquant_offset"]
        matrices = torch.stack(list(map(_from_few_bits, matrices, scales, offsets)))
    y = rows.new_full((len(rows), matrices.shape[2]), torch.nan)
    for (start, end), matrix in zip(pairwise(starts), matrices, strict=True):
        y[start:end] = (rows[start:end].float() @ matrix.float()).to(rows.dtype)
    return [y]


def npu_top_k_top_p(logits: Tensor, p: Tensor | None = None, k: Tensor | None = None) -> Tensor:
    """Leave of each row what is among the k largest, and of these what makes up p of all.

    All that tie with the last of the k stay. By probability in ascending order, as they were where
    they are alike; the likeliest always stays. -infinity takes the others' place.
    """
    ascending, order = logits.float().sort(dim=-1, stable=True)
    if k is not None:
        last = ascending.gather(-1, (logits.shape[-1] - k.long())[:, None])
        ascending = ascending.masked_fill(ascending < last, -torch.inf)
    if p is not None:
        is_out = ascending.softmax(-1).cumsum(-1) <= 1 - p.float()[:, None]
        is_out[:, -1] = False
        ascending = ascending.masked_fill(is_out, -torch.inf)
    return torch.empty_like(ascending).scatter_(-1, order, ascending).to(logits.dtype)


# By name, so that a test can put a wrong one in its place.
COMPUTES: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *(npu_rms_norm, npu_rms_norm_backward, npu_add_rms_norm),
        *(npu_rotary_mul, npu_swiglu, npu_swiglu_backward),
        *(npu_fusion_attention, npu_fusion_attention_grad, npu_scatter_pa_kv_cache),
        *(npu_fused_infer_attention_score, npu_weight_quant_batchmatmul, npu_grouped_matmul),
        npu_top_k_top_p,
    )
}


def _keep_norm(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)  # nobody differentiates the other results
    x, gamma, *_rest = inputs
    ctx.save_for_backward(x, gamma, output[1])


def _norm_gradients(ctx: Any, dy: Tensor, _d_rstd: Tensor) -> tuple[Tensor | None, ...]:
    x, gamma, rstd = ctx.saved_tensors
    dx, dgamma = torch.ops.npu.npu_rms_norm_backward(dy, x, gamma, rstd)
    return dx, dgamma.to(gamma.dtype), None


def _keep_swiglu(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.dim = inputs[1]


def _swiglu_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.npu.npu_swiglu_backward(grad, ctx.saved_tensors[0], dim=ctx.dim), None


def _keep_rotation(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])


def _rotation_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    _x, r1, r2 = ctx.saved_tensors
    return torch.ops.npu.npu_rotary_mul(grad, r1, -r2), None, None, None, None


def _keep_attention(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    arguments = torch.ops.npu.npu_fusion_attention.default._schema.arguments
    named = {argument.name: value for argument, value in zip(arguments, inputs, strict=False)}
    mask = named["atten_mask"]
    ctx.save_for_backward(*inputs[:3], mask, *output[:3])
    ctx.named = {
        name: named[name] for name in ("actual_seq_qlen", "actual_seq_kvlen", "sparse_mode")
    }
    ctx.heads, ctx.layout, ctx.scale = inputs[3], inputs[4], named["scale"]


def _attention_gradients(ctx: Any, dy: Tensor, *_rest: Any) -> tuple[Tensor | None, ...]:
    q, k, v, mask, out, largest, total = ctx.saved_tensors
    dq, dk, dv, *_others = torch.ops.npu.npu_fusion_attention_grad(
        q, k, v, dy, ctx.heads, ctx.layout,
        atten_mask=mask, softmax_max=largest, softmax_sum=total, attention_in=out,
        scale_value=ctx.scale, **ctx.named,
    )  # fmt: skip
    return dq, dk, dv, *[None] * 21


_GRADIENTS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "npu_rms_norm": (_keep_norm, _norm_gradients),
    "npu_swiglu": (_keep_swiglu, _swiglu_gradient),
    "npu_rotary_mul": (_keep_rotation, _rotation_gradient),
    "npu_fusion_attention": (_keep_attention, _attention_gradients),
}
