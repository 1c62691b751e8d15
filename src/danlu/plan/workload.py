"""The workload of a run: the lengths of each step's examples, and how they pack.

A run of many steps is judged by some of them, spread evenly, for time; for memory by its heaviest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from danlu.data.tokens.pack import bins
from danlu.plan.job import BatchShape

# Steps that are packed to predict the time; more would only take longer.
MOST_PACKED = 64


@dataclass(frozen=True, kw_only=True)
class ExampleShape:
    """An example in numbers: its tokens and how many of them are supervised."""

    tokens: int
    targets: int


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The examples of each step, of those looked at; and of one evaluation.

    report_s: the most that the report behind the run may take, loading excepted; 0 without one.
    longest_possible: tokens of the longest example of all, where not every step was looked at.
    is_estimated: the lengths were guessed from characters, without the model's tokenizer.
    num_devices: that share each step; the examples are those of the one that has most to do.
    """

    steps: Sequence[Sequence[ExampleShape]]
    evaluation: Sequence[ExampleShape]
    total_steps: int
    num_evaluations: int
    report_s: float = 0.0
    longest_possible: int = 0
    is_estimated: bool = False
    num_devices: int = 1

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        examples = [example for step in (*self.steps, self.evaluation) for example in step]
        return max(self.longest_possible, *(example.tokens for example in examples), 1)

    @property
    def largest_step(self) -> int:
        """Tokens of the largest step."""
        return max(sum(example.tokens for example in step) for step in self.steps)

    def heaviest(self, micro_batch_tokens: int) -> BatchShape:
        """Bound the heaviest micro-batch from above."""
        tokens = min(max(micro_batch_tokens, self.longest), self.largest_step)
        share = max(
            sum(s.targets for s in step) / sum(s.tokens for s in step) for step in self.steps
        )
        shortest = min(example.tokens for step in self.steps for example in step)
        most = min(max(len(step) for step in self.steps), max(1, tokens // max(1, shortest)))
        segments = 1 if tokens <= self.longest and len(self.steps[0]) == 1 else max(2, most)
        targets = min(tokens, round(tokens * share))
        return BatchShape(tokens=tokens, targets=targets, squares=tokens**2, segments=segments)

    def packed_steps(self, micro_batch_tokens: int) -> list[list[BatchShape]]:
        """Pack some steps, spread evenly."""
        stride = -(-len(self.steps) // MOST_PACKED)
        return [pack_shapes(step, micro_batch_tokens) for step in self.steps[::stride]]


def pack_shapes(examples: Sequence[ExampleShape], micro_batch_tokens: int) -> list[BatchShape]:
    """Return the micro-batches that examples pack into, as training packs them."""
    packed = bins([example.tokens for example in examples], micro_batch_tokens)
    return [
        BatchShape(
            tokens=sum(examples[at].tokens for at in members),
            targets=sum(examples[at].targets for at in members),
            squares=sum(examples[at].tokens ** 2 for at in members),
            segments=len(members),
        )
        for members in packed
    ]
