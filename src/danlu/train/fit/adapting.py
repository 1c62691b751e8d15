"""How a run computes, adapted whenever memory runs out: the same again, with less memory.

What is computed again begins from its beginning, and nothing of the failed try is left behind. The
way that was found stays for the rest of the run.

Knows that something can be tried; must not know what it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from danlu.data.tokens.examples import Example
from danlu.data.tokens.pack import pack
from danlu.device.detect import Device
from danlu.device.memory import free_cache, is_out_of_memory
from danlu.errors import CapacityError
from danlu.language import _
from danlu.model.recompute import helpful_policies
from danlu.plan.job import StepPlan
from danlu.train.events import Adapted, Moment
from danlu.train.fit.ladder import longest_example, next_rung

Result = TypeVar("Result")


class OutOfMemory(Exception):
    """The ladder has ended. longest: tokens of the longest example, which cannot be divided."""

    def __init__(self, *, moment: Moment, step: int, longest: int, step_plan: StepPlan) -> None:
        super().__init__(f"out of memory at step {step} ({moment})")
        self.moment = moment
        self.step = step
        self.longest = longest
        self.step_plan = step_plan


class Adapting:
    """Holds the step_plan of a run."""

    def __init__(self, step_plan: StepPlan, device: Device) -> None:
        self.step_plan = step_plan
        self._device = device

    def until_it_fits(
        self,
        compute: Callable[[StepPlan], Result],
        examples: Callable[[], Sequence[Example]],
        *,
        moment: Moment,
        step: int,
        note: Callable[[Adapted], None],
    ) -> Generator[Adapted, None, Result]:
        """Compute with less and less memory until it fits; yield every change, return the result.

        examples: what is packed and computed; note: told of a change before anybody else. Raises
        OutOfMemory at the end of the ladder.
        """
        while True:
            try:
                return compute(self.step_plan)
            except Exception as fault:
                if not is_out_of_memory(fault):
                    raise
            # Only here, behind the `except`, is the exception gone, and with it the frames of its
            # traceback, which held every tensor of the try.
            free_cache(self._device.torch_device)
            change = self._adapt(examples(), moment, step)
            note(change)
            yield change

    def _adapt(self, examples: Sequence[Example], moment: Moment, step: int) -> Adapted:
        batches = pack(examples, self.step_plan.micro_batch_tokens)
        helpful = helpful_policies(has_host=self._device.has_host)
        # An evaluation keeps nothing for a backward pass.
        policies = () if moment == "evaluation" else helpful
        rung = next_rung(self.step_plan, batches, policies=policies)
        if rung is None:
            longest = longest_example(batches)
            raise OutOfMemory(moment=moment, step=step, longest=longest, step_plan=self.step_plan)
        self.step_plan = rung
        return Adapted(step=step, moment=moment, step_plan=rung)


@contextmanager
def not_to_be_repeated() -> Iterator[None]:
    """Make running out of memory inside an error that ends the run.

    For an update under way: some weights may be new already, so it must not be computed again.
    """
    try:
        yield
    except Exception as fault:
        if not is_out_of_memory(fault):
            raise
        raise CapacityError(
            _("The memory ran out while the weights were being updated."),
            why=_("Some of them may be new already, so the step cannot be computed again."),
            fix=_(
                "Free memory and go on from the newest checkpoint: the same command with "
                "--resume_from_checkpoint true"
            ),
        ) from fault
