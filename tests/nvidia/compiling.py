"""Compiles every kernel for a card that is not here, with the arguments that its trial has.

Those of decoding, whose tiles follow from the shapes, also with the shapes of Qwen3's models.

Run as a program, outside of Triton's interpreter: python -m tests.nvidia.compiling 90. Prints what
was compiled as JSON: the kernels by operation, with the size of their machine code, the shared
memory that they take, the instructions of their longest loop, and whether sums of products are in
the memory that Blackwell has for them. Triton brings ptxas and nvdisasm, so no card, driver or CUDA
is needed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from danlu.device.nvidia_cards import BLACKWELL
from danlu.device.variants import TRITON
from danlu.ops.cache.paged_store import step_of
from danlu.ops.choice import _OPERATIONS
from danlu.ops.expert_products import ExpertPasses
from danlu.ops.nvidia.frozen import few_bits_kernels


class AbsentCard:
    """What Triton asks a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int = 0) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target


def compiled_for(capability: int) -> dict[str, list[dict[str, Any]]]:
    """Compile the kernels of all operations in every dtype; nothing is started."""
    driver.set_active(AbsentCard(capability))
    few_bits_kernels.has_tensor_memory = lambda: capability // 10 == BLACKWELL
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    run = JITFunction.run

    def only_compile(self: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        kernel = run(self, *arguments, grid=grid, warmup=True, **named)
        found[operation.name].append(
            {
                "kernel": self.__name__,
                "bytes": len(kernel.asm["cubin"]),
                "shared": kernel.metadata.shared,
                "loop": longest_loop(kernel.asm["cubin"]),
                "tensor_memory": "tcgen05.mma" in kernel.asm["ptx"],
            }
        )
        return kernel

    JITFunction.run = only_compile
    for operation in _OPERATIONS.values():
        if TRITON in operation.variants:
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                operation._trial(operation.variants[TRITON], torch.device("cpu"), dtype)
            for arguments in real_arguments(operation.name):
                compute(operation.variants[TRITON], *arguments)
    return found


def longest_loop(cubin: bytes) -> int:
    """Count the instructions from a label to the last jump back to it; 0: there is no loop."""
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
        text = subprocess.run([tool, file.name], capture_output=True, text=True, check=True).stdout
    count, labels, longest = 0, {}, 0
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = count
        elif re.search(r"/\*[0-9a-f]{4,}\*/", line):
            count += 1
            jump = re.search(r"\bBRA\b.*?(\.L_x_\d+)", line)
            if jump and jump[1] in labels:
                longest = max(longest, count - labels[jump[1]])
    return longest


def compute(variant: Any, *arguments: Any) -> None:
    """Call a variant of a decoding step's operations, the cache's included."""
    if isinstance(variant, type):
        step, (heads, kv_heads, head_dim), dtype = arguments
        cache = variant(1, kv_heads, 4, head_dim, device=torch.device("cpu"), dtype=dtype)
        tokens = sum(step.counts)
        q = torch.empty(tokens, heads + 2 * kv_heads, head_dim, dtype=dtype)
        cache.append(0, step, q[:, heads : heads + kv_heads], q[:, -kv_heads:])
        cache.attend(0, step, q[:, :heads])
    elif isinstance(variant, Mapping):
        name, *rest = arguments
        variant[name].linear(*rest)
    elif isinstance(variant, ExpertPasses):
        x, weight, ends = arguments
        dy = variant.forward(x, weight, ends)
        variant.input_gradient(dy, weight, ends)
    else:
        getattr(variant, "linear", variant)(*arguments)


def real_arguments(name: str) -> Iterator[tuple[Any, ...]]:
    """Arguments of a decoding step's operations as Qwen3 has them; nobody reads the numbers."""

    dtype = torch.bfloat16

    def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(*shape, dtype=dtype)

    if name == "cache":
        for heads in ((32, 8, 128), (40, 8, 128), (16, 4, 256)):
            for ends in ([300], [300] * 64):
                starts = [end - 1 for end in ends]
                tables = [[0, 1, 2]] * len(ends)
                yield step_of(tables, starts, ends, 128, torch.device("cpu")), heads, dtype
            yield step_of([[0, 1]], [0], [256], 128, torch.device("cpu")), heads, dtype
    for rows in (1, 64):
        x = empty(rows, 4096)
        if name == "int8_linear":
            yield x, empty(4096, 256, 4, dtype=torch.int32), empty(4096)
        if name == "int4_linear":
            yield x, empty(4096, 128, 4, dtype=torch.int32), empty(4096, 128, 2)
        if name == "draw":
            yield empty(rows, 151936), torch.empty(5, rows)
    if name == "fused_linear":
        row, weight = empty(1, 4096), empty(6144, 4096)
        pair = empty(2, 4096, 24), empty(2, 24, 6144), torch.tensor([0, 1])
        yield row, weight, empty(4096), 1e-6, False, None, pair
        yield empty(1, 8192), weight, None, 1e-6, True, empty(1, 6144), None
    if name == "expert_linear":
        for rows in (64, 4096, 65536):
            ends = torch.full((128,), rows, dtype=torch.int32)
            yield empty(rows, 2048), empty(128 * 1536, 2048), ends
    if name == "expert_bits":
        for rows in (64, 4096):
            x, ends = empty(rows, 2048), torch.full((128,), rows, dtype=torch.int32)
            words = empty(128 * 8, 128, 4, dtype=torch.int32)
            yield "int8", x, words, empty(128 * 8), ends
            yield "int4", x, words[:, :64].contiguous(), empty(128 * 8, 64, 2), ends
    for rows in (1, 512):
        if name == "grouped_linear":
            ends = torch.tensor([0, rows])
            for rank in (16, 192):
                yield empty(rows, 4096), empty(2, 4096, rank), ends
                yield empty(rows, rank), empty(2, rank, 6144), ends


if __name__ == "__main__":
    print(json.dumps(compiled_for(int(sys.argv[1]))))
