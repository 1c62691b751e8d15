"""Recorded steps of an engine: where every request decodes, one call starts the whole step.

A step of so many rows by such a `linear` is recorded when it first comes up; steps that read
prompts are started operation by operation. What a recording reads is at the same place in every
step (`step_inputs.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from weakref import WeakKeyDictionary

from torch import Tensor

from danlu.device.memory import is_out_of_memory
from danlu.engine.step_inputs import Step
from danlu.language import _
from danlu.lora.adapter import Adapter
from danlu.ops import NotHere, Recorder, Replay
from danlu.say import say

# Each recording takes streams and memory of the card, of which there is not much (vllm-ascend's
# users meet "Stream resources are insufficient"): seven numbers of rows by the base and one more.
_MOST_GRAPHS = 14


class DecodingGraphs:
    """The recordings of one engine.

    recorder: None where the device records nothing; it may also find that a model's steps cannot be
    recorded: on a CPU those of a model that is not packed for answers.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._graphs: WeakKeyDictionary[object, dict[int, Replay]] = WeakKeyDictionary()

    def run(
        self, step: Step, whose: object, compute: Callable[[], Tensor], *, may_record: bool
    ) -> Tensor | None:
        """Run a decoding step; None where it is not recorded: then the caller computes it.

        compute: what the step computes; whose: with the same, and as many rows, it is the same.
        may_record: whether the step may be computed more than once, as it is when it is recorded.
        The next step overwrites the result. Recordings of what has gone are freed.
        """
        if self._recorder is None:
            return None
        graphs = self._graphs.setdefault(whose, {})
        rows = len(step.tokens)
        if rows not in graphs:
            if not may_record or self._count() >= _MOST_GRAPHS:
                return None
            try:
                graphs[rows] = self._recorder(compute, step.tokens.device)
            except NotHere:
                self._recorder = None
                return None
            except Exception as problem:
                self.give_up(problem)
                return None
        return graphs[rows](step.cache.ends)

    def forget(self, adapter: Adapter) -> None:
        """Free the recordings of an adapter that no request will use."""
        self._graphs.pop(adapter, None)

    def _count(self) -> int:
        return sum(map(len, self._graphs.values()))

    def give_up(self, problem: Exception) -> None:
        """Start every operation by itself from now on, because something fails; say so."""
        self._recorder = None
        if is_out_of_memory(problem):
            self._graphs.clear()
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        say(
            _("Steps are not recorded any more, which makes answers slower: {reason}").format(
                reason=reason
            ),
            to=sys.stderr,
        )
