"""Whether the card's numbers are right: operations, a training, a resumed one, recorded answers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.device_check.fp8 import try_fp8
from benchmarks.device_check.part import Report
from benchmarks.device_check.shapes import SHAPES
from danlu import ops
from danlu.model.config import ModelConfig
from danlu.ops import Segments, reference

# The largest error as a share of the largest number: bf16 carries 8 bits, fp16 11. Gradients of
# bf16 are rounded several times.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}
# A training's losses beside the CPU's, in fp32 there.
NEAR_CPU = 0.05
Compute = Callable[..., Tensor | Sequence[Tensor]]


def run(settings: argparse.Namespace, report: Report) -> None:
    """Try operations over shapes; answer twice; train and resume; train in fp8."""
    shape, device = SHAPES[settings.shape], torch.device(settings.device)
    with report.trying("operations"):
        try_operations(shape.config, shape.kernel_tokens, device, report)
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
