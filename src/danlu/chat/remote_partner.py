"""A partner behind an address: a server's models are the voices. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from danlu.chat.partner import Answering
from danlu.chat.settings import ChatSettings
from danlu.dialog.over_http import ServerDialog
from danlu.errors import UsageError
from danlu.language import _
from danlu.text.conversation import Conversation, Message, message_fields

_SENT = ("temperature", "top_p", "seed")


class RemotePartner:
    """Answers with the models of a server; the first one is the base."""

    context_tokens: int | None = None

    def __init__(self, dialog: ServerDialog, voices: Sequence[str]) -> None:
        self._dialog = dialog
        self.voices = voices
        self.base = voices[0]

    def add(self, name: str, path: str) -> None:
        """Raise UsageError: a server loads its own adapters."""
        raise UsageError(
            _("An adapter cannot be loaded from here."),
            why=_("The server at {url} answers.").format(url=self._dialog.url),
            fix=_("Start it with the adapter: danlu serve MODEL --adapter NAME=PATH"),
        )

    def close(self) -> None:
        """Nothing is held between two answers."""

    def describe(self, voice: str) -> Sequence[str]:
        """Name the model and the server."""
        return [_("Model {name} of {url}").format(name=voice, url=self._dialog.url)]

    def answer(
        self,
        conversation: Conversation,
        settings: ChatSettings,
        *,
        voice: str,
        as_base: bool = False,
        begun: Message | None = None,
    ) -> Answering:
        """Yield the events of the next answer. Raises UsageError where it would go on with one."""
        if begun is not None:
            raise UsageError(
                _("An answer of a server cannot be continued."),
                why=_("Its API begins a new answer with every request."),
                fix="/retry",
            )
        if conversation.tools or any(message.role == "tool" for message in conversation.messages):
            raise UsageError(
                _("A conversation with tools is not sent to a server."),
                why=_("This chat sends a server what was said, and no calls."),
                fix=_("Load it in a chat with a model of this machine: danlu chat MODEL"),
            )
        messages = [message_fields(message) for message in conversation.messages]
        return self._dialog.answer(
            [{key: m[key] for key in ("role", "content")} for m in messages],
            self.base if as_base else voice,
            _fields(settings),
        )

    def count(
        self, conversation: Conversation, settings: ChatSettings, *, voice: str
    ) -> int | None:
        """Return None: only the server knows, and says so with each answer."""
        return None

    def train_words(self, voice: str) -> Sequence[str]:
        """Name the model; what the server calls it may be a folder here, or not."""
        return ["--model_name_or_path", voice]


def _fields(settings: ChatSettings) -> dict[str, Any]:
    """Write the settings as fields of a request; what is not set is the server's choice."""
    fields = {name: getattr(settings, name) for name in _SENT}
    fields["max_tokens"] = settings.max_new_tokens
    if not settings.do_sample:
        fields["temperature"] = 0.0
    extra: dict[str, Any] = {"top_k": settings.top_k}
    if settings.min_p:
        extra["min_p"] = settings.min_p
    if settings.repetition_penalty != 1.0:
        extra["repetition_penalty"] = settings.repetition_penalty
    if settings.thinking_budget is not None:
        extra["thinking_token_budget"] = settings.thinking_budget
    if settings.enable_thinking is not None:
        extra["chat_template_kwargs"] = {"enable_thinking": settings.enable_thinking}
    return {name: value for name, value in {**fields, **extra}.items() if value is not None}


def connect(settings: ChatSettings) -> tuple[RemotePartner, str]:
    """Ask a server for its models; return it with the one that the settings name, or the first.

    Raises UsageError for a model that it does not have, and what asking raises.
    """
    dialog = ServerDialog(settings.url or "")
    voices = dialog.models()
    wanted = settings.model_name_or_path
    if not voices or (wanted is not None and wanted not in voices):
        raise UsageError(
            _("The server at {url} has no model {name}.").format(url=dialog.url, name=wanted),
            why=_("There are: {names}.").format(names=", ".join(voices)),
            fix=f"--model {voices[0] if voices else 'NAME'}",
        )
    return RemotePartner(dialog, voices), wanted or voices[0]
