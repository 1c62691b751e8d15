"""`danlu demo`: two minutes that show everything, on the built-in model, without a download."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from danlu.errors import EXIT_INTERRUPTED, EXIT_OK
from danlu.language import _
from danlu.settings.schema import Settings
from danlu.settings.show import read_settings

if TYPE_CHECKING:
    from danlu.workflows.demo import Demo


class DemoSettings(Settings):
    """Fine-tune, compare, merge and chat with the built-in model."""


def run(argv: Sequence[str]) -> int:
    """Run the demo; 130 when interrupted (it can simply be started again)."""
    if read_settings(DemoSettings, "demo", argv) is None:
        return EXIT_OK
    from danlu.files.home import danlu_home
    from danlu.train.loop.trainer import Interrupted
    from danlu.workflows.demo import Demo

    started = time.monotonic()
    demo = Demo(danlu_home())
    with demo.started_over():
        try:
            _show(demo)
        except Interrupted:
            print(_("Stopped. danlu demo starts over."))
            return EXIT_INTERRUPTED
    print(_("The whole demo took {seconds:.0f} s.").format(seconds=time.monotonic() - started))
    print()
    print(_("Download Qwen3-8B (Hugging Face or ModelScope), then:"))
    print("  danlu train --model /path/to/Qwen3-8B --dataset my.jsonl --output_dir my-run")
    print("  danlu chat --adapter my-run")
    print("  danlu merge --adapter my-run --export_dir my-model")
    print("  danlu chat --model my-model")
    return EXIT_OK


def _show(demo: Demo) -> None:
    from danlu.chat.plain import show_answer
    from danlu.cli.info import machine_facts
    from danlu.cli.merge import merge_summary
    from danlu.cli.terminal.progress import describe, show_training
    from danlu.cli.terminal.screen import print_table
    from danlu.workflows.demo import QUESTIONS, answer_text, ask, held_out_scores

    _title(1, _("The machine, and the built-in model (a small demonstration model)"))
    for name, value in machine_facts().items():
        print(f"  {name:<10} {value}")
    starter = demo.open_starter()
    for question in QUESTIONS:
        print(f"\n> {question}")
        show_answer(ask(starter, question))

    _title(2, _("Fine-tuning: a new identity and a new skill"))
    job = demo.finetune()
    print("\n".join(describe(job.prepared)))
    show_training(job)

    _title(3, _("Before and after"))
    tuned = demo.open_tuned()
    rows = []
    for question in ("Who are you?", "你叫什么名字？", _NEW_SKILL, *QUESTIONS[1:]):
        before = answer_text(tuned, question, with_adapter=False)
        rows.append((question, before, answer_text(tuned, question)))
    print_table((_("question"), _("before"), _("after")), rows)
    print(_("Held-out prompts, answered exactly as expected:"))
    scores = [
        (score.kind, f"{score.before}/{score.count}", f"{score.after}/{score.count}")
        for score in held_out_scores(tuned)
    ]
    print_table((_("skill"), _("before"), _("after")), scores)
    print(_("Loss curve: {path}").format(path=demo.run_folder / "loss.png"))

    _title(4, _("Merging the adapter into the model"))
    print(merge_summary(demo.merge(job.device)))
    print(_("Merged model: {path}").format(path=demo.merged_folder))
    merged = demo.open_merged()
    for question in ("Who are you?", "你是谁？"):
        print(f"\n> {question}")
        show_answer(ask(merged, question))
    _title(5, _("The same with Qwen3-8B and your own data"))


_NEW_SKILL = "Write this as an order slip:\nPlease send a silver bell to Maradon."


def _title(number: int, text: str) -> None:
    print(f"\n── {number}. {text} " + "─" * max(0, 60 - len(text)), flush=True)
