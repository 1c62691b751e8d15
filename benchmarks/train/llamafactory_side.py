"""LLaMA-Factory's `llamafactory-cli train`, in this process, watched by a Trainer callback.

The command's entry is `run_exp`, which reads sys.argv and takes callbacks; only its banner and its
count of devices are left out.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback

from benchmarks.train.measured import Step
from benchmarks.train.recipe import TRAIN_FLAGS


def train(inputs: Path, output: Path) -> list[Step]:
    """Train with LLaMA-Factory's own defaults where the recipe says nothing."""
    sys.argv = [
        "llamafactory-cli", *TRAIN_FLAGS, "--model_name_or_path", str(inputs / "model"),
        "--output_dir", str(output), "--dataset_dir", str(inputs / "in_order"),
        "--disable_shuffling", "true", "--use_cpu", "true",
    ]  # fmt: skip
    watch = Watch()
    run_exp(callbacks=[watch])
    return watch.steps


class Watch(TrainerCallback):
    """Notes what the model is given between a step's begin and its end."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._lengths: list[int] = []
        self._computed = 0
        self._started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **about: Any) -> None:
        """Look at each microstep's batch when the model is called with it."""
        about["model"].register_forward_pre_hook(self._called, with_kwargs=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **about: Any) -> None:
        """Start the clock; the step's rows are padded already."""
        self._lengths, self._computed = [], 0
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **about: Any) -> None:
        """Stop it; the optimizer has made its step."""
        seconds = time.perf_counter() - self._started
        self.steps.append(
            Step(
                seconds=seconds,
                lengths=self._lengths,
                computed_tokens=self._computed,
                head_rows=sum(self._lengths),
            )
        )

    def _called(self, _model: Any, _args: Any, inputs: dict[str, Any]) -> None:
        mask = inputs["attention_mask"]
        self._lengths += [int(length) for length in mask.sum(dim=1)]
        self._computed += mask.numel()
