"""One optimizer step: gradients over the step's packed batches, then one update, or none at all.

The summed loss is divided by the supervised tokens of the whole step, so the update depends neither
on the packing nor on how many processes share the step: they add up their gradients once, behind
the last microstep, and with them the loss and what they wish; so all decide alike. A step whose
numbers are not finite leaves the weights as they were: the device sees to that, so the host queues
the whole step and only then asks what became of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from danlu.device.group import Group
from danlu.plan.job import StepPlan
from danlu.train.fit.advice import not_to_be_repeated
from danlu.train.loop.batches import StagedBatch, StagedStep
from danlu.train.loop.loss import loss_backward, supervised_hidden
from danlu.train.loop.method import Method
from danlu.train.loop.optimizer import Optimizer
from danlu.train.loop.precision import LossScale


class Wishes(NamedTuple):
    """What one process of a group wants all to know, or that any of them wants it.

    stop: to stop behind this step. leaner: memory ran out, from the next step on all need less.
    """

    stop: bool = False
    leaner: bool = False


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """loss: mean over supervised tokens; applied: false where a number was not finite.

    All of it is of the whole group: the loss and tokens of all its processes, the wishes of any.
    """

    loss: float
    grad_norm: float
    num_tokens: int
    applied: bool
    scale: LossScale
    wishes: Wishes


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
    staged_step: StagedStep,
    *,
    step_plan: StepPlan,
    step: int,
    learning_rate: float,
    max_grad_norm: float,
    scale: LossScale,
    group: Group,
    wishes: Callable[[], Wishes],
    between: Callable[[], None],
    meanwhile: Callable[[], None],
) -> StepResult:
    """Compute and apply one step.

    wishes: asked when this process's share is queued. between: called before each microstep; may
    raise, and then nothing has been applied. meanwhile: called when all is queued, while the device
    works; must not raise. Where only the gradient overflows, the step is computed again at half the
    loss scale: no row is lost to float16's range. Memory that runs out before all processes add up
    what they have changes nothing; from there on it is a CapacityError.
    """
    num_targets = staged_step.num_targets
    before = scale
    while True:
        optimizer.zero_grad()
        loss = torch.zeros((), device=method.base.device.torch_device)
        for staged in staged_step.batches:
            between()
            divisor = num_targets / scale.value / optimizer.averaged_over
            divisor = math.inf if staged.is_idle else divisor
            found = microstep(method, staged, step_plan=step_plan, step=step, divisor=divisor)
            optimizer.collect()
            loss += 0.0 if staged.is_idle else found
        with not_to_be_repeated():
            sums = optimizer.sum_over(group, (loss, *map(float, wishes())))
            norm = optimizer.clip(max_grad_norm, scale=scale.value)
            is_finite = (sums[0] + norm).isfinite()
            optimizer.step(learning_rate, applied=is_finite)
            method.weights_changed()
            meanwhile()
            # The step's one wait, with nothing left to queue.
            grad_norm, total, *wanted = torch.cat([norm[None], sums]).tolist()
        applied = math.isfinite(total + grad_norm)
        halved = scale.halved() if math.isfinite(total) and not applied else None
        if halved is None:
            break
        scale = halved
    return StepResult(
        loss=total / num_targets,
        grad_norm=grad_norm,
        num_tokens=staged_step.num_tokens,
        applied=applied,
        # Where no scale has helped, it was not the scale's fault.
        scale=scale.after_good_step() if applied else before,
        wishes=Wishes(*map(bool, wanted)),
    )
