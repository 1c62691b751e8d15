"""Learning rate over the steps: a warm-up, then one of Hugging Face's shapes.

The same values as transformers' `get_scheduler` gives for the same names, so that curves can be
compared: step k (from 0) uses peak * k / warmup_steps during a linear warm-up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from danlu.errors import UsageError
from danlu.language import _
from danlu.reasons import as_sentence, reason_of
from danlu.settings.ranges import Range

_ABOVE_ZERO, _FROM_ZERO = Range(least=0, above=True), Range(least=0)

# What lr_scheduler_kwargs may hold, by schedule.
NUMBERS: Mapping[str, Mapping[str, Range]] = {
    "cosine": {"num_cycles": _ABOVE_ZERO},
    "cosine_with_restarts": {"num_cycles": _ABOVE_ZERO},
    "cosine_with_min_lr": {
        "num_cycles": _ABOVE_ZERO,
        "min_lr": _FROM_ZERO,
        "min_lr_rate": Range(least=0, greatest=1),
    },
    "polynomial": {"power": _ABOVE_ZERO, "lr_end": _FROM_ZERO},
    "inverse_sqrt": {"timescale": _ABOVE_ZERO},
}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A learning rate for every step. numbers: what `lr_scheduler_kwargs` of the shape says."""

    name: str
    peak: float
    warmup_steps: int
    numbers: Mapping[str, float] = field(default_factory=dict)

    def rate(self, step: int, *, total_steps: int) -> float:
        """Return the rate of optimizer step `step`, counted from 0, in a run of `total_steps`."""
        warmup = 0 if self.name == "constant" else self.warmup_steps
        if step < warmup:
            return self.peak * step / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        return self.peak * self._factor(step, min(1.0, progress))

    def _factor(self, step: int, progress: float) -> float:
        """Return the share of the peak; progress: 0 after warm-up, 1 at the end."""
        numbers = self.numbers
        if self.name == "linear":
            return 1.0 - progress
        if self.name == "cosine":
            return _cosine(progress * numbers.get("num_cycles", 0.5) * 2)
        if self.name == "cosine_with_restarts":
            cycles = numbers.get("num_cycles", 1)
            return 0.0 if progress >= 1.0 else _cosine((cycles * progress) % 1.0)
        if self.name == "cosine_with_min_lr":
            floor = numbers.get("min_lr_rate", numbers.get("min_lr", 0.0) / self.peak)
            wave = _cosine(progress * numbers.get("num_cycles", 0.5) * 2)
            return floor + (1.0 - floor) * wave
        if self.name == "polynomial":
            end = numbers.get("lr_end", 1e-7) / self.peak
            fall: float = (1.0 - progress) ** numbers.get("power", 1.0)
            return end + (1.0 - end) * fall
        if self.name == "inverse_sqrt":
            timescale = numbers.get("timescale", self.warmup_steps or 10_000)
            shift = timescale - self.warmup_steps
            return float(((step + shift) / timescale) ** -0.5)
        return 1.0  # constant, with or without warm-up


def read_numbers(name: str, text: str) -> dict[str, float]:
    """Read `lr_scheduler_kwargs`. Raises UsageError for what the schedule does not know."""
    known = NUMBERS.get(name, {})
    try:
        found = json.loads(text) if text else {}
        if not isinstance(found, dict):
            raise ValueError(_("it is not an object: {...}"))
        unknown = sorted(set(found) - set(known))
        if unknown:
            raise ValueError(
                _("{schedule} does not know {names}").format(
                    schedule=name, names=", ".join(unknown)
                )
            )
        numbers = {key: float(value) for key, value in found.items()}
        for key, value in numbers.items():
            if not known[key].holds(value):
                raise ValueError(f"{key} {value}: {known[key].rule()}")
        return numbers
    except (ValueError, TypeError) as problem:
        raise UsageError(
            _("lr_scheduler_kwargs cannot be used."),
            why=as_sentence(reason_of(problem)),
            fix=_("{schedule} takes: {names}").format(
                schedule=name, names=", ".join(known) or _("nothing")
            ),
        ) from problem


def _cosine(turns: float) -> float:
    """Half a cosine wave from 1 to 0 as `turns` goes from 0 to 1."""
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * turns)))
