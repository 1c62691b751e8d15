"""Conversations to examples: token ids with a mask of what is learned.

Nothing is cut or dropped silently: what does not fit is reported with its place and reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from danlu.text.conversation import Conversation
from danlu.text.render import render_training
from danlu.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Example:
    """One tokenized sequence. row: index of its row in the data set; part: which of its examples.

    tokens: int32 [T]; supervised: bool [T], true where the token is learned.
    """

    tokens: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    row: int
    part: int


@dataclass(frozen=True, kw_only=True)
class TokenCost:
    """What a data set costs: a row with several answers may need several examples."""

    num_rows: int
    num_examples: int
    num_tokens: int
    num_supervised: int


def tokenize_row(
    conversation: Conversation,
    tokenizer: Tokenizer,
    *,
    row: int,
    template: str,
    enable_thinking: bool | None,
) -> list[Example]:
    """Return the fewest examples in which every supervised token sees its inference prefix."""
    rendered = render_training(conversation, template=template, enable_thinking=enable_thinking)
    examples: list[Example] = []
    for part, spans in enumerate(rendered):
        pieces = [(tokenizer.encode_spans([span]), span.supervised) for span in spans]
        tokens = [token for ids, _supervised in pieces for token in ids]
        mask = [supervised for ids, supervised in pieces for _token in ids]
        examples.append(
            Example(
                tokens=np.asarray(tokens, dtype=np.int32),
                supervised=np.asarray(mask, dtype=np.bool_),
                row=row,
                part=part,
            )
        )
    return examples


def tokenize_rows(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizer,
    *,
    template: str,
    enable_thinking: bool | None,
    cutoff_len: int,
) -> tuple[list[list[Example]], list[int]]:
    """Tokenize rows; return the examples of those that fit, and the indices of those that do not.

    A row is left out whole when one of its examples has more than `cutoff_len` tokens: cutting it
    would take away the end of the answer.
    """
    fitting: list[list[Example]] = []
    too_long: list[int] = []
    for row, conversation in enumerate(conversations):
        examples = tokenize_row(
            conversation, tokenizer, row=row, template=template, enable_thinking=enable_thinking
        )
        if any(len(example.tokens) > cutoff_len for example in examples):
            too_long.append(row)
        else:
            fitting.append(examples)
    return fitting, too_long


def token_cost(rows: Sequence[Sequence[Example]]) -> TokenCost:
    """Count examples and tokens."""
    examples = [example for row in rows for example in row]
    return TokenCost(
        num_rows=len(rows),
        num_examples=len(examples),
        num_tokens=sum(len(example.tokens) for example in examples),
        num_supervised=sum(int(example.supervised.sum()) for example in examples),
    )
