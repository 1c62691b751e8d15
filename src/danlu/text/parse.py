"""Generated text to thought, text and tool calls, while it streams.

A state machine over the tags of `render.py`. A tag may arrive in pieces: what could still become
one is held back. Inside a thought nothing but its end is a tag. Calls are read as models write
them: several in one tag, `parameters` for `arguments`, no tag at the end. What is no JSON, or holds
more than a call has, is given out as the text that it is. White space between the parts is dropped
just as the renderer puts it, so that a parsed answer renders to what was generated.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

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
        """Return what was held back; a tool call that was cut off in its JSON comes out as text."""
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
        calls = _parse_calls(body)
        if not calls:
            self._buffer = rest
            return self._emit_text(CALL_START + body + CALL_END)
        # The newline between text and a call belongs to neither.
        held = self._held.removesuffix("\n")
        self._enter("text", rest)
        return [*([Text(text=held)] if held else []), *(Call(call=call) for call in calls)]

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
    at any later tag, the call was broken and the first tag ended it. At the end of the text calls
    that are complete need no tag.
    """
    first = place = text.find(CALL_END)
    while place >= 0 and _ends_in_string(text[:place]):
        place = text.find(CALL_END, place + 1)
    if place < 0 and final:
        return len(text) if _parse_calls(text) else first
    if place < 0:
        return -1
    return place if _parse_calls(text[:place]) else first


def _ends_in_string(body: str) -> bool:
    try:
        _json_values(body)
    except (ValueError, RecursionError) as problem:
        return str(problem).startswith("Unterminated string")
    return False


def _no_such_number(text: str) -> float:
    """Read a number. Raises ValueError for one that no other program could read in JSON."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("JSON has no such number")
    return number


# Models write newlines into strings as they are, which JSON wants escaped.
_DECODER = json.JSONDecoder(
    strict=False, parse_constant=_no_such_number, parse_float=_no_such_number
)
_BETWEEN = re.compile(rf"(?:\s|{re.escape(CALL_START)})*")


def _json_values(body: str) -> list[Any]:
    """Read the JSON values of a body; between them may be white space and tags left open."""
    values: list[Any] = []
    place = _end_of_blank(body, 0)
    while place < len(body):
        value, end = _DECODER.raw_decode(body, place)
        values += value if isinstance(value, list) else [value]
        place = _end_of_blank(body, end)
    return values


def _end_of_blank(body: str, place: int) -> int:
    found = _BETWEEN.match(body, place)
    return found.end() if found else place


def _parse_calls(body: str) -> list[ToolCall]:
    """Read the calls of a tag; [] where anything in it is no call."""
    try:
        calls = [_call_of(value) for value in _json_values(body)]
    except (ValueError, RecursionError):
        return []
    return [call for call in calls if call is not None] if None not in calls else []


def _call_of(fields: object) -> ToolCall | None:
    """Read a call: an object with a name and arguments, by either of their names, and no more."""
    if (
        not isinstance(fields, dict)
        or not isinstance(fields.get("name"), str)
        or not fields["name"]
    ):
        return None
    given = [fields[key] for key in ("arguments", "parameters") if key in fields]
    if len(given) > 1 or not fields.keys() <= {"name", "arguments", "parameters", "id", "type"}:
        return None
    arguments = given[0] if given else {}
    if isinstance(arguments, str):  # JSON within JSON
        arguments = _DECODER.decode(arguments) if arguments.strip() else {}
    arguments = {} if arguments is None else arguments
    is_object = isinstance(arguments, dict)
    return ToolCall(name=fields["name"], arguments=arguments) if is_object else None
