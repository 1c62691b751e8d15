"""Many answers at once, yielded in the order of their questions, until a deadline.

The engine computes all running requests in one batch; this keeps a bounded number of them running.
Knows dialogs and time. Must not know how answers are judged.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from danlu.dialog.assistant import Assistant
from danlu.dialog.events import End, Usage, assistant_message
from danlu.engine.request import SamplingSettings
from danlu.errors import DanluError
from danlu.text.conversation import Conversation, Message
from danlu.text.parse import Parser

Clock = Callable[[], float]
Ended = Literal["stop", "length", "time", "refused"]
# Requests at once. Each holds its keys and values: 16 answers of Qwen3-8B with 1,500 tokens of
# prompt and answer need about 3.5 GB.
WIDTH = 16


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The messages before an answer, and whether the adapter answers or the plain base.

    seed: that of its draws; None: the one that all have.
    """

    conversation: Conversation
    with_adapter: bool = True
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answered. raw: the text as the model wrote it, tags included.

    ended: stop (the model ended it), length (the token limit), time (the deadline, possibly before
    the first token) or refused (`problem` says why). prompt_tokens, completion_tokens: read and
    written, where it is finished.
    starts_in_thought: the prompt has opened its thought.
    """

    raw: str = ""
    ended: Ended = "time"
    problem: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    starts_in_thought: bool = False

    @property
    def is_finished(self) -> bool:
        """Whether the model or the token limit ended it."""
        return self.ended in ("stop", "length")

    @property
    def message(self) -> Message:
        """The answer as a message, with reasoning, visible text and tool calls separated."""
        parser = Parser(starts_in_thought=self.starts_in_thought)
        return assistant_message([*parser.feed(self.raw), *parser.finish()])


@dataclass(kw_only=True, eq=False)
class _Live:
    """An answer in progress."""

    stream: Generator[str | Usage | End, None, None]
    starts_in_thought: bool
    pieces: list[str] = field(default_factory=list)
    usage: Usage | None = None
    answer: Answer | None = None

    def advance(self) -> None:
        """Take the next event; the engine step for it also advances all other answers."""
        try:
            event = next(self.stream)
        except DanluError as problem:
            self._ended("refused", problem=str(problem))
            return
        if isinstance(event, str):
            self.pieces.append(event)
        elif isinstance(event, Usage):
            self.usage = event
        elif isinstance(event, End):
            self.end("stop" if event.reason == "stop" else "length")

    def end(self, reason: Literal["stop", "length", "time"]) -> None:
        """Make what was generated so far the answer."""
        self.stream.close()
        self._ended(reason)

    def _ended(self, reason: Ended, problem: str = "") -> None:
        self.answer = Answer(
            raw="".join(self.pieces),
            ended=reason,
            problem=problem,
            prompt_tokens=self.usage.prompt_tokens if self.usage else 0,
            completion_tokens=self.usage.completion_tokens if self.usage else 0,
            starts_in_thought=self.starts_in_thought,
        )


def answers(
    assistant: Assistant,
    questions: Iterable[Asked],
    sampling: SamplingSettings,
    *,
    deadline: float | None = None,
    clock: Clock = time.monotonic,
) -> Generator[Answer, None, None]:
    """Yield one answer for each question, in order, as soon as all before it are complete.

    deadline: a time of `clock`; answers that are not complete by then are yielded as they are.
    Closing the iterator aborts the running requests.
    """
    waiting = (
        _Live(
            stream=assistant.dialog.write(
                asked.conversation,
                sampling=sampling if asked.seed is None else replace(sampling, seed=asked.seed),
                adapter=assistant.adapter if asked.with_adapter else None,
            ),
            starts_in_thought=assistant.prompting.opens_thought,
        )
        for asked in questions
    )
    queue: deque[_Live] = deque()
    try:
        while True:
            running = [live for live in queue if live.answer is None]
            while len(running) < WIDTH and (live := next(waiting, None)) is not None:
                queue.append(live)
                running.append(live)
            if not queue:
                return
            for live in running:
                # One event each in turn keeps the answers level: a deadline treats all alike.
                # Each event may cost an engine step (long for a new prompt): look every time.
                if deadline is not None and clock() >= deadline:
                    live.end("time")
                else:
                    live.advance()
            while queue and (answer := queue[0].answer) is not None:
                queue.popleft()
                yield answer
    finally:
        for live in queue:
            live.stream.close()
