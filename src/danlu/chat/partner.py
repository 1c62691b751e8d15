"""Whoever answers in a chat: a model of this process, or a server. Both look alike to the chat.

A partner has several *voices*: the base and its adapters here, the models of a server there. Must
not know screens or commands.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from danlu.chat.settings import ChatSettings
from danlu.dialog.events import Event
from danlu.text.conversation import Conversation, Message

Answering = Generator[Event, None, None]


class Partner(Protocol):
    """Answers conversations. base: the voice that others are compared with."""

    base: str

    @property
    def voices(self) -> Sequence[str]:
        """Name those who can answer."""
        ...

    @property
    def context_tokens(self) -> int | None:
        """The longest prompt and answer together; None where nobody says."""
        ...

    def add(self, name: str, path: str) -> None:
        """Load an adapter as a further voice. Raises DanluError."""
        ...

    def close(self) -> None:
        """Give its memory back; it answers no more."""
        ...

    def describe(self, voice: str) -> Sequence[str]:
        """Say what answers, a sentence a line."""
        ...

    def answer(
        self,
        conversation: Conversation,
        settings: ChatSettings,
        *,
        voice: str,
        as_base: bool = False,
        begun: Message | None = None,
    ) -> Answering:
        """Yield the events of the next answer, Usage and End last; closing it ends the answer.

        as_base: the base answers, prompted as the voice would be. begun: an answer to go on with.
        Raises DanluError.
        """
        ...

    def count(
        self, conversation: Conversation, settings: ChatSettings, *, voice: str
    ) -> int | None:
        """Count the tokens of a conversation; None where only the partner could. Raises DanluError.

        A conversation that ends with an answer is counted as the prompt of the next one would be.
        """
        ...

    def train_words(self, voice: str) -> Sequence[str]:
        """Name the model and its prompting in the words of `danlu train`."""
        ...
