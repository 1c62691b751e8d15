"""Memory that is full when a test says so, in the words of a real allocator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from danlu.model.qwen3 import Layer
from danlu.model.recompute import Recompute
from danlu.train.loop import trainer


def full_card() -> None:
    """Fail as torch does on an accelerator."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def full_host() -> None:
    """Fail as torch does on the CPU: by asking for more than there is."""
    torch.empty(2**60, dtype=torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A microstep: which one of the process, its tokens, its policy, whether it learns.

    step: the optimizer step it belongs to, from 1; 0 before the first one and in evaluations.
    """

    number: int
    step: int
    tokens: int
    recompute: Recompute
    learns: bool


@contextmanager
def failing_allocator(
    is_full: Callable[[Moment], bool],
    *,
    fail: Callable[[], None] = full_host,
    in_backward: bool = False,
) -> Iterator[list[Moment]]:
    """Let a microstep fail in its second layer, or in that layer's backward pass.

    Gives the list of the microsteps that failed, which grows.
    """
    real, real_step, failed = Layer.forward, trainer.optimizer_step, []
    number = step = 0

    def optimizer_step(*values: Any, **named: Any) -> Any:
        nonlocal step
        step = named["step"] + 1
        try:
            return real_step(*values, **named)
        finally:
            step = 0

    def forward(
        layer: Layer, x: Tensor, attend: Any, linear: Any, recompute: Recompute = "none"
    ) -> Tensor:
        nonlocal number
        number += layer.index == 0
        moment = Moment(
            number=number - 1,
            step=step,
            tokens=len(x),
            recompute=recompute,
            learns=torch.is_grad_enabled(),
        )
        y = real(layer, x, attend, linear, recompute)
        if layer.index != 1 or not is_full(moment):
            return y
        failed.append(moment)
        if in_backward and moment.learns:
            # The layer's own gradients are there by then, those of the layer below are not.
            x.register_hook(lambda _gradient: fail())
        else:
            fail()
        return y

    with (
        patch.object(Layer, "forward", forward),
        patch.object(trainer, "optimizer_step", optimizer_step),
    ):
        yield failed
