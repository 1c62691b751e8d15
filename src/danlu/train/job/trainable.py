"""What a run trains: every weight, a new adapter, or one that exists."""

from __future__ import annotations

from dataclasses import replace

import torch

from danlu.errors import UsageError
from danlu.hub.adapters import AdapterSource, attach_adapter
from danlu.hub.load import LoadedModel
from danlu.hub.prompting import Prompting
from danlu.language import _
from danlu.lora.adapter import LoraConfig, target_list
from danlu.lora.peft_files import read_config
from danlu.train.loop.method import FullMethod, LoraMethod, Method
from danlu.train.settings import TrainSettings


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


def method_of(
    base: LoadedModel,
    settings: TrainSettings,
    source: AdapterSource | None,
    lora: LoraConfig | None,
) -> Method:
    """Return what is trained: every weight where lora is None, else the adapter in `source`.

    Without a source the adapter is new. Raises DataError where it belongs to another base, and
    UsageError for a loss that a dense model does not have.
    """
    method = _method_of(base, settings, source, lora)
    method.balance_coefficient = _balance_coefficient(base, settings)
    return method


def _balance_coefficient(base: LoadedModel, settings: TrainSettings) -> float:
    experts, given = base.config.experts, settings.moe_aux_loss_coef
    if experts is None:
        if given:
            raise UsageError(
                _("There are no experts whose shares could be evened out."),
                why=_("{name} is a dense model.").format(name=base.name),
                fix=_("Leave out --moe_aux_loss_coef."),
            )
        return 0.0
    if given is not None:
        return given
    return experts.router_aux_loss_coef if experts.output_router_logits else 0.0


def _method_of(
    base: LoadedModel,
    settings: TrainSettings,
    source: AdapterSource | None,
    lora: LoraConfig | None,
) -> Method:
    prompting = Prompting(template=settings.chat_format, enable_thinking=settings.enable_thinking)
    at_once = prompting.answers_at_once
    if lora is None:
        return FullMethod(base, at_once=at_once)
    if source is None:
        return LoraMethod.fresh(base, lora, seed=settings.seed, at_once=at_once)
    adapter, _is_proven = attach_adapter(source, base, dtype=torch.float32)
    adapter.config = lora  # with the dropout of this command
    return LoraMethod(adapter, base=base, seed=settings.seed, at_once=at_once)
