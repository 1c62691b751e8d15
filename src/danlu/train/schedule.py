"""Learning rate over the steps: linear warm-up, then half a cosine to zero.

The same values as transformers' `get_cosine_schedule_with_warmup`, so that curves can be compared:
step k (from 0) uses peak * k / warmup_steps during warm-up.
"""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Return the rate of optimizer step `step`, counted from 0."""
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
