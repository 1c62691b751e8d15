"""A partner in this process: one engine, the base model, and any number of adapters on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from danlu.chat.partner import Answering
from danlu.chat.settings import ChatSettings
from danlu.dialog.assistant import Assistant, open_assistant
from danlu.dialog.settings import ModelSettings
from danlu.errors import UsageError
from danlu.hub.adapters import find_adapter
from danlu.hub.prompting import Prompting, prompting_of_model
from danlu.language import _
from danlu.moving_line import Progress
from danlu.text.conversation import Conversation, Message

BASE = "base"


class LocalPartner:
    """Answers with models that are loaded here. opened: the base, or the base with an adapter."""

    base = BASE

    def __init__(self, opened: Assistant, name: str, settings: ChatSettings) -> None:
        self._settings = settings
        self._assistants = {BASE: opened}
        if opened.source is not None:
            own = prompting_of_model(str(opened.loaded.folder))
            self._assistants[BASE] = opened.with_another(None, self._overridden(own))
            self._assistants[name] = opened

    @property
    def voices(self) -> Sequence[str]:
        """The base first, then the adapters."""
        return list(self._assistants)

    @property
    def context_tokens(self) -> int | None:
        """What the engine has room for."""
        return self._opened.engine.context_tokens

    @property
    def _opened(self) -> Assistant:
        return self._assistants[BASE]

    def close(self) -> None:
        """Forget the models."""
        self._assistants.clear()

    def add(self, name: str, path: str) -> None:
        """Load a further adapter. Raises what finding and attaching it raise."""
        source = find_adapter(path)
        prompting = self._overridden(source.prompting(str(self._opened.loaded.folder)))
        self._assistants[name] = self._opened.with_another(source, prompting)

    def describe(self, voice: str) -> Sequence[str]:
        """Name model, adapter, template and thinking mode."""
        return self._assistants[voice].describe()

    def answer(
        self,
        conversation: Conversation,
        settings: ChatSettings,
        *,
        voice: str,
        as_base: bool = False,
        begun: Message | None = None,
    ) -> Answering:
        """Yield the events of the next answer."""
        assistant = self._assistants[voice]
        return assistant.answer(
            conversation,
            assistant.sampling(settings),
            enable_thinking=settings.enable_thinking,
            with_adapter=not as_base,
            thinking_budget=settings.thinking_budget,
            begun=begun,
        )

    def count(
        self, conversation: Conversation, settings: ChatSettings, *, voice: str
    ) -> int | None:
        """Count the tokens of the prompt that the conversation would be."""
        if not conversation.messages:
            return 0
        assistant = self._assistants[voice]
        prepared = assistant.dialog.prepare(
            conversation,
            sampling=assistant.sampling(settings),
            enable_thinking=settings.enable_thinking,
        )
        return len(prepared.request.prompt)

    def train_words(self, voice: str) -> Sequence[str]:
        """Name the base, the adapter to go on with, and how they are prompted."""
        assistant = self._assistants[voice]
        words = ["--model_name_or_path", assistant.loaded.name]
        if assistant.source is not None:
            words += ["--adapter_name_or_path", str(assistant.source.folder)]
        words += ["--template", assistant.prompting.template]
        thinking = assistant.prompting.enable_thinking
        return words if thinking is None else [*words, "--enable_thinking", str(thinking).lower()]

    def _overridden(self, prompting: Prompting) -> Prompting:
        return prompting.override(self._settings.template, self._settings.enable_thinking)


def open_partner(settings: ChatSettings, progress: Progress) -> tuple[LocalPartner, str]:
    """Load what the settings name; return it with the voice that answers first.

    Raises what loading a model or an adapter raises.
    """
    adapters = _named(settings.adapter_name_or_path)
    first = next(iter(adapters), BASE)
    opened = open_assistant(
        ModelSettings(
            model_name_or_path=settings.model_name_or_path,
            adapter_name_or_path=adapters.get(first),
            dtype=settings.dtype,
            quantization=settings.quantization,
            device=settings.device,
            cache_tokens=settings.cache_tokens,
        ),
        template=settings.template,
        enable_thinking=settings.enable_thinking,
        progress=progress,
    )
    partner = LocalPartner(opened, first, settings)
    for name, path in adapters.items():
        if name != first:
            partner.add(name, path)
    return partner, first


def _named(words: Sequence[str]) -> dict[str, str]:
    """Read adapters as NAME=PATH; one alone may be a path only."""
    named: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or Path(word).exists():
            if len(words) > 1:
                find_adapter(",".join(words))  # says what LLaMA-Factory means by such a list
            name, path = Path(word).expanduser().absolute().name, word
        if name in named or name == BASE or not name or not path:
            raise UsageError(
                _("{word} does not name an adapter.").format(word=repr(word)),
                why=_(
                    "Each adapter needs a name of its own, and {base} is the plain model."
                ).format(base=BASE),
                fix="--adapter NAME=PATH",
            )
        named[name] = path
    return named
