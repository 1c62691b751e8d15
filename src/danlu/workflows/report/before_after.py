"""The measurements of a run before and after, and the figures that follow from them.

Arithmetic only: no model computes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from danlu.language import _
from danlu.runs.manifest import RunManifest
from danlu.train.loop.evaluate import Evaluation
from danlu.workflows.answer_form import FormCounts, count_forms, visible_text
from danlu.workflows.answers import Answer
from danlu.workflows.held_out import JudgedRows
from danlu.workflows.losses import joined
from danlu.workflows.report.measure import Measured
from danlu.workflows.report.prompts import GENERAL_PROMPTS
from danlu.workflows.scores import is_exact, rouge_l


@dataclass(frozen=True, kw_only=True)
class BeforeAfter:
    """What a run began with (before) and what it made (after) did with the same rows and prompts.

    began_with: the name of the adapter that was trained further; "" where the base stands for it,
    and then `began_problem` says why if there was one.
    judged: None where the data could not be read; `judged_problem` says why. tuned: the name of the
    folder with the tuned weights. seconds: what measuring took, loading included. limit_s: the time
    allowed for it, loading excepted.
    """

    folder: Path
    run: RunManifest
    records: Sequence[dict[str, Any]]
    judged: JudgedRows | None
    judged_problem: str
    before: Measured
    after: Measured
    began_with: str
    began_problem: str
    tuned: str
    seconds: float
    limit_s: float

    @property
    def former(self) -> str:
        """What the run began with, by its name."""
        return self.began_with or _("base")

    @property
    def losses(self) -> tuple[Evaluation, Evaluation] | None:
        """The losses before and after, of the rows that were measured with both models."""
        count = min(len(self.before.losses), len(self.after.losses))
        if not count:
            return None
        return joined(self.before.losses[:count]), joined(self.after.losses[:count])

    @property
    def num_unfinished(self) -> int:
        """Count the prompts for which the time ran out for one of the two answers."""
        pairs = zip(self.before.answers, self.after.answers, strict=True)
        return sum("time" in (before.ended, after.ended) for before, after in pairs)

    @property
    def prescribed_thinking(self) -> bool | None:
        """Whether an answer must open with a thought (True), must not, or may (None)."""
        # Only Qwen3's own template prescribes it.
        return self.run.enable_thinking if self.run.template == "qwen3" else None

    def answered(self) -> list[tuple[str, str, str]]:
        """List reference and both answers, as shown, where both models finished in time."""
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
        """Count the finished answers that equal their reference, before and after."""
        rows = self.answered()
        before, after = (sum(is_exact(row[side], row[0]) for row in rows) for side in (1, 2))
        return before, after

    def likeness(self) -> tuple[float, float] | None:
        """Return the mean ROUGE-L of the finished answers, 0 to 100, before and after."""
        rows = self.answered()
        if not rows:
            return None
        before, after = (sum(rouge_l(row[side], row[0]) for row in rows) for side in (1, 2))
        return before / len(rows), after / len(rows)

    def passed(self) -> list[tuple[bool | None, bool | None]]:
        """Tell for each general prompt whether it was answered rightly, before and after.

        None: the answer was not finished.
        """
        return list(zip(_passes(self.before.general), _passes(self.after.general), strict=True))

    def forms(self) -> tuple[FormCounts, FormCounts]:
        """Count the forms of all answers, before and after."""
        before, after = (
            count_forms(side.answers, enable_thinking=self.prescribed_thinking)
            for side in (self.before, self.after)
        )
        return before, after

    def figures(self) -> dict[str, Any]:
        """Return the figures under stable names, pairs as [before, after], for programs."""
        losses = self.losses
        return {
            "held_out": self.judged is not None and self.judged.held_out,
            "rows": losses[0].num_rows if losses else 0,
            "total_rows": self.judged.total if self.judged else 0,
            "loss": [side.loss for side in losses] if losses else None,
            "loss_per_sample": [side.loss_per_sample for side in losses] if losses else None,
            "answered": len(self.answered()),
            "unfinished": self.num_unfinished,
            "exact": self.exact(),
            "rouge_l": self.likeness(),
            "probe": self.passed(),
            "forms": [asdict(side) for side in self.forms()],
            "seconds": round(self.seconds, 2),
        }


def _passes(answers: Sequence[Answer]) -> list[bool | None]:
    return [
        prompt.passes(visible_text(answer.message)) if answer.is_finished else None
        for prompt, answer in zip(GENERAL_PROMPTS, answers, strict=True)
    ]
