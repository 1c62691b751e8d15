"""How much disk a run will need, known before its first step.

A checkpoint holds the trained weights as other programs read them, and fp32 masters with two
moments for going on. Knows sizes; must not know when anything is saved.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from danlu.errors import CapacityError
from danlu.files.os_errors import free_bytes
from danlu.hub.load import CheckedModel
from danlu.language import _
from danlu.lora.adapter import Adapter, LoraConfig
from danlu.model.qwen3 import Qwen3
from danlu.train.recipe import Recipe
from danlu.units import readable_bytes

# Master values and the two moments of AdamW, in fp32.
_STATE_BYTES = 3 * 4
# What a tensor's entry in a safetensors header takes, and what other small files take.
_ENTRY_BYTES = 160
_SMALL_FILES_BYTES = 4096


def checkpoint_bytes(model: CheckedModel, lora: LoraConfig | None, dtype: torch.dtype) -> int:
    """Predict the size of one checkpoint: of an adapter, or of all weights where lora is None."""
    meta = torch.device("meta")
    if lora is not None:
        adapter = Adapter(lora, model.config, device=meta, dtype=torch.float32)
        numbers, stored = adapter.num_parameters(), 4
        tensors = 2 * sum(1 for _matrices in adapter.tensors())
    else:
        outline = Qwen3(model.config, device=meta, dtype=dtype)
        numbers, stored = sum(p.numel() for p in outline.parameters()), dtype.itemsize
        tensors = sum(1 for _tensor in outline.hf_tensors())
    size = numbers * (_STATE_BYTES + stored) + tensors * _ENTRY_BYTES + _SMALL_FILES_BYTES
    if lora is None:  # a model's tokenizer and settings come with it
        size += sum(p.stat().st_size for p in model.folder.glob("*.json"))
    return size


def check_space(path: Path, one_bytes: int, recipe: Recipe) -> None:
    """Raise CapacityError where the checkpoints that a run keeps, and its result, do not fit."""
    kept, free = recipe.kept_checkpoints, free_bytes(path)
    needed = one_bytes * (kept + 1)
    if needed <= free:
        return
    fix = _("Free some space, or choose another --output_dir")
    fewest = replace(recipe, save_total_limit=1).kept_checkpoints
    if one_bytes * (fewest + 1) <= free:
        fix = _("Add --save_total_limit 1, free some space, or choose another --output_dir")
    raise CapacityError(
        _("The disk is too small for the run {path}.").format(path=path),
        why=_("{count} checkpoints of {size} need {needed}, {free} are free.").format(
            count=kept + 1,
            size=readable_bytes(one_bytes),
            needed=readable_bytes(needed),
            free=readable_bytes(free),
        ),
        fix=fix,
    )
