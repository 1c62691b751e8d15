"""Follows one answer through its thought, and forces the tokens that must be written now.

A state machine over the chosen ids: before, inside and behind the thought. It agrees with
`text/parse.py`, which reads the same tags in the text. No torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from danlu.engine.request import Thinking


class ThoughtTracker:
    """Where an answer stands.

    thinking None: it has no thought. is_blank: whether a token is white space, which may stand
    before a thought. answer_is_bound: what follows the thought obeys a grammar; so the thought must
    be opened at once, and after its end stands what `closing` has there, before the grammar begins.
    """

    def __init__(
        self,
        thinking: Thinking | None,
        *,
        is_blank: Callable[[int], bool],
        answer_is_bound: bool,
    ) -> None:
        self._thinking = thinking
        self._is_blank = is_blank
        self._answer_is_bound = answer_is_bound
        self._place: Literal["start", "thought", "answer"] = "start" if thinking else "answer"
        self._forced: deque[int] = deque()
        self._left = thinking.budget if thinking else None
        if thinking is not None and thinking.is_open:
            self._enter_thought(thinking)
        elif thinking is not None and answer_is_bound:
            self._forced.append(thinking.start_id)

    @property
    def forced(self) -> int | None:
        """The token to be written now, whatever the model prefers."""
        return self._forced[0] if self._forced else None

    def may_force(self, ahead: int) -> bool:
        """Whether the token behind the next `ahead` may be forced, whatever those are."""
        if self._forced or self._answer_is_bound:
            return True
        return self._place != "answer" and self._left is not None and self._left <= ahead

    @property
    def in_answer(self) -> bool:
        """Whether the next token belongs to the visible answer."""
        return self._place == "answer" and not self._forced

    def record(self, token: int) -> None:
        """Record the next token of the answer; where one is forced, it is that one."""
        thinking = self._thinking
        was_forced = bool(self._forced)
        if was_forced:
            self._forced.popleft()
        if thinking is None or self._place == "answer":
            return
        if self._place == "start":
            if token == thinking.start_id:
                self._enter_thought(thinking)
            elif not self._is_blank(token):
                self._place = "answer"
        elif token == thinking.end_id:
            self._place = "answer"
            if self._answer_is_bound and not was_forced:
                after = thinking.closing.index(thinking.end_id) + 1
                self._forced.extend(thinking.closing[after:])
        elif not was_forced and self._left is not None:
            self._left -= 1
            if self._left == 0:
                self._forced.extend(thinking.closing)

    def _enter_thought(self, thinking: Thinking) -> None:
        self._place = "thought"
        if self._left == 0:
            self._forced.extend(thinking.closing)
