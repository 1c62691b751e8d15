"""A model ready to talk: base, adapter, engine and the way it was trained to be prompted.

What chat, generate, the demo and the server open. Nothing is chosen silently: `describe` says what
was found.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from danlu.device.detect import DTYPES
from danlu.dialog.dialog import Dialog
from danlu.dialog.events import Event
from danlu.dialog.settings import ModelSettings, SamplingChoice
from danlu.engine.engine import Engine
from danlu.engine.request import SamplingSettings
from danlu.hub.adapters import (
    AdapterSource,
    attach_adapter,
    base_of,
    find_adapter,
    taken_apart,
    unfinished_remark,
    unproven_remark,
)
from danlu.hub.chat_template import template_remarks
from danlu.hub.choosing import chosen_device
from danlu.hub.generation import generation_defaults
from danlu.hub.load import LoadedModel, load_for_answers
from danlu.hub.names import STARTER, default_model, default_name
from danlu.hub.prompting import Prompting, prompting_of_model
from danlu.language import _
from danlu.lora.adapter import Adapter
from danlu.moving_line import Progress, no_progress
from danlu.ops import ops_table
from danlu.text.conversation import Conversation, Message


@dataclass(frozen=True, kw_only=True)
class Assistant:
    """A loaded model with its engine and dialog.

    adapter: used unless the plain base is asked for. source: where it comes from. base_is_proven:
    it records its base, and that is this one.
    """

    loaded: LoadedModel
    engine: Engine
    dialog: Dialog
    prompting: Prompting
    source: AdapterSource | None = None
    adapter: Adapter | None = None
    base_is_proven: bool = True

    @classmethod
    def over(
        cls,
        loaded: LoadedModel,
        prompting: Prompting,
        *,
        num_requests: int = 64,
        cache_tokens: int | None = None,
    ) -> Assistant:
        """Start an engine for a loaded model; see `Engine`. Raises CapacityError."""
        engine = Engine(
            loaded.model,
            loaded.tokenizer,
            prompt_tokens_per_step=loaded.device.prompt_chunk,
            num_requests=num_requests,
            cache_tokens=cache_tokens,
        )
        dialog = _dialog(loaded, engine, prompting)
        return cls(loaded=loaded, engine=engine, dialog=dialog, prompting=prompting)

    def with_another(self, source: AdapterSource | None, prompting: Prompting) -> Assistant:
        """Return an assistant on the same engine with another adapter, or none.

        Raises what `attach_adapter` raises.
        """
        adapter, is_proven = attach_adapter(source, self.loaded) if source else (None, True)
        return replace(
            self,
            dialog=_dialog(self.loaded, self.engine, prompting),
            prompting=prompting,
            source=source,
            adapter=adapter,
            base_is_proven=is_proven,
        )

    def answer(
        self,
        conversation: Conversation,
        sampling: SamplingSettings,
        *,
        enable_thinking: bool | None = None,
        with_adapter: bool = True,
        thinking_budget: int | None = None,
        begun: Message | None = None,
    ) -> Generator[Event, None, None]:
        """Yield the events of the next answer, with the adapter or by the plain base.

        thinking_budget, begun: see `Dialog.prepare`.
        """
        return self.dialog.answer(
            conversation,
            sampling=sampling,
            adapter=self.adapter if with_adapter else None,
            enable_thinking=enable_thinking,
            thinking_budget=thinking_budget,
            begun=begun,
        )

    def sampling(self, settings: SamplingChoice) -> SamplingSettings:
        """Return the model's own sampling defaults, overridden by what was given."""
        thinking = settings.enable_thinking
        if thinking is None:
            thinking = self.prompting.enable_thinking
        own = own_sampling(self.loaded, enable_thinking=thinking)
        given = settings.temperature
        temperature = own.temperature if given is None else given
        return SamplingSettings(
            temperature=temperature if settings.do_sample else 0.0,
            top_p=own.top_p if settings.top_p is None else settings.top_p,
            top_k=own.top_k if settings.top_k is None else settings.top_k,
            min_p=settings.min_p,
            repetition_penalty=settings.repetition_penalty,
            seed=settings.seed,
            max_tokens=settings.max_new_tokens,
        )

    def describe(self) -> list[str]:
        """Say what answers, and how it is prompted."""
        device = self.loaded.device
        table = ops_table(device.torch_device)
        lines = [model_line(self.loaded), *table.warn()]
        # Without its kernels a card answers at a fraction of its speed.
        lines += table.not_built if device.has_host else ()
        if self.source is not None:
            lines.append(_("Adapter {folder}").format(folder=self.source.folder))
            remark = unfinished_remark(self.source)
            lines += [remark] if remark else []
            if not self.base_is_proven:
                lines.append(unproven_remark([self.source], self.loaded.name))
        lines.append(prompting_line(self.prompting))
        lines += template_remarks(self.loaded.folder, self.prompting.template)
        return lines


def _dialog(loaded: LoadedModel, engine: Engine, prompting: Prompting) -> Dialog:
    defaults = generation_defaults(loaded.folder, loaded.config, enable_thinking=True)
    return Dialog(
        engine,
        loaded.tokenizer,
        template=prompting.template,
        enable_thinking=prompting.enable_thinking,
        end_token_ids=defaults.end_token_ids,
    )


def model_line(loaded: LoadedModel) -> str:
    """Say which model computes, where, and how precisely."""
    precision = str(loaded.dtype).removeprefix("torch.")
    if loaded.is_packed:
        precision = _("{dtype}, packed for this processor").format(dtype=precision)
    if loaded.quantization is not None:
        precision = _("{dtype}, weights in {quantization}").format(
            dtype=precision, quantization=loaded.quantization
        )
    if loaded.merged_adapter is not None:
        precision = _("{dtype}, adapter {folder} merged into it").format(
            dtype=precision, folder=loaded.merged_adapter
        )
    line = _("Model {name} on {device} ({dtype})").format(
        name=loaded.name, device=loaded.device.description, dtype=precision
    )
    if loaded.name != STARTER and loaded.name == default_name():
        line += _(", the default (danlu use)")
    return line


def prompting_line(prompting: Prompting) -> str:
    """Say how a model is prompted."""
    modes = {True: _("on"), False: _("off"), None: _("as trained")}
    thinking = modes[prompting.enable_thinking]
    if prompting.opens_thought:
        thinking = _("always")
    return _("Template {template}, thinking {thinking}").format(
        template=prompting.template, thinking=thinking
    )


def own_sampling(loaded: LoadedModel, *, enable_thinking: bool | None) -> SamplingSettings:
    """Return how a model wants to be sampled, with thinking or without."""
    own = generation_defaults(loaded.folder, loaded.config, enable_thinking=enable_thinking)
    return SamplingSettings(temperature=own.temperature, top_p=own.top_p, top_k=own.top_k)


def open_assistant(
    settings: ModelSettings,
    *,
    template: str | None = None,
    enable_thinking: bool | None = None,
    progress: Progress = no_progress,
) -> Assistant:
    """Load what the settings name. Raises what loading a model or an adapter raises."""
    model, adapter_name = taken_apart(settings.model_name_or_path, settings.adapter_name_or_path)
    source = None if adapter_name is None else find_adapter(adapter_name)
    name = model or (base_of(source) if source else default_model())
    loaded = load_for_answers(
        name,
        device=chosen_device(settings.device),
        dtype=DTYPES[settings.dtype],
        quantization=settings.quantization,
        progress=progress,
    )
    adapter, is_proven = attach_adapter(source, loaded) if source else (None, True)
    prompting = source.prompting(name) if source else prompting_of_model(name)
    assistant = Assistant.over(
        loaded,
        prompting.override(template, enable_thinking),
        cache_tokens=settings.cache_tokens,
    )
    return replace(assistant, source=source, adapter=adapter, base_is_proven=is_proven)
