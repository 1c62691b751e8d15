"""Examples: tokens, which of them are learned, and how a conversation is made into them.

A conversation is rendered to spans; each span is encoded alone. Knows the renderer and the
tokenizer. Must not know files, nor what happens to an example that is too long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from danlu.data.settings import DataSettings
from danlu.errors import UsageError
from danlu.language import _
from danlu.text.conversation import Conversation
from danlu.text.render import Span, render_training
from danlu.text.tokenizer import Tokenizer

# A rendered example: its spans, each with its token ids.
Pieces = list[tuple[Span, Sequence[int]]]


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """Everything that decides which tokens a conversation becomes, the tokenizer excepted."""

    template: str
    enable_thinking: bool | None
    mask_history: bool = False
    train_on_prompt: bool = False
    cutoff_len: int = 2048
    overlong: Literal["cut", "drop", "error", "llamafactory"] = "cut"

    @classmethod
    def from_settings(cls, settings: DataSettings) -> Rendering:
        """Take a command's settings. Raises UsageError for two that exclude each other."""
        if settings.mask_history and settings.train_on_prompt:
            raise UsageError(
                _("--mask_history and --train_on_prompt exclude each other."),
                why=_("One learns only the last answer, the other learns the questions too."),
                fix=_("Leave one of them out."),
            )
        return cls(
            template=settings.chat_format,
            enable_thinking=settings.enable_thinking,
            mask_history=settings.mask_history,
            train_on_prompt=settings.train_on_prompt,
            cutoff_len=settings.cutoff_len,
            overlong=settings.overlong,
        )


@dataclass(frozen=True, kw_only=True)
class Example:
    """One tokenized sequence. row: index of its row in the data set; part: which of its examples.

    tokens: int32 [T]; supervised: bool [T], true where the token is learned.
    """

    tokens: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    row: int
    part: int

    @property
    def key(self) -> str:
        """The name of the example in its data set; dropout masks depend on it."""
        return f"{self.row}.{self.part}"

    @property
    def num_targets(self) -> int:
        """How many tokens are learned: the first one has none before it that could predict it."""
        return int(self.supervised[1:].sum())


@dataclass(frozen=True, kw_only=True)
class TokenCost:
    """What a data set costs: a row with several answers may need several examples."""

    num_rows: int
    num_examples: int
    num_tokens: int
    num_supervised: int


def encode_conversations(
    conversations: Sequence[Conversation], tokenizer: Tokenizer, rendering: Rendering
) -> list[list[Pieces]]:
    """Render and encode conversations together: for each the fewest examples, whole.

    Raises DataError for half a surrogate pair and UsageError for an unknown template.
    """
    rendered = [
        render_training(
            conversation,
            template=rendering.template,
            enable_thinking=rendering.enable_thinking,
            mask_history=rendering.mask_history,
            train_on_prompt=rendering.train_on_prompt,
        )
        for conversation in conversations
    ]
    # Most spans of a chat format are the same few texts: each text is encoded once.
    spans = (span for examples in rendered for example in examples for span in example)
    texts = list(dict.fromkeys(span.text for span in spans if not span.control))
    ids_of = dict(zip(texts, tokenizer.encode_texts(texts), strict=True))
    return [
        [[(span, _ids(span, tokenizer, ids_of)) for span in example] for example in examples]
        for examples in rendered
    ]


def _ids(span: Span, tokenizer: Tokenizer, ids_of: dict[str, list[int]]) -> Sequence[int]:
    return (tokenizer.control_id(span.text),) if span.control else ids_of[span.text]


def num_tokens(pieces: Pieces) -> int:
    """Count the tokens of an example."""
    return sum(len(ids) for _span, ids in pieces)


def num_supervised(pieces: Pieces) -> int:
    """Count the tokens that an example teaches."""
    return sum(len(ids) for span, ids in pieces if span.supervised)


def tokenize_row(
    conversation: Conversation, tokenizer: Tokenizer, rendering: Rendering, *, row: int = 0
) -> list[Example]:
    """Return the examples of one conversation, whole; as `encode_conversations` raises."""
    (examples,) = encode_conversations([conversation], tokenizer, rendering)
    return [
        Example(
            tokens=np.asarray([token for _span, ids in pieces for token in ids], dtype=np.int32),
            supervised=np.asarray(
                [span.supervised for span, ids in pieces for _token in ids], dtype=np.bool_
            ),
            row=row,
            part=part,
        )
        for part, pieces in enumerate(examples)
    ]
