"""Adapters as folders in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

Written in fp32; read into the matrices that training and the engine compute with. What only a
merge can use (DoRA, trained modules beside the projections) is refused by name. Format: PEFT's
LoraConfig fields; tensors are named `base_model.model.<module>.lora_A.weight` [r, in] and
`.lora_B.weight` [out, r].
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import torch
from torch import Tensor

from danlu.errors import UsageError
from danlu.files.draft import Draft
from danlu.language import _
from danlu.lora.adapter import Adapter, LoraConfig
from danlu.lora.peft_config import CONFIG_FILE as CONFIG_FILE
from danlu.lora.stored import WEIGHTS_FILE, StoredAdapter
from danlu.model.config import ModelConfig
from danlu.model.layout import projection_module
from danlu.weights.sharded import TensorPlan, write_tensors


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
    """Read what an adapter's matrices are like, and the base model's name.

    Raises UsageError for a folder without an adapter or for a kind that danlu cannot read.
    """
    stored = StoredAdapter(folder)
    return stored.config, stored.settings.base


def load_adapter(
    folder: Path, model: ModelConfig, *, device: torch.device, dtype: torch.dtype
) -> Adapter:
    """Load an adapter for a model; matrices of layers that it leaves out are zero, as in PEFT.

    Where ranks or scalings differ between modules, all get the largest rank, filled with zeros,
    and one scaling: the product is the same. Raises DataError where a tensor is missing or does not
    fit, UsageError for what only a merge can use.
    """
    stored = StoredAdapter(folder)
    stored.check_fits(model)
    beyond = stored.beyond_projections
    if beyond is not None:
        raise merge_it_first(folder, beyond)
    adapter = Adapter(stored.config, model, device=device, dtype=dtype)
    for layer, target, a, b in adapter.tensors():
        stored.fill(projection_module(layer, target), a, b, adapter.config.scaling)
    return adapter


def merge_it_first(folder: Path, what: str) -> UsageError:
    """Build the error for an adapter that can be merged, but not used as it is."""
    merged = folder.with_name(f"{folder.name}-merged")
    return UsageError(
        _("The adapter {folder} can only be used merged.").format(folder=folder),
        why=_("Beside plain LoRA on the projections it holds {what}.").format(what=what),
        fix=_("Merge it first: danlu merge --adapter {folder} --export_dir {merged}").format(
            folder=shlex.quote(str(folder)), merged=shlex.quote(str(merged))
        ),
    )


def _named_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """Map PEFT's names to views of the adapter's storage."""
    return {
        f"base_model.model.{projection_module(layer, target)}.lora_{letter}.weight": matrix
        for layer, target, a, b in adapter.tensors()
        for letter, matrix in (("A", a), ("B", b))
    }


def _plain_number(value: float) -> float | int:
    """16.0 -> 16: PEFT's own files hold whole numbers, and so do people's diffs."""
    return int(value) if float(value).is_integer() else value
