"""The process of one side: runs its training and writes down what was seen of it.

    python -m benchmarks.train.side MODULE INPUTS OUTPUT RESULT [start]

MODULE is one of the `*_side` modules here; its `train(inputs, output)` returns the steps. With
`start` the process ends as soon as the first forward pass begins: that warms the file cache.
The first call of a module whose class is named Qwen3... is that pass, on every side.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.train.measured import Measured

# A side has used those of them that are loaded in the end.
PACKAGES = ("danlu", "tokenizers", "llamafactory", "transformers", "peft", "accelerate", "trl")


class FirstForward:
    """Notes when the model is first called, then gets out of the way."""

    def __init__(self, *, stops: bool) -> None:
        self.time: float | None = None
        self._stops = stops
        self._handle = torch.nn.modules.module.register_module_forward_pre_hook(self._called)

    def _called(self, module: torch.nn.Module, _inputs: Any) -> None:
        if type(module).__name__.startswith("Qwen3"):
            self.time = time.monotonic()
            self._handle.remove()
            if self._stops:
                os._exit(0)


def main(words: Sequence[str]) -> None:
    """Run one side as the command line says."""
    module, inputs, output, result, *start = words
    first = FirstForward(stops=bool(start))
    side = importlib.import_module(f"benchmarks.train.{module}")
    steps = side.train(Path(inputs), Path(output))
    assert first.time is not None, "no module named Qwen3... was called"
    Measured(
        first_forward=first.time, threads=torch.get_num_threads(), versions=_versions(), steps=steps
    ).save(Path(result))


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    loaded = [package for package in PACKAGES if package in sys.modules]
    return {**versions, **{package: metadata.version(package) for package in loaded}}


if __name__ == "__main__":
    main(sys.argv[1:])
