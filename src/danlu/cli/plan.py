"""`danlu plan`: what a run would need, how it would be computed, and why, before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from danlu.cli.terminal.screen import json_line
from danlu.errors import EXIT_OK
from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.say import say
from danlu.settings.show import read_settings


def run(argv: Sequence[str]) -> int:
    """Print the plan of `danlu train` with the same flags, as a table or as JSON."""
    from danlu.settings.schema import option
    from danlu.train.settings import TrainSettings

    class PlanSettings(TrainSettings):
        """Say what a run would need and how long it would take; same flags as danlu train."""

        model_name_or_path: str = option(
            "starter", "model folder, or starter (built in)", aliases=("model",), position=0
        )
        device: str = option(  # type: ignore[assignment]
            "auto", 'auto, cpu, cuda, npu, or one that is not here: ascend-910b-64g, "RTX 4090"'
        )
        json_output: bool = option(False, "print JSON", aliases=("json",))

    resolved = read_settings(PlanSettings, "plan", argv)
    with MovingLine(_("Reading the data and the model")):
        from danlu.hub.adapters import with_named_model
        from danlu.train.job.dry_run import forecast
        from danlu.train.job.plan_shown import (
            plan_fields,
            plan_lines,
            precision_lines,
            quantization_lines,
        )

        settings = with_named_model(resolved.values, resolved.origins)
        plan = forecast(settings, settings.device)
    if settings.json_output:
        print(json_line(plan_fields(plan)))
        return EXIT_OK
    say(
        *quantization_lines(settings),
        *precision_lines(settings, plan),
        *plan_lines(plan, settings.model_name_or_path),
    )
    return EXIT_OK
