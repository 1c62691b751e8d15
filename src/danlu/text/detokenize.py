"""Token ids to text while they are being generated: whole characters only, nothing lost.

A character may be spread over several tokens; its bytes wait until it is complete. Joined, the
pieces equal the one-shot decode of all ids.
"""

from __future__ import annotations

import codecs

from danlu.text.tokenizer import Tokenizer


class Detokenizer:
    """The text of one answer, piece by piece. Control tokens have no text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """Return the characters that this token completes; often one word, sometimes nothing."""
        if token in self._tokenizer.control_ids:
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """Return what is left: U+FFFD where the answer ended inside a character."""
        return self._decoder.decode(b"", final=True)
