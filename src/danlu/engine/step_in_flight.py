"""A step that the device is computing, or has computed, and of which the host has read nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from danlu.device.arriving import Arriving
from danlu.engine.request import TokenLogprobs
from danlu.engine.sampling.sampler import ChosenToken, drawn, sample
from danlu.engine.sequence import RequestSequence
from danlu.engine.step_linears import Batch

# The log probabilities of the prompts' tokens.
Scores = dict[RequestSequence, list[TokenLogprobs]]


@dataclass(frozen=True, kw_only=True, eq=False)
class StepInFlight:
    """A batch, and what will be known of it.

    writing: those that get a token. logits: [N, V], one row for each of them. chosen: their tokens,
    where the device chooses them; None: the host does. scores: see `Scores`. may_be_followed:
    whether the next step can be started before these tokens are known.
    """

    batch: Batch
    writing: Sequence[RequestSequence]
    logits: Tensor
    chosen: Arriving | None
    scores: Scores
    may_be_followed: bool

    def ends_well(self) -> bool:
        """Wait until the device has ended its work; tell whether that has not failed."""
        try:
            if self.chosen is not None:
                self.chosen.wait()
        except Exception:
            return False
        return True

    def of_row(self, row: int) -> StepInFlight:
        """Return the same with one row of logits, of the single request whose tokens are tried."""
        return replace(self, logits=self.logits[row : row + 1])

    def choices(self) -> list[ChosenToken | Exception]:
        """Wait for a token for each that is writing; return it, or why there is none.

        Raises what the device has failed with, or what choosing itself fails with: then nothing is
        recorded.
        """
        samplers = [sequence.sampler for sequence in self.writing]
        if not samplers:
            return []
        if self.chosen is None:
            return sample(self.logits, samplers)
        return drawn(self.chosen.wait()[:, : len(samplers)], samplers)
