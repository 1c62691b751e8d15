"""What is known of a run before its weights are read: checked, tokenized and planned.

The order matters to a user: model files and data are checked before gigabytes of weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from danlu.data.doctor.check import CheckedData, usable_data
from danlu.device.datasheets import DeviceFacts
from danlu.device.detect import Device
from danlu.device.facts import budget_bytes, device_facts
from danlu.environment import prepare_for_training
from danlu.hub.adapters import AdapterSource, find_adapter, trained_prompting
from danlu.hub.choosing import training_device
from danlu.hub.load import check_model
from danlu.hub.prompting import with_template
from danlu.lora.adapter import LoraConfig
from danlu.model.config import ModelConfig
from danlu.ops import ops_table
from danlu.plan.choose import Constraints, Plan
from danlu.plan.job import Job
from danlu.runs.folder import RunFolder
from danlu.text.tokenizer import Tokenizer
from danlu.train.fit.disk_space import check_space, checkpoint_bytes
from danlu.train.fit.planning import plan_run, workload_of
from danlu.train.job.resume import check_own_checkpoint
from danlu.train.job.trainable import lora_config
from danlu.train.loop.precision import Precision, check_fp8, choose_precision
from danlu.train.recipe import Recipe, recipe_of
from danlu.train.settings import REPORT_SECONDS, TrainSettings, check_settings


@dataclass(frozen=True, kw_only=True)
class LearningTask:
    """What is learned, and how.

    adapter: one that exists and is trained further. lora: its shape; None where every weight is
    trained.
    """

    settings: TrainSettings
    data: CheckedData
    recipe: Recipe
    adapter: AdapterSource | None
    lora: LoraConfig | None

    @classmethod
    def of(cls, settings: TrainSettings, tokenizer: Tokenizer) -> LearningTask:
        """Check, tokenize and split the rows, and read what the settings say."""
        data = usable_data(settings, tokenizer)
        recipe = recipe_of(
            settings, num_train_rows=len(data.train), num_eval_rows=len(data.held_out)
        )
        name = settings.adapter_name_or_path
        adapter = None if name is None else find_adapter(name)
        lora = lora_config(settings, adapter)
        return cls(settings=settings, data=data, recipe=recipe, adapter=adapter, lora=lora)

    def plan(
        self,
        config: ModelConfig,
        facts: DeviceFacts,
        *,
        dtype: torch.dtype,
        budget_bytes: int,
        token_ratio: float = 1.0,
    ) -> Plan:
        """Plan how its steps are computed. Raises CapacityError where nothing fits.

        token_ratio: tokens of the model's tokenizer for one that was counted here.
        """
        data, settings, lora = self.data, self.settings, self.lora
        job = Job(
            config=config,
            number_bytes=dtype.itemsize,
            ranks=None if lora is None else dict.fromkeys(lora.target_modules, lora.r),
            base_form=settings.base_form,
        )
        workload = workload_of(
            self.recipe,
            data.train,
            data.held_out,
            longest=min(data.report.lengths.max, settings.cutoff_len),
            report_s=REPORT_SECONDS if settings.report else 0.0,
            token_ratio=token_ratio,
        )
        constraints = Constraints(
            micro_batch_tokens=settings.micro_batch_tokens,
            recompute=None if settings.recompute == "auto" else settings.recompute,
        )
        return plan_run(job, workload, facts, budget_bytes=budget_bytes, constraints=constraints)


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A run that may begin.

    path: its output folder. plan: None for a resumed run, which computes as it began: another way
    gives other last bits. origins: where each setting came from, for run.json.
    """

    path: Path
    device: Device
    precision: Precision
    task: LearningTask
    plan: Plan | None
    origins: Mapping[str, str]

    @property
    def settings(self) -> TrainSettings:
        """The settings of the command."""
        return self.task.settings

    def open_folder(self) -> RunFolder:
        """Take the output folder for this process."""
        if self.settings.resumes:
            return RunFolder.reopen(self.path)
        return RunFolder.create(self.path, overwrite=self.settings.overwrite_output_dir)


def prepare_run(settings: TrainSettings, origins: Mapping[str, str] | None = None) -> PreparedRun:
    """Check settings, model files, data and space, and plan the run.

    Raises UsageError, DataError, CapacityError, and EnvironmentFault for a device that cannot be
    used or cannot train; nothing has been written by then.
    """
    check_settings(settings)
    path = Path(settings.output_dir).expanduser().absolute()
    if isinstance(settings.resume_from_checkpoint, str):
        check_own_checkpoint(path, settings.resume_from_checkpoint)
    if not (settings.resumes or settings.overwrite_output_dir):
        RunFolder.check_unused(path)
    prepare_for_training()
    device = training_device(settings.device)
    precision = choose_precision(settings, device)
    if settings.fp8:
        check_fp8(device)
    model = check_model(settings.model_name_or_path)
    trained = trained_prompting(settings.model_name_or_path, settings.adapter_name_or_path)
    settings = with_template(settings, trained)
    task = LearningTask.of(settings, model.tokenizer)
    size = checkpoint_bytes(model, task.lora, precision.dtype)
    check_space(path, size, kept=task.recipe.kept_checkpoints)
    plan = None
    if not settings.resumes:
        variants = ops_table(device.torch_device).chosen
        facts, budget = device_facts(device, variants), budget_bytes(device)
        plan = task.plan(model.config, facts, dtype=precision.dtype, budget_bytes=budget)
    return PreparedRun(
        path=path,
        device=device,
        precision=precision,
        task=task,
        plan=plan,
        origins=origins or {},
    )
