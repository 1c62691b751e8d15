"""What one layer of a model starts and moves, forward and backward, counted on the running code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)
from torch.utils._pytree import tree_leaves

from danlu.device.datasheets import DeviceFacts
from danlu.device.variants import FLASH
from danlu.lora.adapter import LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.config import ModelConfig
from danlu.model.qwen3 import Linear, plain_linear
from danlu.model.recompute import Recompute
from danlu.ops import Segments, reference
from danlu.ops.attention import ATTENTION, each_segment
from danlu.ops.nvidia import late_import
from danlu.ops.rms_norm import RMS_NORM
from danlu.ops.rope import ROTATED_QKV
from danlu.ops.swiglu import SWIGLU
from danlu.plan.job import BatchShape, Job, StepPlan
from danlu.plan.speed import nominal_speed, seconds_of
from tests.helpers.models.packed import packed_attention, random_adapter, random_tokens
from tests.helpers.models.tiny_model import in_fp8, tiny_model

# What moves nothing, and what is counted as products or as attention.
VIEWS = {
    "_unsafe_view", "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided",
    "expand", "new_empty", "permute", "select", "slice", "split", "split_with_sizes", "squeeze",
    "t", "transpose", "unbind", "unsafe_split", "unsqueeze", "view",
}  # fmt: skip
PRODUCTS = {"mm", "addmm", "bmm", "addmm_"}


# An adapter's side of a product here, at most; every other matrix is wider.
NARROW = 12


# What torch computes in a kernel's place.
STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("norm", "forward"): RMS_NORM.variants["torch"].forward,
    ("norm", "backward"): RMS_NORM.variants["torch"].backward,
    ("gating", "forward"): SWIGLU.variants["torch"].forward,
    ("gating", "backward"): SWIGLU.variants["torch"].backward,
    ("rotation", "forward"): ROTATED_QKV.variants["as_one"].forward,
    ("rotation", "backward"): ROTATED_QKV.variants["as_one"].backward,
}


class Counting(TorchDispatchMode):
    """Counts the operations that run, and the bytes that all but products read and write.

    with_narrow: also those of an adapter's products, which a card reads and writes no faster.
    """

    def __init__(self, *, with_narrow: bool = False) -> None:
        super().__init__()
        self.started: Counter[str] = Counter()
        self.moved_bytes = 0
        self._with_narrow = with_narrow

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if name in VIEWS:
            return out
        if name in PRODUCTS and kwargs and kwargs.get("beta") == 0:
            args = args[1:]  # what is added to is not read
        self.note(name, tree_leaves((args, kwargs, out)))
        return out

    def note(self, name: str, leaves: Sequence[Any]) -> None:
        """Count an operation with what it was given and what it returned."""
        self.started[name] += 1
        tensors = [leaf for leaf in leaves if torch.is_tensor(leaf)]
        is_narrow = any(min(tensor.shape, default=NARROW + 1) <= NARROW for tensor in tensors)
        if "attention" in name or (name in PRODUCTS and not (self._with_narrow and is_narrow)):
            return
        self.moved_bytes += sum(tensor.nbytes for tensor in tensors)


@contextmanager
def kernels_counted() -> Iterator[None]:
    """Count each call of a kernel in Triton as one operation, and attention as one each way.

    torch computes in the kernels' place, which is quicker than Triton's interpreter. Their programs
    read and write each tensor once, so what moves are the tensors that go in and come out.
    """

    def watched(module: str, name: str) -> Callable[..., Any]:
        if module == "frozen.fp8":
            return _fp8_as_two
        return partial(_as_one, f"triton_{module}_{name}", STAND_INS[module, name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(late_import, "_function", watched)
        patch.setitem(ATTENTION._chosen, "cpu", (FLASH, _AttentionAsOne.apply))
        yield


def _as_one(name: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    modes = [mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, Counting)]
    with _disable_current_modes():
        out = function(*arguments, **named)
    for mode in modes:
        mode.note(name, tree_leaves((arguments, named, out)))
    return out


def _fp8_as_two(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """As on a card: a kernel rounds by rows, torch multiplies."""
    rows, row_scales = _as_one("triton_fp8_rows", reference.quantized_rows, x)
    weight = values, scales
    return _as_one("mm", _scaled_product, rows, row_scales, weight).to(x.dtype)  # type: ignore[no-any-return]


def _scaled_product(rows: Tensor, row_scales: Tensor, weight: tuple[Tensor, Tensor]) -> Tensor:
    values, scales = weight
    return (rows.float() @ values.float().t() * row_scales[:, None] * scales).bfloat16()


class _AttentionAsOne(torch.autograd.Function):
    """As FlashAttention: keeps q, k, v, its output and a number a head and token."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.segments = segments
        return _as_one("attention", each_segment, q, k, v, segments)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        def gradients() -> tuple[Tensor, ...]:
            leaves = [part.detach().requires_grad_() for part in ctx.saved_tensors]
            with torch.enable_grad():
                out = each_segment(leaves[0], leaves[1], leaves[2], ctx.segments)
            return torch.autograd.grad(out, leaves, grad)

        return *_as_one("attention_backward", gradients), None


def counted(
    layers: int,
    lengths: list[int],
    policy: Recompute,
    lora: LoraConfig | None,
    device: str = "cpu",
    *,
    with_narrow: bool = False,
    fp8: bool = False,
) -> tuple[ModelConfig, Counter[str], int]:
    """Compute a batch of a small model forward and backward; what it did.

    Returns the operations that it started and the bytes that all but products moved.
    """
    config, model = tiny_model(num_hidden_layers=layers, device=device)
    model.to(torch.bfloat16)
    if fp8:
        model = in_fp8(model)
    linear: Linear = plain_linear
    if lora is None:
        model.requires_grad_(True)
    else:
        adapter = random_adapter(lora, config, device=device)
        for _name, parameter in adapter.parameters():
            parameter.requires_grad_(True)
            parameter.grad = torch.zeros_like(parameter)
        adapter.working(torch.bfloat16)  # the first call makes room
        linear = AdapterLinear(adapter, keeps_normed=policy not in ("selective", "gate_up"))
    tokens = random_tokens(config, sum(lengths)).to(device)
    attend = packed_attention(config, lengths, device)
    with Counting(with_narrow=with_narrow) as counting:
        hidden = model(tokens, attend, linear, policy)
        hidden.backward(torch.ones_like(hidden))
    return config, counting.started, counting.moved_bytes


def moved_by_token(
    policy: Recompute,
    lora: LoraConfig | None,
    device: str = "cpu",
    *,
    with_narrow: bool = False,
    fp8: bool = False,
) -> float:
    """Return the numbers in bf16 that a layer moves for a token: what depends on neither is out."""
    moved = [
        [
            counted(layers, [length] * 4, policy, lora, device, with_narrow=with_narrow, fp8=fp8)[2]
            for length in (8, 32)
        ]
        for layers in (2, 4)
    ]
    return (moved[1][1] - moved[0][1] - moved[1][0] + moved[0][0]) / (2 * 4 * 24)


def planned(
    config: ModelConfig,
    policy: Recompute,
    lora: LoraConfig | None,
    card: DeviceFacts,
    *,
    fp8: bool = False,
) -> tuple[float, float]:
    """Return what the plan says of a layer: operations, and numbers in bf16 that a token moves."""
    ranks = None if lora is None else dict.fromkeys(lora.target_modules, lora.r)
    job = Job(config=config, number_bytes=2, ranks=ranks, base_form="fp8" if fp8 else None)
    plan = StepPlan(micro_batch_tokens=64, chunk_rows=64, recompute=policy)
    # Products take no time.
    bare = replace(card, kind="cuda", flops=1e30, reread=0.0)
    starting = replace(bare, launch_s=1.0, bandwidth=1e30)
    moving = replace(bare, launch_s=0.0, bandwidth=1.0)

    def seconds(device: DeviceFacts, tokens: int) -> float:
        shape = BatchShape(tokens=tokens, targets=0, squares=0, segments=0)
        predicted = seconds_of(job, plan, shape, device, nominal_speed(device, 2))
        return predicted / config.num_hidden_layers

    return seconds(starting, 32), (seconds(moving, 64) - seconds(moving, 32)) / 32
