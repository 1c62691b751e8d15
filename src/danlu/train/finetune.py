"""One fine-tuning job, from settings to a finished run folder.

The order matters to a user: the output folder is taken and the data is read and checked before
gigabytes of weights are loaded, and run.json says how far the run came, whatever happens.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import danlu
from danlu.data.datasets import load_rows
from danlu.data.examples import Example, TokenCost, token_cost, tokenize_rows
from danlu.data.order import split
from danlu.device.detect import DTYPES, Device, select
from danlu.errors import DanluError, DataError, UsageError
from danlu.language import _
from danlu.lora.adapter import LoraConfig, target_list
from danlu.model.config import load_config
from danlu.models.load import STARTER, LoadedModel, load_model, model_folder
from danlu.runs.checkpoints import FINAL, commit_final, find_newest, publish_final
from danlu.runs.curve import draw_loss_curve
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import BaseRecord, RunManifest, State
from danlu.text.tokenizer import Tokenizer
from danlu.train.events import Event, Resumed, Saved
from danlu.train.method import FullMethod, LoraMethod, Method
from danlu.train.settings import TrainSettings
from danlu.train.trainer import Interrupted, Recipe, Trainer, steps_per_epoch

# Settings that a resumed run may change: they do not touch the numbers.
_FREE_TO_CHANGE = {
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "output_dir",
}


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Tokenized rows, split; and what was left out because it was too long, as file:line."""

    train_rows: list[list[Example]]
    eval_rows: list[list[Example]]
    cost: TokenCost
    too_long: tuple[str, ...]


class Finetune:
    """A job. Creating it checks settings and data; `run` takes the output folder and trains."""

    def __init__(self, settings: TrainSettings) -> None:
        _require(settings)
        self.settings = settings
        self.device: Device = select(settings.device)
        folder = model_folder(settings.model_name_or_path)
        load_config(folder)
        self.data = prepare_data(settings, Tokenizer.load(folder))
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
            base = load_model(
                self.settings.model_name_or_path,
                device=self.device,
                dtype=DTYPES[self.settings.dtype],
            )
            manifest = self._manifest(base)
            resumed = _newest_to_resume(run_folder, manifest) if self._resumes else None
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
                "data_fingerprint": _data_fingerprint(self.data),
            },
            started=_now(),
        )


def prepare_data(settings: TrainSettings, tokenizer: Tokenizer) -> PreparedData:
    """Read, split and tokenize the data set. Raises DataError where no row is left to train on."""
    rows = load_rows(settings.dataset, Path(settings.dataset_dir), max_samples=settings.max_samples)
    train, held_out = split(len(rows), val_size=settings.val_size, seed=settings.seed)
    parts: list[list[list[Example]]] = []
    too_long: list[str] = []
    for indices in (train, held_out):
        chosen = [rows[int(index)] for index in indices]
        fitting, dropped = tokenize_rows(
            [row.conversation for row in chosen],
            tokenizer,
            template=settings.template,
            enable_thinking=settings.enable_thinking,
            cutoff_len=settings.cutoff_len,
        )
        parts.append(fitting)
        too_long += [chosen[index].place for index in dropped]
    if not parts[0]:
        raise DataError(
            _("No rows are left to train on."),
            why=_(
                "Of {total} rows {held} are held out and {long} are over {cutoff} tokens."
            ).format(
                total=len(rows),
                held=len(held_out),
                long=len(too_long),
                cutoff=settings.cutoff_len,
            ),
            fix=_("Raise --cutoff_len, lower --val_size, or add rows."),
        )
    return PreparedData(
        train_rows=parts[0],
        eval_rows=parts[1],
        cost=token_cost(parts[0]),
        too_long=tuple(too_long),
    )


def recipe_of(settings: TrainSettings, *, num_train_rows: int) -> Recipe:
    """Turn settings into the numbers of a run, with Hugging Face's step arithmetic."""
    rows_per_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    per_epoch = steps_per_epoch(num_train_rows, rows_per_step)
    total = settings.max_steps
    if total <= 0:
        total = max(1, math.ceil(settings.num_train_epochs * per_epoch))
    return Recipe(
        total_steps=total,
        rows_per_step=rows_per_step,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        eval_on_start=settings.eval_on_start,
        eval_steps=settings.eval_steps,
        save_steps=settings.save_steps,
        save_total_limit=settings.save_total_limit,
        load_best_model_at_end=settings.load_best_model_at_end,
        micro_batch_tokens=settings.micro_batch_tokens,
    )


def _require(settings: TrainSettings) -> None:
    for name, example in (("dataset", "rows.jsonl"), ("output_dir", "my-run")):
        if not getattr(settings, name):
            raise UsageError(
                _("--{name} is missing.").format(name=name),
                why=_("danlu train needs data to learn and a folder for the result."),
                fix=f"danlu train --{name} {example} ...",
            )
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "cutoff_len"):
        if getattr(settings, name) < 1:
            raise UsageError(
                _("--{name} must be 1 or more.").format(name=name),
                why=_("It is {value}.").format(value=getattr(settings, name)),
                fix=f"--{name} 1",
            )


def _newest_to_resume(folder: RunFolder, manifest: RunManifest) -> Resumed:
    """Find the checkpoint to go on from; refuse where the run would become another one."""
    before = folder.read()
    changes = _differences(before, manifest)
    if changes:
        raise UsageError(
            _("The run in {path} cannot be resumed like this.").format(path=folder.path),
            why=_("These have changed: {changes}.").format(changes="; ".join(changes)),
            fix=_("Use the settings and data of run.json, or another --output_dir."),
        )
    search = find_newest(folder.path)
    if search.newest is None:
        raise UsageError(
            _("The run in {path} has no checkpoint to resume from.").format(path=folder.path),
            why=_("It was stopped before its first checkpoint, or all are damaged."),
            fix=_("Start it again with --overwrite_output_dir"),
        )
    damaged = tuple(problem.what for problem in search.damaged)
    return Resumed(step=search.newest.step, damaged=damaged)


def _differences(before: RunManifest, now: RunManifest) -> list[str]:
    """List what differs and matters, as `name: old -> new`."""
    pairs: list[tuple[str, Any, Any]] = [
        ("base model", before.base.fingerprint, now.base.fingerprint),
        *(
            (name, before.settings.get(name), value)
            for name, value in now.settings.items()
            if name not in _FREE_TO_CHANGE
        ),
        *(
            (name, before.arithmetic.get(name), now.arithmetic[name])
            for name in ("dtype", "threads")
        ),
        ("data", before.arithmetic.get("data_fingerprint"), now.arithmetic["data_fingerprint"]),
    ]
    return [f"{name}: {old} -> {new}" for name, old, new in pairs if old != new]


def _data_fingerprint(data: PreparedData) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for rows in (data.train_rows, data.eval_rows):
        digest.update(b"rows")
        for example in (example for row in rows for example in row):
            digest.update(example.tokens.tobytes())
            digest.update(example.supervised.tobytes())
    return digest.hexdigest()


def _set_state(folder: RunFolder, state: State, detail: str) -> None:
    folder.write(folder.read().changed(state=state, detail=detail, ended=_now()))


def _note_failure(folder: RunFolder, state: State, detail: str) -> None:
    # On a full disk this fails too; the user must hear of the error that came first.
    with suppress(DanluError):
        _set_state(folder, state, detail)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
