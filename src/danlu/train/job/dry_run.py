"""A plan for a run that is not started: its model's weights and its device may be elsewhere."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import torch

from danlu.device.datasheets import DeviceFacts
from danlu.device.detect import DTYPES, KINDS
from danlu.device.facts import budget_bytes, device_facts
from danlu.errors import UsageError
from danlu.hub.adapters import trained_prompting
from danlu.hub.choosing import training_device
from danlu.hub.names import STARTER, find_model_folder, model_folder
from danlu.hub.prompting import with_template
from danlu.language import _
from danlu.model.config import ModelConfig, load_config
from danlu.model.sizes import published_config, published_names
from danlu.ops import ops_table
from danlu.plan.choose import Plan
from danlu.plan.named_devices import named_device
from danlu.text.tokenizer import TOKENIZER_FILE, Tokenizer
from danlu.train.job.setup import LearningTask
from danlu.train.loop.precision import check_fp8, choose_precision, without_fp8
from danlu.train.settings import TrainSettings, check_settings

# Tokens of Qwen3's tokenizer for one of the starter's, over all rows: 0.41 on 1,000 Chinese and
# 0.45 on 1,000 English rows (measured); short rows have up to 0.57.
_TOKEN_RATIO = 0.45


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """A run that is looked at and not started: its rows are read, its model is not.

    token_ratio: tokens of the model's tokenizer for one that was counted.
    """

    task: LearningTask
    config: ModelConfig
    facts: DeviceFacts
    dtype: torch.dtype
    budget_bytes: int
    token_ratio: float = 1.0

    def plan(self) -> Plan:
        """Plan how its steps are computed. Raises CapacityError where nothing fits."""
        return self.task.plan(
            self.config,
            self.facts,
            dtype=self.dtype,
            budget_bytes=self.budget_bytes,
            num_devices=self.task.settings.num_devices,
            token_ratio=self.token_ratio,
        )


def forecast(settings: TrainSettings, device: str) -> Plan:
    """Plan a run, as `dry_run` reads it. Raises CapacityError where nothing fits."""
    return dry_run(settings, device).plan()


def dry_run(settings: TrainSettings, device: str, *, own_process: bool = True) -> DryRun:
    """Read the rows of a run. device: `auto`, a kind that is here, or a card's name.

    own_process: this process would train; False where another one does, beside it.

    A published model that is not on this machine is planned by its shape; its tokens are estimated.
    Raises UsageError for unknown names, and what reading the rows raises.
    """
    check_settings(settings, command="plan")
    facts, budget, dtype = _device(settings, device, own_process=own_process)
    config, tokenizer = _model(settings.model_name_or_path)
    if tokenizer is not None:
        trained = trained_prompting(settings.model_name_or_path, settings.adapter_name_or_path)
        settings = with_template(settings, trained)
        task = LearningTask.of(settings, tokenizer, num_devices=settings.num_devices)
        return DryRun(task=task, config=config, facts=facts, dtype=dtype, budget_bytes=budget)
    starter = Tokenizer.load(model_folder(STARTER))
    longer = {"cutoff_len": round(settings.cutoff_len / _TOKEN_RATIO)}
    return DryRun(
        task=LearningTask.of(
            settings.model_copy(update=longer), starter, num_devices=settings.num_devices
        ),
        config=config,
        facts=facts,
        dtype=dtype,
        budget_bytes=budget,
        token_ratio=_TOKEN_RATIO,
    )


def _device(
    settings: TrainSettings, name: str, *, own_process: bool
) -> tuple[DeviceFacts, int, torch.dtype]:
    """Return the facts of a device, the memory to plan with, and the precision there."""
    if name != "auto" and name not in KINDS:
        facts = named_device(name)
        if settings.fp8 and not facts.fp8_ratio:
            raise without_fp8(facts.description)
        preferred = torch.bfloat16 if facts.has_bf16 else torch.float16
        return facts, facts.memory_bytes, DTYPES[settings.dtype] or preferred
    device = training_device(name)
    precision = choose_precision(settings, device)
    if settings.fp8:
        check_fp8(device)
    return (
        device_facts(device, ops_table(device.torch_device).chosen, own_process=own_process),
        budget_bytes(device, own_process=own_process, processes=settings.num_devices),
        precision.dtype,
    )


def _model(name: str) -> tuple[ModelConfig, Tokenizer | None]:
    """Return a model's shape and its tokenizer where that is at hand; weights are not needed."""
    folder = find_model_folder(name)
    if folder is not None and (folder / "config.json").is_file():
        has_tokenizer = (folder / TOKENIZER_FILE).is_file()
        return load_config(folder), Tokenizer.load(folder) if has_tokenizer else None
    is_here = folder is not None and folder.is_dir()
    config = None if is_here else published_config(name)
    if config is None:
        near = difflib.get_close_matches(name, published_names(), 1)
        raise UsageError(
            _("The model {name} is not known.").format(name=name),
            why=_("It is no folder with config.json, and none of {names}.").format(
                names=", ".join(published_names())
            ),
            fix=f"--model {near[0]}" if near else _("Name a folder, or one of these."),
        )
    return config, None
