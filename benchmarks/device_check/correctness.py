"""Whether the card's numbers are right: operations, a training, a resumed one, recorded answers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.device_check.fp8 import try_fp8
from benchmarks.device_check.part import Report
from benchmarks.device_check.shapes import SHAPES, CheckShape
from danlu import ops
from danlu.model.config import ModelConfig, Quantization
from danlu.model.layout import PROJECTIONS, merged_shape
from danlu.ops import Segments, reference
from danlu.ops.choice import half_dtype
from danlu.ops.frozen.quantized import whole_floats

# The largest error as a share of the largest number: bf16 carries 8 bits, fp16 11. Gradients of
# bf16 are rounded several times.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}
# A training's losses beside the CPU's, in fp32 there.
NEAR_CPU = 0.05
# Rows of a decoding step, for which kernels differ, and of a prompt.
_FEW_AND_MORE = (1, 8, 16, 40, 64, 200)
_BITS: tuple[Quantization, ...] = ("int8", "int4")
Compute = Callable[..., Tensor | Sequence[Tensor]]


def run(settings: argparse.Namespace, report: Report) -> None:
    """Try operations and products over shapes; answer twice; train and resume; train in fp8."""
    shape, device = SHAPES[settings.shape], torch.device(settings.device)
    with report.trying("operations"):
        try_operations(shape.config, shape.kernel_tokens, device, report)
    with report.trying("products of answers"):
        try_products(shape, device, report)
    with report.trying("recorded steps"):
        _recorded(device, report)
    with report.trying("training"):
        _training(settings.device, report)
    # Last, for it trains longest.
    with report.trying("fp8"):
        try_fp8(shape.config, shape.kernel_tokens[-1], device, shape.fp8_steps, report)


def try_operations(
    config: ModelConfig,
    sizes: Sequence[int],
    device: torch.device,
    report: Report,
    only: str = "",
    called: str = "",
) -> None:
    """Compare operations with their twins; only: the one of this name, called: by its variant."""
    errors, wrong = {}, []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        if device.type == "cuda" and dtype == torch.bfloat16 and not _has_bf16():
            continue
        for tokens in sizes:
            for name, taken, twin, tensors, rest in _cases(config, tokens, device, dtype):
                if only not in ("", name):
                    continue
                key = f"{name} {str(dtype)[6:]} {tokens}"
                try:
                    errors[key] = _error(taken, twin, tensors, rest)
                    if not errors[key] <= TOLERANCE[dtype]:
                        wrong.append(f"{key}: {errors[key]:.1g}")
                except Exception as problem:
                    first = (str(problem).splitlines() or [""])[0]
                    wrong.append(f"{key}: {type(problem).__name__}: {first[:80]}")
                report.put(f"{called} errors".strip(), errors)
    report.put(f"{called} wrong".strip(), wrong)
    words = f"FAILED: {len(wrong)} of {len(errors)} off, {wrong[0]}" if wrong else "all right"
    worst = max(errors, key=lambda key: errors[key], default="")
    words = f"{len(errors)} shapes and dtypes: {words}; most {worst}"
    report.put(called or "operations", len(errors), words)


def _numbers(*size: int, device: torch.device, dtype: torch.dtype, seed: int) -> Tensor:
    """Make fixed numbers, the same in all dtypes: on the card, as the host would take a second."""
    generator = torch.Generator(device).manual_seed(seed + sum(size))
    return torch.randn(size, device=device, generator=generator).bfloat16().to(dtype)


def _has_bf16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


_Case = tuple[str, Compute, Compute, list[Tensor], tuple[object, ...]]


def _cases(
    config: ModelConfig, tokens: int, device: torch.device, dtype: torch.dtype
) -> Iterator[_Case]:
    """Yield operations as the model calls them: name, the device's, the twin, tensors, the rest."""
    heads, kv_heads, head_dim = (
        config.num_attention_heads, config.num_key_value_heads, config.head_dim,
    )  # fmt: skip

    def numbers(*size: int, seed: int = 0) -> Tensor:
        return _numbers(*size, device=device, dtype=dtype, seed=seed)

    eps = config.rms_norm_eps
    # The model's width and one that no tile divides.
    for width in (config.hidden_size, config.hidden_size - 3):
        x, weight = numbers(tokens, width), numbers(width, seed=1)
        yield f"rms_norm {width}", ops.rms_norm, reference.rms_norm, [x, weight], (eps,)
    for width in (config.intermediate_size, config.intermediate_size - 5):
        yield f"swiglu {width}", ops.swiglu, reference.swiglu, [numbers(tokens, 2 * width)], ()
    qkv = numbers(tokens, (heads + 2 * kv_heads) * head_dim)
    norms = [numbers(head_dim, seed=n) for n in (1, 2)]
    table = ops.rotary_table(tokens, head_dim, config.rope_theta, device=device, dtype=dtype)
    cos, sin = (part[:tokens] for part in table)
    halves = [part[:, : head_dim // 2] for part in (cos, sin)]
    yield (
        "rotated_qkv",
        lambda a, b, c: ops.rotated_qkv(a, b, c, eps, cos, sin, kv_heads),
        lambda a, b, c: reference.rotated_qkv(a, b, c, eps, *(h.to(a) for h in halves), kv_heads),
        [qkv, *norms],
        (),
    )
    lengths = [tokens] if tokens < 4 else [tokens // 2, 1, tokens - tokens // 2 - 1]
    segments = Segments.of(lengths, device)
    if tokens <= 512:  # the twin's scores are heads x tokens x tokens
        q, k, v = (numbers(tokens, n, head_dim, seed=n) for n in (heads, kv_heads, kv_heads))
        yield (
            "attention",
            lambda a, b, c: ops.segment_attention(a, b, c, segments),
            lambda a, b, c: reference.segment_attention(a, b, c, segments.offsets),
            [q, k, v],
            (),
        )
    if tokens <= 256:
        targets = torch.arange(tokens, device=device) * 7 % config.vocab_size
        logits = numbers(tokens, config.vocab_size)
        yield (
            "cross_entropy",
            lambda a: ops.cross_entropy_sum(a * 1, targets),
            lambda a: reference.cross_entropy_sum(a, targets),
            [logits],
            (),
        )


def _error(taken: Compute, twin: Compute, tensors: list[Tensor], rest: tuple[object, ...]) -> float:
    """Return the largest error of values and gradients, as a share of the largest."""
    found = _values(taken, tensors, rest)
    expected = _values(twin, [tensor.float() for tensor in tensors], rest)
    # Where a gradient is nought, such as that of a lone key, rounding of the others is its measure.
    least = 1e-2 * max(float(right.abs().max()) for right in expected)
    shares = [
        float((got.float() - right).abs().max()) / max(float(right.abs().max()), least)
        for got, right in zip(found, expected, strict=True)
    ]
    return max(shares)


def _values(compute: Compute, tensors: list[Tensor], rest: tuple[object, ...]) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out = compute(*leaves, *rest)
    outputs = [out] if isinstance(out, Tensor) else list(out)
    upstream = [
        _numbers(*each.shape, device=each.device, dtype=each.dtype, seed=n)
        for n, each in enumerate(outputs)
    ]
    gradients = torch.autograd.grad(outputs, leaves, upstream)
    return [each.detach() for each in (*outputs, *gradients)]


@torch.inference_mode()
def try_products(shape: CheckShape, device: torch.device, report: Report) -> None:
    """Compare what multiplies for answers with plain products in fp32, at the models' widths.

    A variant's trial has small matrices: a kernel's loop over its inputs ends at once there.
    """
    dtype = half_dtype(device)
    errors: dict[str, float] = {}
    for name, found, expected in _products(shape, device, dtype):
        off = float((found.float() - expected).abs().max() / expected.abs().max())
        errors[name] = off
        report.put("product errors", errors)
    wrong = [f"{name}: {off:.1g}" for name, off in errors.items() if not off <= TOLERANCE[dtype]]
    words = f"FAILED: {len(wrong)} of {len(errors)} off, {wrong[0]}" if wrong else "all right"
    report.put("products of answers", wrong, f"{len(errors)} products: {words}")


def _products(
    shape: CheckShape, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield products by name: what the device finds, and what is expected, in fp32."""

    def numbers(*size: int, seed: int = 0) -> Tensor:
        return _numbers(*size, device=device, dtype=dtype, seed=seed)

    for name in PROJECTIONS:
        out, inner = merged_shape(shape.config, name, 0)
        weight, norm = numbers(out, inner), numbers(inner, seed=1)
        for bits in _BITS:
            module, exact = _in_bits(weight, bits)
            for rows in _FEW_AND_MORE:
                x, residual = numbers(rows, inner, seed=2), numbers(rows, out, seed=3)
                expected = x.float() @ exact.t() + residual.float()
                found = ops.end_linear(*module.begin(x, residual))
                yield f"{name} {bits} {rows}", found, expected
        a, b = numbers(3, inner, 24, seed=4) / inner**0.5, numbers(3, 24, out, seed=5)
        for rows in _FEW_AND_MORE:
            x, ends = numbers(rows, inner, seed=6), torch.tensor([0, rows // 2, rows]).to(device)
            low = reference.grouped_linear(x.float(), a.float(), ends)
            expected = reference.grouped_linear(low, b.float(), ends)
            found = ops.grouped_linear(ops.grouped_linear(x, a, ends), b, ends)
            yield f"{name} adapters {rows}", found, expected
        # `x` of one row, and where a place's rows end.
        x, ends, pair = x[:1], torch.tensor([0, 1, 1]).to(device), (a.float(), b.float())
        if ops.is_fused(x, weight):
            found = ops.fused_linear(
                x, weight, norm=norm, eps=1e-6, gated=False, residual=None, pair=(a, b, ends)
            )
            expected = reference.fused_linear(
                x.float(), weight.float(), norm.float(), 1e-6, False, None, (*pair, ends)
            )
            yield f"{name} fused", found, expected
    experts = shape.experts.experts
    assert experts is not None
    for name in ("gate_up_proj", "down_proj"):
        out, inner = merged_shape(shape.experts, name, 0)
        weight = numbers(experts.num_experts * out, inner)
        for rows in (experts.num_experts // 2, 32 * experts.num_experts):
            # Every third expert has no rows.
            chosen = torch.arange(rows, device=device) % experts.num_experts // 3 * 3
            ends = ops.expert_ends(chosen.sort().values, experts.num_experts)
            x = numbers(rows, inner, seed=7)
            found = ops.expert_linear(x, weight, ends)
            yield f"experts {name} {rows}", found, _by_expert(x, weight, ends)
            for bits in _BITS:
                module, exact = _in_bits(weight, bits, experts.num_experts)
                found = module.by_expert(x, ends)
                yield f"experts {name} {bits} {rows}", found, _by_expert(x, exact, ends)


def _by_expert(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return reference.expert_linear(x.float(), weight.float(), ends)


def _in_bits(
    weight: Tensor, bits: Quantization, experts: int = 1
) -> tuple[ops.QuantizedWeight, Tensor]:
    """Return a matrix in few bits as it multiplies, and its numbers in fp32."""
    module = ops.QuantizedWeight(weight, bits, weight.device, experts=experts)
    module.fill(weight)
    stored = module.values, module.scales
    return module, whole_floats(module.form.floats, stored, *weight.shape, torch.float32)


def _training(kind: str, report: Report) -> None:
    """Train ten steps of the starter here and on the CPU; repeat the second half."""
    from danlu.doctor.selftest import STEPS, SelfTest, _own_home
    from danlu.workflows.demo import Demo

    losses = {}
    for where in dict.fromkeys((kind, "cpu")):
        with _own_home() as home:
            test = SelfTest(where)
            test._demo = Demo(home)
            losses[where] = [step.loss for step in test.steps()]
            if where == kind:
                again = [step.loss for step in test.steps(resume=f"checkpoint-{STEPS // 2}")]
                report.put("resumed", again, _alike(again, losses[where][STEPS // 2 :]))
    report.put("losses", losses)
    off = max(abs(a - b) / b for a, b in zip(losses[kind], losses["cpu"], strict=True))
    words = f"{losses[kind][0]:.3f} -> {losses[kind][-1]:.3f}, off the CPU's by {off:.1%} at most"
    report.put("training", off, words if off <= NEAR_CPU else f"FAILED: {words}")


def _alike(again: list[float], before: list[float]) -> str:
    if again == before:
        return "the same to the last bit"
    off = max(abs(a - b) / b for a, b in zip(again, before, strict=True))
    return f"FAILED: not the same, off by up to {off:.1g}"


def _recorded(device: torch.device, report: Report) -> None:
    """Answer with recorded steps and without, greedily and drawn: token for token the same."""
    variant = ops.ops_table(device).chosen["graph"]
    if variant == "reference":
        report.put("recorded steps", variant, "SKIPPED: this device records no steps")
        return
    from benchmarks.device_check.decoding import DRAWN, GREEDY, few_answers
    from benchmarks.device_check.setup import random_model
    from danlu.device.detect import select

    base = random_model(SHAPES["tiny"].config, select(device.type))
    for name, sampling in (("recorded steps", GREEDY), ("recorded steps, drawn", DRAWN)):
        plain, recorded = (few_answers(base, sampling, records=each) for each in (False, True))
        same = plain == recorded
        report.put(name, same, "equal" if same else "FAILED: other tokens than without")
