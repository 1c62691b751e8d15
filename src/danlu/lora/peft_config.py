"""The settings of an adapter in PEFT's format: `adapter_config.json`, read and checked.

Says rank and scaling of every module, and which kinds of adapters danlu cannot read; those are
refused by name. Knows nothing of the weights. Names and meanings: PEFT's LoraConfig.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from danlu.errors import DataError, UsageError
from danlu.files.json_file import JsonFile, read_json_file
from danlu.language import _
from danlu.lora.adapter import ALL_TARGETS

CONFIG_FILE = "adapter_config.json"
_Value = TypeVar("_Value", int, float)
# Ways to start training that also change the base model's weights: without them the sum is wrong.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_UNREADABLE = (
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "trainable_token_indices",
    "ensure_weight_tying",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
# With more, the scaled matrices have no finite values in fp32.
_MOST_ALPHA = 1e6
# Run by whoever trusts the file; weights_only keeps torch from most of what a pickle may do.
_CONVERT = (
    "import sys, torch; from danlu.weights.safetensors import header_bytes, tensor_bytes; "
    "t = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
    "open(sys.argv[2], 'wb').write(b''.join([header_bytes((k, v.dtype, tuple(v.shape)) "
    "for k, v in t.items()), *map(tensor_bytes, t.values())]))"
)
# A pattern is a program of others: one that repeats groups, or much, may run for years.
_SIMPLE_PATTERN = re.compile(r"(?:[\w.^$|\\\-\[\]()]|(?<!\))\*)*")
_MOST_STARS = 3


@dataclass(frozen=True, kw_only=True)
class PeftSettings:
    """What `adapter_config.json` says of the matrices. Modules: `model.layers.0.mlp.up_proj`.

    target_parameters: tensors that hold a projection of all experts, as `mlp.experts.down_proj`.
    """

    base: str
    r: int
    lora_alpha: float
    lora_dropout: float
    use_rslora: bool
    use_dora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    modules_to_save: tuple[str, ...]
    chooses_layers: bool
    target_parameters: tuple[str, ...] = ()

    def rank(self, module: str) -> int:
        """Return the rank that a module's matrices must have."""
        return _by_pattern(self.rank_pattern, module, self.r)

    def scaling(self, module: str) -> float:
        """Return the factor on B A: alpha / r, or alpha / sqrt(r) (rsLoRA)."""
        rank = self.rank(module)
        alpha = _by_pattern(self.alpha_pattern, module, self.lora_alpha)
        return float(alpha / (rank**0.5 if self.use_rslora else rank))

    def saves(self, module: str) -> bool:
        """Whether the adapter has a trained copy of this module, as PEFT matches its names."""
        return any(module.endswith(name) for name in self.modules_to_save)


def read_peft_settings(folder: Path) -> PeftSettings:
    """Read `adapter_config.json`.

    Raises UsageError for a folder without an adapter or for a kind that danlu cannot read,
    DataError for a malformed file.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        raise UsageError(
            _("{folder} is not an adapter folder.").format(folder=folder),
            why=_("It holds no adapter_config.json."),
            fix=_("Point to the output folder of a training run, or to a PEFT adapter."),
        )
    file = read_json_file(path, fix=_("Copy the adapter folder again, or train it again."))
    _refuse_unreadable(path, file.fields)
    base = file.fields.get("base_model_name_or_path")
    return PeftSettings(
        base="" if base is None else file.text("base_model_name_or_path"),
        r=file.integer("r"),
        lora_alpha=file.number("lora_alpha", most=_MOST_ALPHA),
        lora_dropout=file.number("lora_dropout", 0.0, most=1.0),
        use_rslora=file.switch("use_rslora") or False,
        use_dora=file.switch("use_dora") or False,
        rank_pattern=_patterns(file, "rank_pattern", int),
        alpha_pattern=_patterns(file, "alpha_pattern", float),
        modules_to_save=_names(file, "modules_to_save"),
        chooses_layers=_chooses_layers(file.fields),
        target_parameters=_names(file, "target_parameters"),
    )


def _by_pattern(patterns: Mapping[str, _Value], module: str, default: _Value) -> _Value:
    """Look a module up as PEFT does: the first pattern that its name ends with."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _patterns(file: JsonFile, name: str, kind: type[_Value]) -> dict[str, _Value]:
    """Read a mapping of patterns to numbers. Raises DataError."""
    found = file.fields.get(name) or {}
    if not isinstance(found, dict):
        raise file.broken(_("{name} is no mapping of modules to numbers").format(name=name))
    for pattern, value in found.items():
        number = isinstance(value, int if kind is int else (int, float))
        if isinstance(value, bool) or not number or not 0 < value <= _MOST_ALPHA:
            raise file.broken(
                _("{name} gives {pattern} the value {value}").format(
                    name=name, pattern=repr(pattern), value=repr(value)
                )
            )
        if not _is_simple(pattern):
            raise file.broken(
                _("{name} has a pattern that is not supported: {pattern}").format(
                    name=name, pattern=repr(pattern)
                )
            )
    return {pattern: kind(value) for pattern, value in found.items()}


def _is_simple(pattern: str) -> bool:
    if not _SIMPLE_PATTERN.fullmatch(pattern) or pattern.count("*") > _MOST_STARS:
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _names(file: JsonFile, name: str) -> tuple[str, ...]:
    found = file.fields.get(name) or []
    if not isinstance(found, list) or not all(isinstance(each, str) and each for each in found):
        raise file.broken(_("{name} is no list of names").format(name=name))
    return tuple(found)


def _chooses_layers(fields: Mapping[str, Any]) -> bool:
    """Whether the settings name modules one by one, so that some layers may have no matrices.

    A list of plain names means every layer: what is missing then belongs to another base.
    """
    targets = fields.get("target_modules")
    named = targets if isinstance(targets, list) else [targets or "all-linear"]
    plain = ("all-linear", "lm_head", "embed_tokens", *ALL_TARGETS)
    return (
        fields.get("layers_to_transform") is not None
        or bool(fields.get("exclude_modules"))
        or any(name not in plain for name in named)
    )


def _refuse_unreadable(path: Path, fields: Mapping[str, Any]) -> None:
    refused = {
        "peft_type": fields.get("peft_type") != "LORA" and fields.get("peft_type"),
        "init_lora_weights": str(fields.get("init_lora_weights")).lower().startswith(_CHANGES_BASE)
        and fields["init_lora_weights"],
        **{name: fields.get(name) for name in _UNREADABLE},
    }
    for name, value in refused.items():
        if value:
            raise UsageError(
                _("The adapter {path} is of a kind that is not supported.").format(path=path),
                why=_("Its field {name} is {value}.").format(name=name, value=value),
                fix=_("Use a plain LoRA adapter, or merge this one with PEFT first."),
            )


def no_weights(folder: Path, weights_file: str) -> DataError:
    """Build the error for an adapter folder without weights, or with pickled ones."""
    older = folder / "adapter_model.bin"
    if older.is_file():
        return DataError(
            _("The adapter {folder} has its weights in adapter_model.bin.").format(folder=folder),
            why=_("That is a pickle, PEFT's older format; it can run code, and danlu opens none."),
            fix=_("If you trust it: {command}").format(
                command=shlex.join(
                    [sys.executable, "-c", _CONVERT, str(older), str(folder / weights_file)]
                )
            ),
        )
    return DataError(
        _("The adapter {folder} has no weights.").format(folder=folder),
        why=_("It holds no {name}.").format(name=weights_file),
        fix=_("Copy the adapter folder again, or train it again."),
    )
