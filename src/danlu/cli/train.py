"""`danlu train`: fine-tune, with a live bar in a terminal and plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from danlu.errors import EXIT_INTERRUPTED, EXIT_OK
from danlu.language import _
from danlu.settings.show import read_settings


def run(argv: Sequence[str]) -> int:
    """Train as the settings say; 130 when interrupted, after the last step has been saved."""
    from danlu.train.settings import TrainSettings

    resolved = read_settings(TrainSettings, "train", argv)
    if resolved is None:
        return EXIT_OK
    settings = resolved.values
    from danlu.cli.progress import describe, show_training
    from danlu.train.finetune import Finetune
    from danlu.train.trainer import Interrupted

    job = Finetune(settings)
    print("\n".join(describe(job)))
    try:
        show_training(job, logging_steps=settings.logging_steps)
    except Interrupted:
        resume = f"danlu train ... --output_dir {settings.output_dir} --resume_from_checkpoint true"
        print(
            _("Stopped; the last completed step is saved. Go on with: {command}").format(
                command=resume
            )
        )
        return EXIT_INTERRUPTED
    print(_("Done: {path}").format(path=job.path))
    print(_("Loss curve: {path}").format(path=job.path / "loss.png"))
    if settings.finetuning_type == "lora":
        print(_("Chat with it: danlu chat --adapter {path}").format(path=job.path))
    else:
        print(_("Chat with it: danlu chat --model {path}/final").format(path=job.path))
    return EXIT_OK
