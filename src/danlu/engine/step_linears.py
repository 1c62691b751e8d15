"""Which `linear` a step computes with: that of its requests' adapters."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

from danlu.device.memory import is_out_of_memory
from danlu.engine.sequence import RequestSequence
from danlu.engine.step_inputs import Step
from danlu.language import _
from danlu.lora.adapter import Adapter
from danlu.lora.bank import AdapterBank
from danlu.lora.stack import AdapterStack, StackedLinear
from danlu.model.qwen3 import Linear, Qwen3, plain_linear
from danlu.ops import multiplies_groups
from danlu.say import say

# How many tokens each sequence has in a step.
Batch = Mapping[RequestSequence, int]


class StepLinears:
    """The `linear` of an engine's steps.

    Where the device multiplies groups by one call all adapters are computed together, elsewhere one
    after the other.
    """

    def __init__(self, model: Qwen3) -> None:
        self._stack: AdapterStack | None = None
        if multiplies_groups(model.device, many=model.config.experts is not None):
            self._stack = AdapterStack(model.config, device=model.device, dtype=model.dtype)

    def arranged(self, batch: Batch) -> Batch:
        """Return a batch with the requests of one adapter side by side."""
        adapters = list(dict.fromkeys(sequence.request.adapter for sequence in batch))
        stack = self._holding(adapters)
        places = range(len(adapters)) if stack is None else stack.places(adapters)
        order = dict(zip(adapters, places, strict=True))
        return dict(sorted(batch.items(), key=lambda item: order[item[0].request.adapter]))

    def groups(self, batch: Batch) -> Sequence[int] | None:
        """Count the tokens by the adapters' places; None where they are not computed together."""
        stack = self._holding({sequence.request.adapter for sequence in batch})
        if stack is None:
            return None
        counts = [0] * stack.matrices.num_places
        places = stack.places(sequence.request.adapter for sequence in batch)
        for place, num_tokens in zip(places, batch.values(), strict=True):
            counts[place] += num_tokens
        return counts

    def of(self, batch: Batch, step: Step) -> tuple[Linear, object | None]:
        """Return the `linear` of an arranged batch.

        And whose it is: with the same, another step of as many rows starts the same operations;
        None where that is not so.
        """
        adapters = {sequence.request.adapter for sequence in batch}
        if adapters == {None}:
            return plain_linear, plain_linear
        if self._stack is not None and step.group_ends is not None:
            matrices = self._stack.matrices
            return StackedLinear(matrices, step.group_ends), matrices
        if len(adapters) == 1:
            (adapter,) = adapters
            return AdapterBank.of_one(adapter), adapter  # filler, too: nobody reads its rows
        segments = [(sequence.request.adapter, count) for sequence, count in batch.items()]
        return AdapterBank([*segments, (None, step.num_filler)]), None

    def forget(self, adapter: Adapter) -> None:
        """Drop what is kept of an adapter that no request will use."""
        if self._stack is not None:
            self._stack.forget(adapter)

    def _holding(self, adapters: Iterable[Adapter | None]) -> AdapterStack | None:
        """Return the stack with adapters in it; None where they are computed otherwise."""
        some = [adapter for adapter in adapters if adapter is not None]
        if self._stack is None or not some:
            return None
        try:
            return self._stack if self._stack.hold(some) else None
        except Exception as problem:
            if not is_out_of_memory(problem):
                return None  # whose fault it is shows where each is computed by itself
            self._stack = None
            say(
                _(
                    "The memory does not suffice for all adapters side by side; "
                    "they are computed one after the other, which is slower."
                ),
                to=sys.stderr,
            )
            return None
