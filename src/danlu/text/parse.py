"""Generated text to thought, text and tool calls, while it streams.

A state machine over the tags of `render.py`. A tag may arrive in pieces: what could still become
one is held back. Inside a thought nothing but its end is a tag. A tool call whose JSON is broken is
given out as the text that it is. White space between the parts is dropped just as the renderer
puts it, so that a parsed answer renders to what was generated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from danlu.text.conversation import ToolCall
from danlu.text.render import CALL_END, CALL_START, THOUGHT_END, THOUGHT_START


@dataclass(frozen=True, kw_only=True)
class Thought:
    """A piece of reasoning."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Text:
    """A piece of the visible answer."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Call:
    """One complete tool call."""

    call: ToolCall


Piece = Thought | Text | Call


class Parser:
    """One answer. starts_in_thought: whether the prompt left a thought open.

    may_call: False where no tools are there to be called; a call is then the text that it is.
    """

    def __init__(self, *, starts_in_thought: bool = False, may_call: bool = True) -> None:
        self._state = "thought" if starts_in_thought else "start"
        self._may_call = may_call
        self._buffer = ""
        # Newlines that are only passed on when more of the same part follows them.
        self._held = ""
        self._part_is_empty = True

    def feed(self, text: str) -> list[Piece]:
        """Take a piece of generated text and return what has become certain."""
        self._buffer += text
        return self._advance(final=False)

    def finish(self) -> list[Piece]:
        """Return what was held back; an unfinished tool call comes out as text."""
        pieces = self._advance(final=True)
        if self._state == "call":
            pieces += self._emit_text(CALL_START + self._buffer)
        self._buffer = ""
        return pieces

    def _advance(self, *, final: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while True:
            before = (self._state, self._buffer)
            if self._state == "start":
                self._leave_start(final)
            elif self._state == "thought":
                pieces += self._until(THOUGHT_END, "text", final)
            elif self._state == "text" and self._may_call:
                pieces += self._until(CALL_START, "call", final)
            elif self._state == "text":
                pieces += self._emit(self._buffer)
                self._buffer = ""
            else:
                pieces += self._read_call(final)
            if (self._state, self._buffer) == before:
                return pieces

    def _leave_start(self, final: bool) -> None:
        """Decide whether the answer opens with a thought; white space before it does not count."""
        stripped = self._buffer.lstrip()
        if stripped.startswith(THOUGHT_START):
            self._enter("thought", stripped[len(THOUGHT_START) :])
        elif final or not THOUGHT_START.startswith(stripped):
            self._enter("text", self._buffer)

    def _until(self, tag: str, following: str, final: bool) -> list[Piece]:
        """Give out the buffer up to a tag; keep back what may be the beginning of one."""
        place = self._buffer.find(tag)
        if place >= 0:
            pieces = self._emit(self._buffer[:place])
            rest = self._buffer[place + len(tag) :]
            if following == "text":
                self._enter("text", rest)
            else:
                self._state, self._buffer = following, rest
            return pieces
        end = len(self._buffer) - (0 if final else overlap(self._buffer, tag))
        ready, self._buffer = self._buffer[:end], self._buffer[end:]
        return self._emit(ready)

    def _read_call(self, final: bool) -> list[Piece]:
        place = _call_end(self._buffer, final)
        if place < 0:
            return []
        body, rest = self._buffer[:place], self._buffer[place + len(CALL_END) :]
        call = _parse_call(body)
        if call is None:
            self._buffer = rest
            return self._emit_text(CALL_START + body + CALL_END)
        # The newline between text and a call belongs to neither.
        held = self._held.removesuffix("\n")
        self._enter("text", rest)
        return [Text(text=held), Call(call=call)] if held else [Call(call=call)]

    def _enter(self, state: str, rest: str) -> None:
        self._state, self._buffer = state, rest
        self._held, self._part_is_empty = "", True

    def _emit(self, text: str) -> list[Piece]:
        """Give out text of the present part without the newlines around the part."""
        if self._part_is_empty:
            text = text.lstrip("\n")
        if not text:
            return []
        self._part_is_empty = False
        whole = self._held + text
        body = whole.rstrip("\n")
        self._held = whole[len(body) :]
        if not body:
            return []
        return [Thought(text=body) if self._state == "thought" else Text(text=body)]

    def _emit_text(self, text: str) -> list[Piece]:
        """Give out text that only looked like a call."""
        self._state = "text"
        return self._emit(text)


def overlap(text: str, tag: str) -> int:
    """Return how many characters at the end of `text` begin `tag` without completing it."""
    longest = min(len(text), len(tag) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)


def _call_end(text: str, final: bool) -> int:
    """Find the end of a call's body; -1 where it has not come yet.

    A tag inside a string of the call's JSON is part of the string. Where the JSON is not completed
    at any later tag, the call was broken and the first tag ended it.
    """
    first = place = text.find(CALL_END)
    while place >= 0 and _ends_in_string(text[:place]):
        place = text.find(CALL_END, place + 1)
    if place < 0:
        return first if final else -1
    return place if _parse_call(text[:place]) is not None else first


def _ends_in_string(body: str) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError) as problem:
        return str(problem).startswith("Unterminated string")
    return False


def _parse_call(body: str) -> ToolCall | None:
    """Read one call's JSON; None where it is not an object with a name and arguments."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
        return None
    arguments = fields.get("arguments", {})
    if isinstance(arguments, dict | str):
        return ToolCall(name=fields["name"], arguments=arguments)
    return None
