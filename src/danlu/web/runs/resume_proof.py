"""Whether a run that was resumed computes as it would have without the interruption.

What can be proven: a step that was computed before the interruption, and again behind it, has the
same loss to the last bit. A run that was stopped in order saves its last step, so that nothing is
computed twice and there is nothing to compare.
"""

from __future__ import annotations

from typing import Any

from danlu.runs.manifest import RunManifest
from danlu.web.runs.metric_table import MetricTable


def proofs_of(run: RunManifest, table: MetricTable) -> list[dict[str, Any]]:
    """Compare, for each time that a run was resumed, the losses of the steps computed twice."""
    now = {
        int(step): float(loss)
        for step, loss in zip(table.steps["step"], table.steps["loss"], strict=True)
    }
    found = []
    for resume in run.arithmetic.resumes:
        pairs = [
            {"step": step, "before": before, "after": now[step]}
            for step, before in sorted(resume.lost.items())
            if before is not None and step in now
        ]
        equal = sum(pair["before"] == pair["after"] for pair in pairs)
        unequal = [pair for pair in pairs if pair["before"] != pair["after"]]
        found.append(
            {
                "step": resume.step,
                "lost": len(resume.lost),
                "compared": len(pairs),
                "equal": equal,
                "shown": (unequal or pairs)[:20],
            }
        )
    return found
