"""One fine-tuning job, from settings to a finished run folder.

The order matters to a user: model files and data are checked and the output folder is taken before
gigabytes of weights are loaded, and run.json says how far the run came, whatever happens.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import torch

import danlu
from danlu.device.detect import DTYPES, Device, select
from danlu.errors import DanluError, DataError
from danlu.lora.adapter import LoraConfig, target_list
from danlu.models.load import STARTER, LoadedModel, check_model, load_model
from danlu.runs.checkpoints import FINAL, commit_final, publish_final
from danlu.runs.curve import draw_loss_curve
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import BaseRecord, RunManifest, State
from danlu.train.events import Event, Saved
from danlu.train.method import FullMethod, LoraMethod, Method
from danlu.train.prepare import prepare_data
from danlu.train.recipe import check_required, recipe_of
from danlu.train.resume import newest_to_resume
from danlu.train.settings import TrainSettings
from danlu.train.trainer import Interrupted, Trainer


class Finetune:
    """A job. Creating it checks settings and data; `run` takes the output folder and trains."""

    def __init__(self, settings: TrainSettings) -> None:
        check_required(settings)
        self.settings = settings
        self.device: Device = select(settings.device)
        model = check_model(settings.model_name_or_path)
        self.data = prepare_data(settings, model.tokenizer)
        self.recipe = recipe_of(settings, num_train_rows=len(self.data.train_rows))
        self.path = Path(settings.output_dir).expanduser().absolute()
        self._trainer: Trainer | None = None
        self._stop_requested = False

    def request_stop(self) -> None:
        """Stop soon: the step in flight is abandoned, the last completed one is saved."""
        self._stop_requested = True
        if self._trainer is not None:
            self._trainer.request_stop()

    def run(self) -> Iterator[Event]:
        """Train, save the result to final/ and yield what happens.

        Raises Interrupted after `request_stop`, DataError when training diverges; run.json says so.
        """
        with self._open_folder() as run_folder:
            if self._resumes:
                # Another number of threads adds in another order and gives other last bits.
                self.device = self.device.with_threads(run_folder.read().arithmetic["threads"])
            base = load_model(
                self.settings.model_name_or_path,
                device=self.device,
                dtype=DTYPES[self.settings.dtype],
            )
            manifest = self._manifest(base)
            resumed = newest_to_resume(run_folder, manifest) if self._resumes else None
            run_folder.write(manifest)
            method = self._method(base)
            trainer = Trainer(
                base=base,
                method=method,
                recipe=self.recipe,
                train_rows=self.data.train_rows,
                eval_rows=self.data.eval_rows,
                run_folder=run_folder,
            )
            self._trainer = trainer
            if self._stop_requested:
                trainer.request_stop()
            if resumed is not None:
                trainer.resume(resumed.step)
                yield resumed
            yield from self._train(trainer, method, run_folder)

    def _train(self, trainer: Trainer, method: Method, folder: RunFolder) -> Iterator[Event]:
        try:
            yield from trainer.run()
            with commit_final(folder.path) as draft:
                method.save(draft)
            publish_final(folder.path)
            draw_loss_curve(folder.path, title=folder.path.name)
        except Interrupted:
            _set_state(folder, "interrupted", f"at step {trainer.progress.step}")
            raise
        except DanluError as problem:
            diverged = isinstance(problem, DataError)
            _note_failure(folder, "stopped" if diverged else "failed", problem.what)
            raise
        except Exception as problem:
            _note_failure(folder, "failed", f"{type(problem).__name__}: {problem}")
            raise
        _set_state(folder, "finished", f"{trainer.progress.step} steps")
        yield Saved(step=trainer.progress.step, folder=folder.path / FINAL)

    @property
    def _resumes(self) -> bool:
        return self.settings.resume_from_checkpoint

    def _open_folder(self) -> RunFolder:
        if self._resumes:
            return RunFolder.reopen(self.path)
        return RunFolder.create(self.path, overwrite=self.settings.overwrite_output_dir)

    def _method(self, base: LoadedModel) -> Method:
        settings = self.settings
        if settings.finetuning_type == "full":
            return FullMethod(base)
        alpha = settings.lora_alpha
        config = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=2.0 * settings.lora_rank if alpha is None else alpha,
            lora_dropout=settings.lora_dropout,
            use_rslora=settings.use_rslora,
            target_modules=target_list(settings.lora_target),
        )
        return LoraMethod(base, config, base_name=str(base.folder), seed=settings.seed)

    def _manifest(self, base: LoadedModel) -> RunManifest:
        return RunManifest(
            state="running",
            kind=self.settings.finetuning_type,
            base=BaseRecord(
                name=STARTER if base.name == STARTER else base.folder.name,
                path=str(base.folder),
                fingerprint=base.fingerprint,
            ),
            template=self.settings.template,
            enable_thinking=self.settings.enable_thinking,
            settings=self.settings.model_dump(),
            versions={
                "danlu": danlu.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            arithmetic={
                "device": self.device.kind,
                "device_description": self.device.description,
                "dtype": str(base.dtype).removeprefix("torch."),
                "threads": self.device.threads,
                "micro_batch_tokens": self.recipe.micro_batch_tokens,
                "num_train_tokens": self.data.cost.num_tokens,
                "data_fingerprint": self.data.fingerprint,
            },
            started=_now(),
        )


def _set_state(folder: RunFolder, state: State, detail: str) -> None:
    folder.write(folder.read().changed(state=state, detail=detail, ended=_now()))


def _note_failure(folder: RunFolder, state: State, detail: str) -> None:
    # On a full disk this fails too; the user must hear of the error that came first.
    with suppress(DanluError):
        _set_state(folder, state, detail)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
