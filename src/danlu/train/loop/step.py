"""One optimizer step: gradients over the step's packed batches, then one update, or none at all.

The summed loss is divided by the supervised tokens of the whole step, so the update does not
depend on the packing. A step whose numbers are not finite leaves the weights as they were: the
device sees to that, so the host queues the whole step and only then asks what became of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.plan.job import StepPlan
from danlu.train.fit.advice import not_to_be_repeated
from danlu.train.loop.batches import StagedBatch
from danlu.train.loop.loss import loss_backward, supervised_hidden
from danlu.train.loop.method import Method
from danlu.train.loop.optimizer import Optimizer
from danlu.train.loop.precision import LossScale


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """loss: mean over supervised tokens; applied: false where a number was not finite."""

    loss: float
    grad_norm: float
    num_tokens: int
    applied: bool
    scale: LossScale


def microstep(
    method: Method, staged: StagedBatch, *, step_plan: StepPlan, step: int, divisor: float
) -> Tensor:
    """Run one packed batch forward and backward; add to the gradients, return the summed loss.

    step: the optimizer step, from 0, that dropout masks depend on. divisor: of the loss that is
    differentiated; see `loss_backward`.
    """
    # One policy for both: a projection keeps what the model does not compute again.
    linear = method.linear(staged.batch, step, step_plan.recompute)
    hidden, targets = supervised_hidden(method.base, linear, staged, step_plan.recompute)
    if linear.balance is not None:  # by the batch's share in the step
        linear.balance.close(staged.batch.num_targets / divisor)
    return loss_backward(
        method.base.model,
        linear,
        hidden,
        targets,
        divisor=divisor,
        chunk_rows=step_plan.chunk_rows,
    )


def optimizer_step(
    method: Method,
    optimizer: Optimizer,
    batches: Sequence[StagedBatch],
    *,
    step_plan: StepPlan,
    step: int,
    learning_rate: float,
    max_grad_norm: float,
    scale: LossScale,
    between: Callable[[], None],
    meanwhile: Callable[[], None],
) -> StepResult:
    """Compute and apply one step.

    between: called before each microstep; may raise, and then nothing has been applied. meanwhile:
    called when all is queued, while the device works; must not raise. Where only the gradient
    overflows, the step is computed again at half the loss scale: no row is lost to float16's range.
    Memory that runs out before the update changes nothing; in the update it is a CapacityError.
    """
    num_targets = sum(staged.batch.num_targets for staged in batches)
    while True:
        optimizer.zero_grad()
        loss = torch.zeros((), device=method.base.device.torch_device)
        for staged in batches:
            between()
            divisor = num_targets / scale.value
            loss += microstep(method, staged, step_plan=step_plan, step=step, divisor=divisor)
        figures = torch.stack([loss, optimizer.clip(max_grad_norm, scale=scale.value)])
        is_finite = figures.isfinite().all()
        with not_to_be_repeated():
            optimizer.step(learning_rate, applied=is_finite)
            method.weights_changed()
            meanwhile()
            total, grad_norm = figures.tolist()  # the step's one wait, with nothing left to queue
        applied = math.isfinite(total + grad_norm)
        halved = scale.halved() if math.isfinite(total) and not applied else None
        if halved is None:
            break
        scale = halved
    return StepResult(
        loss=total / num_targets,
        grad_norm=grad_norm,
        num_tokens=sum(staged.batch.num_tokens for staged in batches),
        applied=applied,
        scale=scale.after_good_step() if applied else scale,
    )
