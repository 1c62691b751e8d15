"""Log probabilities in the shapes of OpenAI's two routes.

Every generated token is listed, thoughts and calls included; control tokens are not, since they
have no text, unless the prompt is listed too: programs then count on an entry for each token.
Source: OpenAI's API reference ("logprobs" of both routes).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from danlu.engine.request import TokenLogprobs
from danlu.text.tokenizer import Tokenizer

# What stands for a probability of 0, whose logarithm JSON cannot write.
LEAST = -9999.0


def chat_logprobs(entries: Iterable[TokenLogprobs], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Write entries as the chat route does: a list with one object a token."""
    return [
        {
            **_token(entry.token, entry.logprob, tokenizer),
            "top_logprobs": [_token(token, logprob, tokenizer) for token, logprob in entry.top],
        }
        for entry in entries
        if entry.token not in tokenizer.control_ids
    ]


def _token(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "token": token_text(token, tokenizer),
        "logprob": max(logprob, LEAST),
        "bytes": list(tokenizer.token_bytes(token)),
    }


def token_text(token: int, tokenizer: Tokenizer) -> str:
    """Write a token as text; one that is no whole character as OpenAI does, `bytes:\\xe4\\xbd`."""
    raw = tokenizer.token_bytes(token)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class CompletionLogprobs:
    """Writes entries as the completions route does: four lists of equal length.

    prompt: its tokens, where they are listed before the answer's.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._hidden = frozenset() if prompt else tokenizer.control_ids
        # Nothing stands before it that could make it more or less likely.
        self._first = prompt[:1]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def lists(self, entries: Sequence[TokenLogprobs]) -> dict[str, list[Any]]:
        """Write the next entries; offsets count the characters of the text before a token."""
        first, self._first = self._first, ()
        kept = [entry for entry in entries if entry.token not in self._hidden]
        tokens = [*first, *(entry.token for entry in kept)]
        unknown = [None] * len(first)
        return {
            "tokens": [token_text(token, self._tokenizer) for token in tokens],
            "token_logprobs": [*unknown, *(max(entry.logprob, LEAST) for entry in kept)],
            "top_logprobs": [*unknown, *(self._alternatives(entry) for entry in kept)],
            "text_offset": [self._passed(token) for token in tokens],
        }

    def _alternatives(self, entry: TokenLogprobs) -> dict[str, float]:
        pairs = [*entry.top, (entry.token, entry.logprob)] if entry.top else []
        return {token_text(token, self._tokenizer): max(p, LEAST) for token, p in pairs}

    def _passed(self, token: int) -> int:
        offset = self._offset
        self._offset += len(self._decoder.decode(self._tokenizer.token_bytes(token)))
        return offset
