"""AdamW (Loshchilov and Hutter 2019) on one flat fp32 vector; the device decides if it applies.

Whether a step's numbers are finite is known on the device only. Waiting for that before the update
would leave the device idle, so the update is queued together with a bool tensor: where it is False,
nothing changes. Two variants: torch's fused kernel, and plain operations for devices without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from danlu.ops import reference
from danlu.ops.choice import Operation, example
from danlu.ops.reference import weight_so_far


@dataclass(frozen=True, kw_only=True)
class Moments:
    """AdamW's state for a vector: two moments of its size, and the number of updates, 0-dim."""

    exp_avg: Tensor
    exp_avg_sq: Tensor
    updates: Tensor

    @classmethod
    def zeros(cls, vector: Tensor) -> Moments:
        """Return the state before the first update, on the vector's device."""
        return cls(
            exp_avg=torch.zeros_like(vector, requires_grad=False),
            exp_avg_sq=torch.zeros_like(vector, requires_grad=False),
            updates=torch.zeros((), device=vector.device),
        )


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """The settings of a run."""

    betas: tuple[float, float]
    eps: float

    @torch.no_grad()
    def update(
        self,
        vector: Tensor,
        gradient: Tensor,
        moments: Moments,
        *,
        applied: Tensor,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        """Update a vector and its moments in place, or leave both as they are.

        vector, gradient: fp32 of one size; the gradient is used up. applied: bool 0-dim, on their
        device. The host waits for nothing.
        """
        variant = ADAMW.on(vector.device)
        variant(self, vector, gradient, moments, applied, learning_rate, weight_decay)


Variant = Callable[[AdamW, Tensor, Tensor, Moments, Tensor, float, float], None]


def _fused(
    settings: AdamW,
    vector: Tensor,
    gradient: Tensor,
    moments: Moments,
    applied: Tensor,
    learning_rate: float,
    weight_decay: float,
) -> None:
    beta1, beta2 = settings.betas
    adamw(
        [vector],
        [gradient],
        [moments.exp_avg],
        [moments.exp_avg_sq],
        [],
        [moments.updates],
        fused=True,
        # What torch's GradScaler hands over: 1 where nothing is to change.
        found_inf=applied.logical_not().float(),
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=learning_rate,
        weight_decay=weight_decay,
        eps=settings.eps,
        maximize=False,
    )


def _unfused(
    settings: AdamW,
    vector: Tensor,
    gradient: Tensor,
    moments: Moments,
    applied: Tensor,
    learning_rate: float,
    weight_decay: float,
) -> None:
    # Every change is multiplied by 0 or 1, so each number that meets it must be finite: where the
    # update is not applied, the gradient becomes 0. It also takes the intermediates: nothing of the
    # vector's size is allocated.
    beta1, beta2 = settings.betas
    one = applied.float()  # 1 or 0
    gradient.masked_fill_(applied.logical_not(), 0.0)
    moments.exp_avg.lerp_(gradient, one * (1 - beta1))
    squares = moments.exp_avg_sq.mul_(1 - one * (1 - beta2))
    squares.addcmul_(gradient, gradient, value=1 - beta2)
    count = moments.updates + 1
    divisor = torch.sqrt(squares, out=gradient)
    divisor.div_(weight_so_far(beta2, count).sqrt()).add_(settings.eps)
    change = torch.div(moments.exp_avg, divisor, out=gradient)
    vector.mul_(1 - one * (learning_rate * weight_decay))
    vector.addcmul_(change, one * learning_rate / weight_so_far(beta1, count), value=-1)
    moments.updates.add_(one)


def _twin(
    settings: AdamW,
    vector: Tensor,
    gradient: Tensor,
    moments: Moments,
    applied: Tensor,
    learning_rate: float,
    weight_decay: float,
) -> None:
    state = (vector, moments.exp_avg, moments.exp_avg_sq, moments.updates)
    changed = reference.adamw(
        state, gradient, settings.betas, settings.eps, learning_rate, weight_decay
    )
    for tensor, new in zip(state, changed, strict=True):
        tensor.copy_(torch.where(applied, new, tensor))


def _trial(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Three updates, of which the second meets infinity and must change nothing."""
    settings = AdamW(betas=(0.9, 0.999), eps=1e-8)
    vector = example(65, device=device)
    moments = Moments.zeros(vector)
    with torch.no_grad():
        for n in range(3):
            gradient = example(65, device=device, seed=n + 1)
            if n == 1:
                gradient[3] = torch.inf
            applied = gradient.isfinite().all()
            variant(settings, vector, gradient, moments, applied, 1e-2, 0.1)
    return [vector, moments.exp_avg, moments.exp_avg_sq, moments.updates]


ADAMW: Operation[Variant] = Operation(
    "adamw", {"fused": _fused, "unfused": _unfused, "reference": _twin}, _trial
)
