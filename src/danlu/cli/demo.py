"""`danlu demo`: two minutes that show everything, on the built-in model, without a download."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from danlu.errors import EXIT_OK
from danlu.language import _, chosen_language, columns
from danlu.moving_line import MovingLine
from danlu.say import say, say_stopped
from danlu.settings.schema import Settings
from danlu.settings.show import read_settings

if TYPE_CHECKING:
    from danlu.workflows.demo import Demo


# The kinds of held-out prompts, as the table calls them.
SKILLS = {
    "new: name": "new: its name",
    "new: sorting": "new: sorting notes",
    "kept: greeting": "kept: greeting",
    "kept: remembering": "kept: remembering",
}


class DemoSettings(Settings):
    """Fine-tune, compare, merge and chat with the built-in model."""


def run(argv: Sequence[str]) -> int:
    """Run the demo; 130 when interrupted (it can simply be started again)."""
    read_settings(DemoSettings, "demo", argv)
    started = time.monotonic()
    with MovingLine(_("Loading the model")):
        from danlu.files.home import danlu_home
        from danlu.train.loop.trainer import Interrupted
        from danlu.workflows.demo import Demo

    demo = Demo(danlu_home())
    with demo.started_over():
        try:
            _show(demo)
        except Interrupted:
            return say_stopped(_("Stopped. danlu demo starts over."))
    say(_("The whole demo took {seconds:.0f} s.").format(seconds=time.monotonic() - started))
    print_next_steps()
    return EXIT_OK


def print_next_steps() -> None:
    """Print the commands for a model and data of the user's own; each works as printed."""
    print()
    say(_("With Qwen3-8B and rows of your own in my.jsonl:"))
    say("  danlu pull Qwen3-8B")
    say("  danlu train --model Qwen3-8B --dataset my.jsonl --output_dir my-run")
    say("  danlu chat --adapter my-run")
    say("  danlu merge --adapter my-run --export_dir my-model")
    say("  danlu chat --model my-model")


def _show(demo: Demo) -> None:
    from danlu.chat.plain import show_answer
    from danlu.cli.terminal.fact_table import print_facts
    from danlu.cli.terminal.progress import show_training
    from danlu.cli.terminal.screen import print_table
    from danlu.export.merge_words import merge_summary
    from danlu.hub.machine_facts import machine_facts
    from danlu.workflows.demo import QUESTIONS, answer_text, ask, held_out_scores

    _title(1, _("The machine, and the built-in model (a small demonstration model)"))
    print_facts(machine_facts(), indent="  ")
    with MovingLine(_("Loading the model")):
        starter = demo.open_starter()
    questions = QUESTIONS[chosen_language()]
    for question in (*questions.new, *questions.kept):
        say(f"\n> {question}")
        show_answer(ask(starter, question))

    _title(2, _("Fine-tuning: a new name, and a new skill: sorting notes"))
    with MovingLine(_("Reading the rows")):
        job = demo.finetune()
    show_training(job)

    _title(3, _("Before and after"))
    with MovingLine(_("Loading the model")):
        tuned = demo.open_tuned()
    rows = []
    with MovingLine(_("asking both models")):
        for question in (*questions.new, *questions.kept):
            before = answer_text(tuned, question, with_adapter=False)
            rows.append((question, before, answer_text(tuned, question)))
    print_table((_("question"), _("before"), _("after")), rows)
    say(_("Held-out prompts, answered exactly as expected:"))
    with MovingLine(_("answering the held-out prompts")):
        found = held_out_scores(tuned)
    scores = [
        (
            _(SKILLS.get(score.kind, score.kind)),
            f"{score.before}/{score.count}",
            f"{score.after}/{score.count}",
        )
        for score in found
    ]
    print_table((_("skill"), _("before"), _("after")), scores)
    say(_("Loss curve: {path}").format(path=demo.run_folder / "loss.png"))

    _title(4, _("Merging the adapter into the model"))
    with MovingLine(_("checking base and adapter")):
        merge = demo.merge(job.device)
    say(merge_summary(merge))
    say(_("Merged model: {path}").format(path=demo.merged_folder))
    with MovingLine(_("Loading the model")):
        merged = demo.open_merged()
    for question in questions.new:
        say(f"\n> {question}")
        show_answer(ask(merged, question))
    _title(5, _("The same with Qwen3-8B and your own data"))


def heading(number: int, text: str) -> str:
    """Write the heading of a part of the demo as one line."""
    head = f"── {number}. {text} "
    return head + "─" * max(0, 72 - columns(head))


def _title(number: int, text: str) -> None:
    say(f"\n{heading(number, text)}")
