"""A model ready to talk: base, adapter, engine and the way it was trained to be prompted.

What chat, generate and the demo open. Nothing is chosen silently: `describe` says what was found.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from danlu.device.detect import DTYPES, select
from danlu.dialog.dialog import Dialog
from danlu.dialog.events import Event
from danlu.dialog.settings import AnswerSettings, ModelSettings
from danlu.engine.engine import Engine
from danlu.engine.request import SamplingSettings
from danlu.language import _
from danlu.lora.adapter import Adapter
from danlu.models.adapters import (
    AdapterSource,
    Prompting,
    attach_adapter,
    base_of,
    find_adapter,
    prompting_of_model,
)
from danlu.models.generation import generation_defaults
from danlu.models.load import LoadedModel, load_model
from danlu.models.names import STARTER
from danlu.text.conversation import Conversation


@dataclass(frozen=True, kw_only=True)
class Assistant:
    """A loaded model with its dialog; `adapter` is used unless the plain base is asked for."""

    loaded: LoadedModel
    dialog: Dialog
    prompting: Prompting
    source: AdapterSource | None
    adapter: Adapter | None
    base_is_proven: bool

    def answer(
        self,
        conversation: Conversation,
        sampling: SamplingSettings,
        *,
        enable_thinking: bool | None = None,
        with_adapter: bool = True,
    ) -> Generator[Event, None, None]:
        """Yield the events of the next answer, with the adapter or by the plain base."""
        return self.dialog.answer(
            conversation,
            sampling=sampling,
            adapter=self.adapter if with_adapter else None,
            enable_thinking=enable_thinking,
        )

    def sampling(self, settings: AnswerSettings) -> SamplingSettings:
        """Return the model's own sampling defaults, overridden by what was given."""
        thinking = settings.enable_thinking
        if thinking is None:
            thinking = self.prompting.enable_thinking
        own = generation_defaults(self.loaded.folder, self.loaded.config, enable_thinking=thinking)
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
        dtype = str(self.loaded.dtype).removeprefix("torch.")
        lines = [
            _("Model {name} on {device} ({dtype})").format(
                name=self.loaded.name, device=self.loaded.device.description, dtype=dtype
            )
        ]
        if self.source is not None:
            lines.append(_("Adapter {folder}").format(folder=self.source.folder))
            if not self.base_is_proven:
                lines.append(
                    _("The adapter does not record its base; only the shapes could be checked.")
                )
        lines.append(
            _("Template {template}, thinking {thinking}").format(
                template=self.prompting.template,
                thinking={True: _("on"), False: _("off"), None: _("as trained")}[
                    self.prompting.enable_thinking
                ],
            )
        )
        return lines


def open_assistant(
    settings: ModelSettings,
    *,
    template: str | None = None,
    enable_thinking: bool | None = None,
) -> Assistant:
    """Load what the settings name. Raises what loading a model or an adapter raises."""
    source = None
    if settings.adapter_name_or_path is not None:
        source = find_adapter(settings.adapter_name_or_path)
    name = settings.model_name_or_path or (base_of(source) if source else STARTER)
    loaded = load_model(name, device=select(settings.device), dtype=DTYPES[settings.dtype])
    adapter, is_proven = attach_adapter(source, loaded) if source else (None, True)
    prompting = source.prompting if source else prompting_of_model(name)
    if template is not None:
        prompting = replace(prompting, template=template)
    if enable_thinking is not None:
        prompting = replace(prompting, enable_thinking=enable_thinking)
    defaults = generation_defaults(loaded.folder, loaded.config, enable_thinking=True)
    dialog = Dialog(
        Engine(loaded.model, loaded.tokenizer),
        loaded.tokenizer,
        template=prompting.template,
        enable_thinking=prompting.enable_thinking,
        end_token_ids=defaults.end_token_ids,
    )
    return Assistant(
        loaded=loaded,
        dialog=dialog,
        prompting=prompting,
        source=source,
        adapter=adapter,
        base_is_proven=is_proven,
    )
