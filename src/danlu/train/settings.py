"""The settings of `danlu train`; names and meanings as in LLaMA-Factory and HF's Trainer.

A preset is a set of defaults. `tutorial` holds the values of the Ascend tutorial's command, whose
paths are the user's; `quality` and `quick` are danlu's (measured in docs/training.md). `starter` is
for the built-in model, which is so tiny that it needs high rates and many passes.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import field_validator

from danlu.data.settings import DataSettings
from danlu.errors import UsageError
from danlu.hub.settings import DeviceName, DtypeName
from danlu.language import _
from danlu.model.config import WeightForm
from danlu.model.recompute import Recompute
from danlu.settings.foreign_options import options_for
from danlu.settings.ranges import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    Share,
    ShareBelowOne,
    ShareOrCount,
)
from danlu.settings.schema import Foreign, option

ScheduleName = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]
Metric = Literal["eval_loss", "eval_loss_per_sample"]
# What report_to may name in transformers and LLaMA-Factory, and what leaves the machine.
SERVICES = (
    *("azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "mlflow"),
    *("neptune", "swanlab", "trackio", "wandb"),
)


# Methods of LLaMA-Factory whose models are quantised beforehand.
_QUANTISED_BEFORE = ("gptq", "awq", "aqlm", "quanto", "mxfp4", "fp8")
# The most that measuring for the report takes, loading excepted.
REPORT_SECONDS = 60.0


class TrainSettings(DataSettings):
    """Fine-tune a model on your own data."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "tutorial": {
            "cutoff_len": "1024",
            "max_samples": "1000",
            "val_size": "0.1",
            "per_device_train_batch_size": "2",
            "gradient_accumulation_steps": "8",
            "learning_rate": "5e-5",
            "lr_scheduler_type": "cosine",
            "warmup_steps": "20",
            "num_train_epochs": "5.0",
            "logging_steps": "50",
            "eval_strategy": "steps",
            "eval_steps": "50",
            "save_steps": "100",
            "load_best_model_at_end": "true",
        },
        "quality": {
            "val_size": "0.1",
            "lora_rank": "16",
            "lora_alpha": "32",
            "learning_rate": "3e-4",
            "lr_scheduler_type": "cosine",
            "warmup_ratio": "0.05",
            "num_train_epochs": "3.0",
            "eval_strategy": "steps",
            "eval_steps": "0.1",
            "early_stopping_patience": "3",
            "load_best_model_at_end": "true",
        },
        "quick": {
            "max_samples": "500",
            "val_size": "0.1",
            "learning_rate": "3e-4",
            "lr_scheduler_type": "cosine",
            "warmup_ratio": "0.05",
            "num_train_epochs": "1.0",
        },
        "starter": {
            "gradient_accumulation_steps": "4",
            "learning_rate": "2e-3",
            "num_train_epochs": "30",
        },
    }
    FOREIGN: ClassVar[Mapping[str, Foreign]] = options_for("train")

    preset: Literal["tutorial", "quality", "quick", "starter"] | None = option(
        None, "a set of values for what is not given; see docs/training.md"
    )
    stage: Literal["sft"] = option("sft", "what is trained: sft, supervised fine-tuning")
    do_train: bool = option(True, "train; accepted for the sake of existing commands")
    model_name_or_path: str = option(
        "starter", "model folder, or starter (built in)", aliases=("model",)
    )
    adapter_name_or_path: str | None = option(
        None, "go on training this adapter, or this run's, as a new run", aliases=("adapter",)
    )
    output_dir: str = option("", "folder for this run")
    overwrite_output_dir: bool = option(False, "move what is in output_dir to a trash folder first")
    resume_from_checkpoint: bool | str = option(
        False, "go on from the newest good checkpoint, or from this one of the run"
    )
    finetuning_type: Literal["lora", "full"] = option("lora", "an adapter, or every weight")
    lora_rank: PositiveInt = option(8, "rank of the adapter's matrices")
    lora_alpha: PositiveFloat | None = option(
        None, "scale is alpha / rank; twice the rank if not given"
    )
    lora_dropout: ShareBelowOne = option(0.0, "share of the adapter's inputs set to zero")
    moe_aux_loss_coef: NonNegativeFloat | None = option(
        None,
        "factor of a loss that evens out the experts' shares; as in config.json if not given",
    )
    lora_target: str = option("all", "projections: all, or some such as q_proj,v_proj,up_proj")
    use_rslora: bool = option(False, "scale by alpha / sqrt(rank) instead")
    per_device_train_batch_size: PositiveInt = option(
        2, "rows of a step = this x accumulation steps"
    )
    gradient_accumulation_steps: PositiveInt = option(8, "rows of a step = batch size x this")
    learning_rate: PositiveFloat = option(1e-4, "peak learning rate")
    lr_scheduler_type: ScheduleName = option("cosine", "shape of the learning rate")
    lr_scheduler_kwargs: str = option(
        "", 'its numbers as JSON: {"num_cycles": 2}, {"power": 2}, {"min_lr": 1e-6}'
    )
    warmup_steps: ShareOrCount = option(0, "steps until the peak; below 1 a share of all steps")
    warmup_ratio: Share = option(0.0, "share of all steps until the peak, if warmup_steps is 0")
    num_train_epochs: PositiveFloat = option(3.0, "passes over the data")
    max_steps: Annotated[int, Range(least=-1)] = option(
        -1, "stop after this many steps, instead of num_train_epochs; -1 or 0: not"
    )
    weight_decay: NonNegativeFloat = option(0.0, "AdamW's decay; never applied to norm weights")
    adam_beta1: ShareBelowOne = option(0.9, "AdamW's memory of the gradient")
    adam_beta2: ShareBelowOne = option(0.999, "AdamW's memory of its square")
    adam_epsilon: PositiveFloat = option(1e-8, "AdamW's smallest divisor")
    max_grad_norm: NonNegativeFloat = option(
        1.0, "gradients are scaled down to this length; 0 is off"
    )
    eval_on_start: bool = option(False, "evaluate before the first step too")
    eval_strategy: Literal["auto", "no", "steps", "epoch"] = option(
        "auto",
        "when to evaluate besides the end; auto: every eval_steps; 8 times or more if not given",
        aliases=("evaluation_strategy",),
    )
    eval_steps: ShareOrCount = option(
        0, "evaluate every so many steps; below 1 a share of all steps"
    )
    save_strategy: Literal["no", "steps", "epoch", "best"] = option(
        "steps", "when to save besides the end and each new best evaluation"
    )
    save_steps: ShareOrCount = option(500, "save every so many steps; below 1 a share of all steps")
    save_total_limit: PositiveInt | None = option(
        None, "keep only the newest checkpoints and the best"
    )
    load_best_model_at_end: bool = option(False, "the result is the best evaluated step")
    metric_for_best_model: Metric | Literal["loss"] = option(
        "eval_loss", "what the best step is chosen by; lower is better"
    )
    early_stopping_patience: NonNegativeInt = option(
        0,
        "stop after so many evaluations without a better one; 0 is off",
        aliases=("early_stopping_steps",),
    )
    logging_steps: Annotated[float, Range(least=0, above=True, or_whole=True)] = option(
        10, "a line and a log entry every so many steps"
    )
    plot_loss: bool = option(True, "draw the loss curves")
    report_to: Literal["auto", "none", "tensorboard", "all"] = option(
        "auto", "auto: TensorBoard where logging_dir or AutoDL's log folder exists"
    )
    logging_dir: str = option("", "folder for TensorBoard")
    report: bool = option(True, "write report.html and report.md at the end")
    micro_batch_tokens: PositiveInt | None = option(
        None, "tokens computed at once; bounds memory, not the result; planned if not given"
    )
    recompute: Recompute | Literal["auto"] = option(
        "auto",
        "what is computed twice instead of kept: none; selective (norms, rope, swiglu, attention); "
        "gate_up (its projection too); block (whole layers); offload (layers, kept on the host)",
    )
    fp16: bool = option(False, "16-bit precision: bfloat16 where the device has it, else float16")
    bf16: bool = option(False, "the same as --dtype bfloat16")
    fp8: bool = option(
        False,
        "keep the base below an adapter in fp8 and multiply with that: faster on NVIDIA cards from "
        "Ada and Hopper on",
    )
    quantization_bit: Literal[8, 4] | None = option(
        None, "keep the base below an adapter in so many bits: half or a third of its memory"
    )
    quantization_method: Literal["bnb", "hqq", "eetq"] | None = option(
        None, "whose way files ask for: bnb with 4 bits is nf4, all else danlu's int8 and int4"
    )
    quantization_type: Literal["nf4"] | None = option(
        None, "which 4 bits: nf4, bitsandbytes' levels; int4 if nothing is given"
    )
    dtype: DtypeName = "auto"
    device: DeviceName = "auto"
    num_devices: PositiveInt = option(
        1, "devices of this machine that share each step, which has as many times the rows"
    )

    @field_validator("report_to", mode="before")
    @classmethod
    def _logs_here(cls, value: object) -> object:
        services = [name for name in str(value).split(",") if name.strip() in SERVICES]
        if services:
            raise ValueError(
                _(
                    "danlu sends nothing to {services}: it writes metrics.jsonl, curves and, with "
                    "tensorboard, TensorBoard's files"
                ).format(services=", ".join(services))
            )
        return value

    @field_validator("quantization_bit", mode="before")
    @classmethod
    def _as_number(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("quantization_method", "quantization_type", mode="before")
    @classmethod
    def _way_to_quantise(cls, value: object) -> object:
        name = str(value).lower()
        if name in _QUANTISED_BEFORE:
            raise ValueError(
                _(
                    "{method} is made before training, from data; danlu quantises the published "
                    "weights itself while it reads them"
                ).format(method=name)
            )
        if name == "fp4":
            raise ValueError(_("nf4 takes as much memory as fp4 and loses less"))
        return "bnb" if name == "bitsandbytes" else value

    @property
    def base_form(self) -> WeightForm | None:
        """The form in which the matrices below an adapter are kept; None: as they are."""
        if self.fp8:
            return "fp8"
        if self.quantization_bit is None:
            return None
        if self.quantization_bit == 8:
            return "int8"
        is_nf4 = self.quantization_type == "nf4" or self.quantization_method == "bnb"
        return "nf4" if is_nf4 else "int4"

    @property
    def resumes(self) -> bool:
        """Whether the run in output_dir goes on."""
        return self.resume_from_checkpoint is not False


def check_settings(settings: TrainSettings, *, command: Literal["train", "plan"] = "train") -> None:
    """Raise UsageError for a setting that the command lacks, or that cannot work."""
    if command == "train":
        required = {"dataset": "rows.jsonl", "output_dir": "my-run"}
        why = _("danlu train needs data to learn and a folder for the result.")
    else:
        required = {"dataset": "rows.jsonl"}
        why = _("danlu plan needs the data that would be learned.")
    given = {name: getattr(settings, name) or example for name, example in required.items()}
    for name in required:
        if not getattr(settings, name):
            words = [word for option, value in given.items() for word in (f"--{option}", value)]
            raise UsageError(
                _("--{name} is missing.").format(name=name),
                why=why,
                fix=shlex.join(["danlu", command, *words]),
            )
    if not settings.do_train:
        raise UsageError(
            _("--do_train false leaves nothing to do."),
            why=_("danlu train trains; it does not only evaluate."),
            fix="--do_train true",
        )
    if settings.finetuning_type == "full" and settings.base_form is not None:
        raise UsageError(
            _("--{name} cannot be used with --finetuning_type full.").format(
                name="fp8" if settings.fp8 else "quantization_bit"
            ),
            why=_(
                "Weights in {form} stay as they are; only an adapter beside them can learn."
            ).format(form=settings.base_form),
            fix="--finetuning_type lora",
        )
    if settings.fp8 and settings.quantization_bit is not None:
        raise UsageError(
            _("--fp8 and --quantization_bit exclude each other."),
            why=_("The base below an adapter has one form."),
            fix=_(
                "Keep --quantization_bit for less memory, --fp8 for speed on newer NVIDIA cards."
            ),
        )
    if settings.finetuning_type == "full" and settings.adapter_name_or_path:
        raise UsageError(
            _("--adapter_name_or_path cannot be trained with --finetuning_type full."),
            why=_("Full fine-tuning changes the weights of the model; an adapter stands beside."),
            fix=_("Merge it first: danlu merge --adapter {adapter} --export_dir my-model").format(
                adapter=shlex.quote(settings.adapter_name_or_path)
            ),
        )
