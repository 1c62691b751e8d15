"""What is known of a run before its weights are read: checked, tokenized and planned.

The order matters to a user: model files and data are checked before gigabytes of weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from danlu.data.doctor.check import CheckedData, usable_data
from danlu.device.datasheets import DeviceFacts
from danlu.device.detect import Device
from danlu.device.facts import budget_bytes, device_facts
from danlu.device.group import ALONE, Group, join
from danlu.device.launcher import Place
from danlu.environment import prepare_for_training
from danlu.errors import CapacityError
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
from danlu.runs.manifest import ArithmeticRecord, is_run, read_manifest
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
    def of(cls, settings: TrainSettings, tokenizer: Tokenizer, *, num_devices: int) -> LearningTask:
        """Check, tokenize and split the rows, and read what the settings say.

        num_devices: that the run begins with.
        """
        data = usable_data(settings, tokenizer)
        recipe = recipe_of(
            settings,
            num_train_rows=len(data.train),
            num_eval_rows=len(data.held_out),
            num_devices=num_devices,
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
        num_devices: int,
        token_ratio: float = 1.0,
    ) -> Plan:
        """Plan how each of `num_devices` computes its share of a step.

        Each has the whole model, or a share of it where that does not fit. Raises CapacityError
        where nothing fits. token_ratio: tokens of the model's tokenizer for one that was counted.
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
            num_devices=num_devices,
            token_ratio=token_ratio,
        )
        constraints = Constraints(
            micro_batch_tokens=settings.micro_batch_tokens,
            recompute=None if settings.recompute == "auto" else settings.recompute,
        )
        plan = partial(plan_run, budget_bytes=budget_bytes, constraints=constraints)
        try:
            return plan(job, workload, facts)
        except CapacityError:
            if num_devices == 1 or job.base_form is not None:
                raise
            return plan(replace(job, num_shares=num_devices), workload, facts)


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A run that may begin.

    path: its output folder. plan: None for a resumed run, which computes as it began: another way
    gives other last bits; and in a process that another one leads. began_with: how many devices the
    run had at first. shared_by: the group whose processes divide the base; of one where each has
    all of it. origins: where each setting came from, for run.json.
    """

    path: Path
    device: Device
    precision: Precision
    task: LearningTask
    plan: Plan | None
    origins: Mapping[str, str]
    group: Group
    began_with: int
    shared_by: Group

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

    Several processes do it one after another: the first one leaves the tokens in the cache. Raises
    UsageError, DataError, CapacityError, and EnvironmentFault for a device that cannot be used or
    cannot train; nothing has been written by then.
    """
    check_settings(settings)
    path = Path(settings.output_dir).expanduser().absolute()
    prepare_for_training()
    device = training_device(settings.device)
    group = join(device.kind)  # from here on nobody waits for one that has failed
    if group.is_lead:
        _check_folder(path, settings)
    precision = choose_precision(settings, device)
    if settings.fp8:
        check_fp8(device)
    model = check_model(settings.model_name_or_path)
    trained = trained_prompting(settings.model_name_or_path, settings.adapter_name_or_path)
    settings = with_template(settings, trained)
    before = _recorded(path, settings) if group.is_lead else None
    began_with = group.told(group.size if before is None else before.num_devices)
    with group.one_after_another():
        task = LearningTask.of(settings, model.tokenizer, num_devices=began_with)
    plan = None
    if group.is_lead:
        size = checkpoint_bytes(model, task.lora, precision.dtype)
        check_space(path, size, task.recipe)
    if group.is_lead and not settings.resumes:
        variants = ops_table(device.torch_device).chosen
        facts = device_facts(device, variants)
        budget = budget_bytes(device, processes=Place.own().local_size)
        plan = task.plan(
            model.config,
            facts,
            dtype=precision.dtype,
            budget_bytes=budget,
            num_devices=group.size,
        )
    is_shared = before.is_shared if before is not None else plan is not None and plan.job.is_shared
    is_shared = group.told(is_shared)
    return PreparedRun(
        path=path,
        device=device,
        precision=precision,
        task=task,
        plan=plan,
        origins=origins or {},
        group=group,
        began_with=began_with,
        shared_by=group if is_shared else ALONE,
    )


def _check_folder(path: Path, settings: TrainSettings) -> None:
    if isinstance(settings.resume_from_checkpoint, str):
        check_own_checkpoint(path, settings.resume_from_checkpoint)
    if not (settings.resumes or settings.overwrite_output_dir):
        RunFolder.check_unused(path)


def _recorded(path: Path, settings: TrainSettings) -> ArithmeticRecord | None:
    """Return how a run that is resumed computed; None for a new one."""
    return read_manifest(path).arithmetic if settings.resumes and is_run(path) else None
