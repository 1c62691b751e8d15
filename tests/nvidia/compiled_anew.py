"""Counts for which arguments Triton compiles a kernel anew; nothing is compiled.

Run as a program, outside of Triton's interpreter: python -m tests.nvidia.compiled_anew. Prints as
JSON, for each kind of number that varies from step to step, how often each kernel is compiled.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from danlu.device.variants import TRITON
from danlu.ops.cache.paged_store import step_of
from danlu.ops.choice import _OPERATIONS
from tests.nvidia.compiling import AbsentCard

CPU = torch.device("cpu")
# 1, multiples of 16 and others: for each of these Triton compiles a kernel of its own by itself.
LENGTHS = (1, 7, 16, 48, 77, 100, 256, 1000)
WIDTH, HEADS, KV_HEADS, HEAD_DIM = 512, 8, 4, 64


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(*shape, dtype=dtype)


def variant(name: str) -> Any:
    return _OPERATIONS[name].variants[TRITON]


def train() -> Iterator[None]:
    """Packed batches of different lengths, all of it that LoRA and full training call."""
    norm, gating, rotation = map(variant, ("rms_norm", "swiglu", "rotated_qkv"))
    weight, of_head = empty(WIDTH), empty(HEAD_DIM)
    for n in LENGTHS:
        norm.forward(empty(n, WIDTH), weight, 1e-6)
        gating.backward(empty(n, WIDTH), gate_up := empty(n, 2 * WIDTH))
        gating.forward(gate_up)
        qkv, angles = empty(n, (HEADS + 2 * KV_HEADS) * HEAD_DIM), empty(n, HEAD_DIM // 2)
        arguments = qkv, of_head, of_head, 1e-6, angles, angles, KV_HEADS
        rotation.forward(*arguments)
        parts = [empty(n, heads, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)]
        for with_weights in (False, True):
            norm.backward(empty(n, WIDTH), empty(n, WIDTH), weight, 1e-6, with_weights)
            rotation.backward(parts, arguments, with_weights)
        logits = empty(n, 1024).requires_grad_()
        torch.autograd.grad(
            variant("cross_entropy")(logits, torch.zeros(n, dtype=torch.long)), logits
        )
        yield


def prompts() -> Iterator[None]:
    """Steps that read prompts."""
    for n in LENGTHS[1:]:
        step = step_of([list(range(8))], [0], [n], 128, CPU)
        cache = variant("cache")(1, KV_HEADS, 9, HEAD_DIM, device=CPU, dtype=torch.bfloat16)
        q = empty(n, HEADS + 2 * KV_HEADS, HEAD_DIM)
        cache.append(0, step, q[:, HEADS:-KV_HEADS], q[:, -KV_HEADS:])
        cache.attend(0, step, q[:, :HEADS])
        yield


def choices() -> Iterator[None]:
    """Steps of different numbers of rows choose their tokens."""
    for n in LENGTHS:
        variant("draw")(empty(n, 5000), torch.empty(5, 1000)[:, :n])
        yield


def adapters() -> Iterator[None]:
    """Another adapter stands beside the others in a server, one after the other."""
    for places in range(2, 10):
        for n in (1, 4, 300):
            ends = torch.full((places,), n)
            a, b = empty(places, WIDTH, 16), empty(places, 16, WIDTH)
            t = variant("grouped_linear")(empty(n, WIDTH), a, ends)
            variant("grouped_linear")(t, b, ends, empty(n, WIDTH))
        variant("fused_linear").linear(
            *(empty(1, WIDTH), empty(WIDTH, WIDTH), empty(WIDTH), 1e-6, False, None, (a, b, ends))
        )
        yield


def few_bits() -> Iterator[None]:
    """Steps of different numbers of rows, by matrices of Qwen3-8B in int8 and int4."""
    for rows in (1, 3, 8, 12, 16, 20, 40, 64):
        for outputs in (4096, 6144, 24576):
            words = empty(outputs, 256, 4, dtype=torch.int32)
            variant("int8_linear").linear(empty(rows, 4096), words, empty(outputs))
            words = words[:, :128].contiguous()
            variant("int4_linear").linear(empty(rows, 4096), words, empty(outputs, 128, 2))
        yield


def counted(work: Callable[[], Iterator[None]]) -> dict[str, int]:
    """Count how often each kernel would be compiled."""
    compiled: Counter[str] = Counter()

    def compile(self: Any, key: Any, _signature: Any, device: Any, *_rest: Any) -> object:
        compiled[f"{self.__module__.split('.')[-1]}.{self.__name__}"] += 1
        return self.device_caches[device][0].setdefault(key, object())

    JITFunction._do_compile = compile
    for _round in work():
        pass
    return dict(compiled)


WORKS = train, prompts, choices, adapters, few_bits


if __name__ == "__main__":
    driver.set_active(AbsentCard(90))
    _run = JITFunction.run

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        return _run(self, *arguments, grid=grid, warmup=True, **named)

    JITFunction.run = run
    print(json.dumps({work.__name__: counted(work) for work in WORKS}))
