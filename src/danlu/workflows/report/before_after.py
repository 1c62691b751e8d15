"""What measuring a run has found, and the figures that follow from it.

Arithmetic only: nothing is computed with a model here, and nothing is worded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from danlu.runs.manifest import RunManifest
from danlu.train.loop.evaluate import Evaluation
from danlu.workflows.answers import Answer
from danlu.workflows.form import FormCounts, count_forms, visible_text
from danlu.workflows.held_out import JudgedRows
from danlu.workflows.losses import joined
from danlu.workflows.report.measure import Measured
from danlu.workflows.report.prompts import PROBES
from danlu.workflows.scores import is_exact, rouge_l

Pair = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class BeforeAfter:
    """What was found. before and after: the base and the tuned model on the same things.

    judged None: the data could not be read, `judged_problem` says why. seconds: what measuring
    took, loading included; limit_s: what it was allowed without loading.
    """

    folder: Path
    run: RunManifest
    records: Sequence[dict[str, Any]]
    judged: JudgedRows | None
    judged_problem: str
    before: Measured
    after: Measured
    tuned: str
    seconds: float
    limit_s: float

    @property
    def losses(self) -> tuple[Evaluation, Evaluation] | None:
        """The losses before and after, of the rows that there was time to measure both on."""
        count = min(len(self.before.losses), len(self.after.losses))
        if not count:
            return None
        return joined(self.before.losses[:count]), joined(self.after.losses[:count])

    @property
    def num_unfinished(self) -> int:
        """Count the prompts of which the time ran out for one of the two answers."""
        before = (*self.before.held_out, *self.before.probes)
        after = (*self.after.held_out, *self.after.probes)
        return sum("time" in (b.ended, a.ended) for b, a in zip(before, after, strict=True))

    def answered(self) -> list[tuple[str, str, str]]:
        """List what both models finished in time: reference and both answers, as they show."""
        questions = self.judged.questions if self.judged else ()
        return [
            (
                visible_text(question.reference),
                visible_text(before.message),
                visible_text(after.message),
            )
            for question, before, after in zip(
                questions, self.before.held_out, self.after.held_out, strict=True
            )
            if before.is_finished and after.is_finished
        ]

    def exact(self) -> tuple[int, int]:
        """Count the finished answers that are exactly their reference, before and after."""
        rows = self.answered()
        return (
            sum(is_exact(before, reference) for reference, before, _after in rows),
            sum(is_exact(after, reference) for reference, _before, after in rows),
        )

    def likeness(self) -> Pair | None:
        """Mean ROUGE-L of the finished answers, 0 to 100, before and after."""
        rows = self.answered()
        if not rows:
            return None
        before = sum(rouge_l(answer, reference) for reference, answer, _after in rows)
        after = sum(rouge_l(answer, reference) for reference, _before, answer in rows)
        return before / len(rows), after / len(rows)

    def probe(self) -> list[tuple[bool | None, bool | None]]:
        """Tell for each prompt of the probe whether it was answered rightly, before and after.

        None: the answer was not finished.
        """
        return list(zip(_passes(self.before.probes), _passes(self.after.probes), strict=True))

    def forms(self) -> tuple[FormCounts, FormCounts]:
        """Count the forms of all answers, before and after."""
        # Only Qwen3's own template prescribes whether an answer opens with a thought.
        prescribed = self.run.enable_thinking if self.run.template == "qwen3" else None
        before, after = (
            count_forms([*side.held_out, *side.probes], enable_thinking=prescribed)
            for side in (self.before, self.after)
        )
        return before, after

    def figures(self) -> dict[str, Any]:
        """Return the figures under stable names, pairs as [before, after], for programs."""
        losses = self.losses
        return {
            "held_out": self.judged is not None and self.judged.held_out,
            "rows": losses[0].num_rows if losses else 0,
            "loss": [side.loss for side in losses] if losses else None,
            "loss_per_sample": [side.loss_per_sample for side in losses] if losses else None,
            "answered": len(self.answered()),
            "unfinished": self.num_unfinished,
            "exact": self.exact(),
            "rouge_l": self.likeness(),
            "probe": self.probe(),
            "forms": [asdict(side) for side in self.forms()],
            "seconds": round(self.seconds, 2),
        }


def _passes(answers: Sequence[Answer]) -> list[bool | None]:
    return [
        probe.passes(visible_text(answer.message)) if answer.is_finished else None
        for probe, answer in zip(PROBES, answers, strict=True)
    ]
