"""The form of a training: every setting of `danlu train` that a page may choose, by groups.

Made from the settings' own schema, so that a new setting is on the page by itself. Paths are not:
data sets, models and runs are chosen by the names that the server has listed.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from danlu.language import _
from danlu.settings.ranges import Range, ranges_of
from danlu.settings.schema import Option, options_of
from danlu.train.settings import TrainSettings

Json = dict[str, Any]
# What the page chooses in another way, what has one value, and what would be a path.
ELSEWHERE = frozenset(
    {
        *("dataset", "dataset_dir", "eval_dataset", "model_name_or_path", "adapter_name_or_path"),
        *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "preset"),
        *("stage", "do_train", "logging_dir", "quantization_method"),
    }
)
GROUPS: dict[str, tuple[str, ...]] = {
    "data": (
        *("max_samples", "val_size", "cutoff_len", "overlong", "enable_thinking", "template"),
        *("mask_history", "train_on_prompt", "skip_bad_rows", "overwrite_cache", "seed"),
    ),
    "method": (
        *("finetuning_type", "lora_rank", "lora_alpha", "lora_dropout", "lora_target"),
        "use_rslora",
    ),
    "steps": (
        *("num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type"),
        *("lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "max_grad_norm", "weight_decay", "adam_beta1"),
        *("adam_beta2", "adam_epsilon"),
    ),
    "saving": (
        *("eval_strategy", "eval_steps", "eval_on_start", "metric_for_best_model"),
        *("load_best_model_at_end", "early_stopping_patience", "save_strategy", "save_steps"),
        *("save_total_limit", "logging_steps", "plot_loss", "report", "report_to"),
    ),
    "device": (
        "micro_batch_tokens",
        "recompute",
        "dtype",
        "bf16",
        "fp16",
        "fp8",
        "quantization_bit",
        "quantization_type",
        "device",
    ),
}


def training_form() -> Json:
    """Describe the form: its groups with their settings, and the presets."""
    options, ranges = options_of(TrainSettings), ranges_of(TrainSettings)
    grouped = {name for names in GROUPS.values() for name in names} | ELSEWHERE
    rest = tuple(name for name in options if name not in grouped)
    return {
        "groups": [
            {
                "id": group,
                "options": [_described(options[name], ranges.get(name)) for name in names],
            }
            for group, names in ({**GROUPS, "device": GROUPS["device"] + rest}).items()
        ],
        "presets": {name: dict(values) for name, values in TrainSettings.PRESETS.items()},
    }


def _described(option: Option, allowed: Range | None) -> Json:
    choices = [
        choice for kind in option.types if get_origin(kind) is Literal for choice in get_args(kind)
    ]
    return {
        "name": option.name,
        "help": _(option.help),
        "kind": _kind(option),
        "choices": choices,
        "default": option.default,
        "takes_null": option.takes_null,
        "least": allowed.least if allowed else None,
        "greatest": allowed.greatest if allowed and allowed.greatest < float("inf") else None,
        "rule": allowed.rule() if allowed else "",
    }


def _kind(option: Option) -> str:
    """Say how a page asks for a value: switch, choice, whole, number or text."""
    if option.is_switch:
        return "switch"
    if any(get_origin(kind) is Literal for kind in option.types):
        return "choice"
    if int in option.types:
        return "whole"
    return "number" if float in option.types else "text"
