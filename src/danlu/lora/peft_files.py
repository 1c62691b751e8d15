"""Adapters as folders in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

What PEFT can express and danlu cannot compute (DoRA, ranks per layer, trained biases, extra
modules) is refused by name. Format: PEFT's LoraConfig fields; tensors are named
`base_model.model.<module>.lora_A.weight` [r, in] and `.lora_B.weight` [out, r].
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.errors import DataError, UsageError
from danlu.files.draft import Draft
from danlu.files.json_file import read_json_file
from danlu.language import _
from danlu.lora.adapter import ALL_TARGETS, Adapter, LoraConfig
from danlu.model.config import ModelConfig
from danlu.model.layout import projection_module
from danlu.weights.safetensors import SafetensorsFile
from danlu.weights.sharded import TensorPlan, write_tensors

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_TENSOR = re.compile(
    r"base_model\.model\.model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_[AB]\.weight"
)
# A module outside of the layers, such as lm_head: its own matrices, or its copy of the weights.
_OTHER_MODULE = re.compile(
    r"base_model\.model\.(?:model\.)?(lm_head|embed_tokens|norm)\.(?:lora_|base_layer|modules_to_s).*"
)
# Ways to start training that also change the base model's weights: without them the sum is wrong.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# With more, the scaled matrices have no finite values in fp32.
_MOST_ALPHA = 1e6


def write_adapter(draft: Draft, adapter: Adapter, *, base_model: str) -> None:
    """Write an adapter in fp32. base_model: a hub id or an absolute folder, for other tools."""
    config = adapter.config
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": config.r,
        "lora_alpha": _plain_number(config.lora_alpha),
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.use_rslora,
        "target_modules": list(config.target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }
    tensors = _named_tensors(adapter)
    plans = [
        TensorPlan(name=name, dtype=torch.float32, shape=tuple(tensor.shape))
        for name, tensor in sorted(tensors.items())
    ]
    draft.write(CONFIG_FILE, (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode())
    write_tensors(draft, WEIGHTS_FILE, plans, tensors.__getitem__)


def read_config(folder: Path) -> tuple[LoraConfig, str]:
    """Read `adapter_config.json`; returns the settings and the base model's name.

    Raises UsageError for a folder without an adapter or for a kind that is not supported.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        raise UsageError(
            _("{folder} is not an adapter folder.").format(folder=folder),
            why=_("It holds no adapter_config.json."),
            fix=_("Point to the output folder of a training run, or to a PEFT adapter."),
        )
    file = read_json_file(path, fix=_("Copy the adapter folder again, or train it again."))
    _refuse_unsupported(path, file.fields)
    rank = file.integer("r")
    config = LoraConfig(
        r=rank,
        lora_alpha=file.number("lora_alpha", most=_MOST_ALPHA),
        lora_dropout=file.number("lora_dropout", 0.0, most=1.0),
        use_rslora=file.switch("use_rslora") or False,
        target_modules=_targets_in(folder, rank),
    )
    base = file.fields.get("base_model_name_or_path")
    return config, "" if base is None else file.text("base_model_name_or_path")


def load_adapter(
    folder: Path, model: ModelConfig, *, device: torch.device, dtype: torch.dtype
) -> Adapter:
    """Load an adapter for a model; matrices of layers that it leaves out are zero, as in PEFT.

    Raises DataError where a tensor is missing or does not fit.
    """
    config, base = read_config(folder)
    adapter = Adapter(config, model, device=device, dtype=dtype)
    file = SafetensorsFile(folder / WEIGHTS_FILE)
    wanted = _named_tensors(adapter)
    if _chooses_layers(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))):
        for absent in _absent(wanted, file):
            wanted.pop(absent).zero_()
    odd = sorted(set(wanted) ^ set(file.tensors))
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    odd += [n for n, t in file.tensors.items() if n in shapes and t.shape != shapes[n]]
    if odd:
        raise DataError(
            _("The adapter {folder} belongs to another base model.").format(folder=folder),
            why=_("{count} tensors do not fit, the first is {name}.").format(
                count=len(odd), name=odd[0]
            ),
            fix=_("Use it with its own base model: {base}").format(base=base or "?"),
        )
    for name, tensor in wanted.items():
        file.read_into(name, tensor)
    return adapter


def _chooses_layers(fields: Mapping[str, Any]) -> bool:
    """Whether the settings name modules one by one, so that some layers may have no matrices.

    A list of plain names means every layer: what is missing then belongs to another base.
    """
    targets = fields.get("target_modules")
    named = targets if isinstance(targets, list) else [targets or "all-linear"]
    return (
        fields.get("layers_to_transform") is not None
        or bool(fields.get("exclude_modules"))
        or any(name != "all-linear" and name not in ALL_TARGETS for name in named)
    )


def _absent(wanted: Mapping[str, Tensor], file: SafetensorsFile) -> list[str]:
    """List the matrices whose pair is left out whole; half a pair is an error, found later."""
    pairs = {name: re.sub(r"lora_[AB]", "lora_?", name) for name in wanted}
    present = {pairs[name] for name in wanted if name in file.tensors}
    return [name for name, pair in pairs.items() if pair not in present]


def _named_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """Map PEFT's names to views of the adapter's storage."""
    return {
        f"base_model.model.{projection_module(layer, target)}.lora_{letter}.weight": matrix
        for layer, target, a, b in adapter.tensors()
        for letter, matrix in (("A", a), ("B", b))
    }


def _targets_in(folder: Path, rank: int) -> tuple[str, ...]:
    """Tell the targets from the tensors: `target_modules` may be a pattern or `all-linear`.

    The rank must show in every shape: nothing is allocated on the word of a settings file.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise _no_weights(folder)
    found: set[str] = set()
    for name, stored in SafetensorsFile(path).tensors.items():
        match = _TENSOR.fullmatch(name)
        other = _OTHER_MODULE.fullmatch(name)
        if match is None and other is not None:
            raise _adapts_more(folder, other.group(1), name)
        if match is None or match.group(2) not in ALL_TARGETS:
            raise _unusable(path, _("{name} is no LoRA matrix of Qwen3.").format(name=name))
        if rank not in stored.shape:
            raise _unusable(
                path,
                _("{name} has shape {shape}; its rank is not {rank}").format(
                    name=name, shape=list(stored.shape), rank=rank
                ),
            )
        found.add(match.group(2))
    if not found:
        raise _unusable(path, _("It holds no tensors."))
    return tuple(name for name in ALL_TARGETS if name in found)


def _refuse_unsupported(path: Path, fields: Mapping[str, Any]) -> None:
    refused = {
        "peft_type": fields.get("peft_type") != "LORA" and fields.get("peft_type"),
        "bias": fields.get("bias", "none") != "none" and fields.get("bias"),
        "init_lora_weights": str(fields.get("init_lora_weights")).lower().startswith(_CHANGES_BASE)
        and fields["init_lora_weights"],
        **{
            name: fields.get(name)
            for name in (
                "use_dora",
                "fan_in_fan_out",
                "modules_to_save",
                "rank_pattern",
                "alpha_pattern",
                "layer_replication",
                "lora_bias",
                "target_parameters",
                "trainable_token_indices",
                "use_qalora",
                "use_bdlora",
                "alora_invocation_tokens",
                "arrow_config",
                "kasa_config",
                "monteclora_config",
            )
        },
    }
    for name, value in refused.items():
        if value:
            raise UsageError(
                _("The adapter {path} is of a kind that is not supported.").format(path=path),
                why=_("Its field {name} is {value}.").format(name=name, value=value),
                fix=_("Use a plain LoRA adapter, or merge this one with PEFT first."),
            )


def _no_weights(folder: Path) -> DataError:
    older = folder / "adapter_model.bin"
    if older.is_file():
        return DataError(
            _("The adapter {folder} has its weights in adapter_model.bin.").format(folder=folder),
            why=_("That is PEFT's older format; it can run code, and danlu does not open it."),
            fix=_(
                "Save it again with a current PEFT: PeftModel.from_pretrained(base, "
                "{folder}).save_pretrained(NEW)"
            ).format(folder=repr(str(folder))),
        )
    return DataError(
        _("The adapter {folder} has no weights.").format(folder=folder),
        why=_("It holds no {name}.").format(name=WEIGHTS_FILE),
        fix=_("Copy the adapter folder again, or train it again."),
    )


def _adapts_more(folder: Path, module: str, name: str) -> DataError:
    return DataError(
        _("The adapter {folder} adapts {module}.").format(folder=folder, module=module),
        why=_("danlu adapts {names}; the file holds {name}.").format(
            names=", ".join(ALL_TARGETS), name=name
        ),
        fix=_("Merge it with PEFT first (merge_and_unload), or train with --lora_target all"),
    )


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        _("The adapter file {path} cannot be used.").format(path=path),
        why=why,
        fix=_("Copy the adapter folder again, or train it again."),
    )


def _plain_number(value: float) -> float | int:
    """16.0 -> 16: PEFT's own files hold whole numbers, and so do people's diffs."""
    return int(value) if float(value).is_integer() else value
