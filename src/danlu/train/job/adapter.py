"""Which adapter a run trains: a new one as the settings say, or one that exists."""

from __future__ import annotations

from dataclasses import replace

from danlu.hub.adapters import AdapterSource, find_adapter
from danlu.lora.adapter import LoraConfig, target_list
from danlu.lora.peft_files import read_config
from danlu.train.settings import TrainSettings


def named_adapter(settings: TrainSettings) -> AdapterSource | None:
    """Find the adapter that training goes on with. Raises UsageError where there is none."""
    name = settings.adapter_name_or_path
    return None if name is None else find_adapter(name)


def lora_config(settings: TrainSettings, source: AdapterSource | None) -> LoraConfig | None:
    """Return what the adapter is like; None for full training. One that exists keeps its shape."""
    if settings.finetuning_type == "full":
        return None
    if source is not None:
        return replace(read_config(source.folder)[0], lora_dropout=settings.lora_dropout)
    alpha = settings.lora_alpha
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2.0 * settings.lora_rank if alpha is None else alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.use_rslora,
        target_modules=target_list(settings.lora_target),
    )
