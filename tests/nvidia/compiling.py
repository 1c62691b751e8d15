"""Compiles every kernel for a card that is not here, with the arguments that its trial has.

Run as a program, outside of Triton's interpreter: python -m tests.nvidia.compiling 90. Prints what
was compiled as JSON: the kernels by operation, with the size of their machine code and the shared
memory that they take. Triton brings ptxas, so no card, driver or CUDA is needed.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from danlu.device.variants import TRITON
from danlu.ops.choice import _OPERATIONS


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
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    run = JITFunction.run

    def only_compile(self: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        kernel = run(self, *arguments, grid=grid, warmup=True, **named)
        found[operation.name].append(
            {
                "kernel": self.__name__,
                "bytes": len(kernel.asm["cubin"]),
                "shared": kernel.metadata.shared,
            }
        )
        return kernel

    JITFunction.run = only_compile
    for operation in _OPERATIONS.values():
        if TRITON in operation.variants:
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                operation._trial(operation.variants[TRITON], torch.device("cpu"), dtype)
    return found


if __name__ == "__main__":
    print(json.dumps(compiled_for(int(sys.argv[1]))))
