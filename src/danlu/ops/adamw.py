"""AdamW (Loshchilov and Hutter 2019) on one flat fp32 vector, with the device as the judge.

Whether a step's numbers are finite is known on the device only. To ask it before the update would
leave it idle meanwhile, so the update is queued with the answer as a tensor: where it is no,
nothing changes. Two variants: torch's fused kernel, and plain operations for devices without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What AdamW remembers of a vector: both moments, and the updates applied so far, 0-dim."""

    exp_avg: Tensor
    exp_avg_sq: Tensor
    updates: Tensor

    @classmethod
    def zeros(cls, vector: Tensor) -> Moments:
        """Start anew, where the vector lies."""
        return cls(
            exp_avg=torch.zeros_like(vector, requires_grad=False),
            exp_avg_sq=torch.zeros_like(vector, requires_grad=False),
            updates=torch.zeros((), device=vector.device),
        )


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """The settings of a run, and which variant its device takes."""

    betas: tuple[float, float]
    eps: float
    fused: bool

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
        if self.fused:
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
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=learning_rate,
                weight_decay=weight_decay,
                eps=self.eps,
                maximize=False,
            )
        else:
            self._update_plainly(
                vector, gradient, moments, applied, learning_rate, learning_rate * weight_decay
            )

    def _update_plainly(
        self,
        vector: Tensor,
        gradient: Tensor,
        moments: Moments,
        applied: Tensor,
        rate: float,
        decay: float,
    ) -> None:
        """Update without memory of the vector's size: the gradient's serves for what is between.

        Every change is multiplied by 0 or 1, so each number that meets it must be finite: where the
        update is not applied, the gradient becomes 0.
        """
        beta1, beta2 = self.betas
        one = applied.float()  # 1 or 0
        gradient.masked_fill_(applied.logical_not(), 0.0)
        moments.exp_avg.lerp_(gradient, one * (1 - beta1))
        squares = moments.exp_avg_sq.mul_(1 - one * (1 - beta2))
        squares.addcmul_(gradient, gradient, value=1 - beta2)
        count = moments.updates + 1
        divisor = torch.sqrt(squares, out=gradient)
        divisor.div_(_weight_so_far(beta2, count).sqrt()).add_(self.eps)
        change = torch.div(moments.exp_avg, divisor, out=gradient)
        vector.mul_(1 - one * decay)
        vector.addcmul_(change, one * rate / _weight_so_far(beta1, count), value=-1)
        moments.updates.add_(one)


def _weight_so_far(beta: float, count: Tensor) -> Tensor:
    """Return 1 - beta^count, which a moment is divided by, without fp32's loss near 1."""
    return -torch.expm1(count * (math.log(beta) if beta else -math.inf))
