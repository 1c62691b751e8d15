"""Messages in, typed events out, over the engine of this process.

The one place where a conversation becomes a request and generated text becomes thoughts, text and
tool calls; terminal, server and reports all go through it. Knows templates and tokens only by
asking `text/`. Must not know screens, HTTP or files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import TypeVar

from danlu.dialog.events import End, Event, Tokens, Usage
from danlu.dialog.settings import ANSWER_TOKENS
from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request, SamplingSettings, Thinking
from danlu.interrupts import whole_step
from danlu.lora.adapter import Adapter
from danlu.text.conversation import Conversation, Message
from danlu.text.parse import Parser
from danlu.text.render import (
    THOUGHT_END,
    THOUGHT_START,
    TURN_END,
    ends_in_open_thought,
    render,
)
from danlu.text.tokenizer import Tokenizer

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, kw_only=True)
class PreparedRequest:
    """A conversation as a request, and how to read its outputs.

    starts_in_thought: the prompt has opened the thought already. may_call: there are tools to be
    called; without, a call is text. begun: the part of the answer that the prompt holds already;
    is_in_thought: whether a thought is open behind it.
    """

    request: Request
    starts_in_thought: bool
    may_call: bool = True
    begun: str = ""
    is_in_thought: bool = False


class Dialog:
    """Answers conversations with one model, in the template and thinking mode it was trained in.

    end_token_ids: what the model's files name; the template's own end of a turn is added.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        template: str,
        enable_thinking: bool | None,
        end_token_ids: Set[int],
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._template = template
        self._enable_thinking = enable_thinking
        self.end_token_ids = frozenset(end_token_ids | {tokenizer.control_id(TURN_END)})

    def prepare(
        self,
        conversation: Conversation,
        *,
        sampling: SamplingSettings,
        adapter: Adapter | None = None,
        enable_thinking: bool | None = None,
        template: str | None = None,
        thinking_budget: int | None = None,
        most_tokens: int | None = None,
        begun: Message | None = None,
    ) -> PreparedRequest:
        """Render and tokenize a conversation; takes milliseconds per thousand tokens.

        template, enable_thinking: None means the dialog's own. thinking_budget: tokens after which
        a thought is ended. most_tokens: what cannot fit into so many is not tokenized. begun: an
        answer that was cut, to be continued. Raises UsageError for an unknown template,
        TextTooLong, and DataError for text that cannot be encoded.
        """
        wanted = self._enable_thinking if enable_thinking is None else enable_thinking
        spans = render(conversation, template=template or self._template, enable_thinking=wanted)
        if most_tokens is not None:
            self._tokenizer.check_length((span.text for span in spans), most_tokens)
        starts_open = is_open = ends_in_open_thought(spans)
        text = ""
        if begun is not None:
            text = begun_text(begun, in_thought=starts_open)
            is_open = bool(begun.reasoning) and not begun.content
        request = Request(
            prompt=(*self._tokenizer.encode_spans(spans), *self._tokenizer.encode_text(text)),
            sampling=sampling,
            adapter=adapter,
            end_token_ids=self.end_token_ids,
            thinking=self._thinking(is_open, thinking_budget) if is_open or wanted else None,
        )
        return PreparedRequest(
            request=request, starts_in_thought=starts_open, begun=text, is_in_thought=is_open
        )

    def _thinking(self, is_open: bool, budget: int | None) -> Thinking | None:
        start, end = (self._tokenizer.encode_text(tag) for tag in (THOUGHT_START, THOUGHT_END))
        if len(start) != 1 or len(end) != 1:
            return None  # a tokenizer that spells the tags out; thoughts are found in the text only
        closing = self._tokenizer.encode_text(f"\n{THOUGHT_END}\n\n")
        return Thinking(
            start_id=start[0],
            end_id=end[0],
            closing=tuple(closing),
            is_open=is_open,
            budget=budget,
        )

    def answer(
        self,
        conversation: Conversation,
        *,
        sampling: SamplingSettings,
        adapter: Adapter | None = None,
        enable_thinking: bool | None = None,
        thinking_budget: int | None = None,
        begun: Message | None = None,
    ) -> Generator[Event, None, None]:
        """Yield the events of the next answer; Usage and End come last.

        thinking_budget, begun: see `prepare`. `assistant_message` makes the events a message for
        the history. Without max_tokens it ends after ANSWER_TOKENS, or with the context. Closing
        the iterator aborts the request. Raises what `prepare` raises, and UsageError for a prompt
        that is too long.
        """
        prepared = self.prepare(
            conversation,
            sampling=sampling,
            adapter=adapter,
            enable_thinking=enable_thinking,
            thinking_budget=thinking_budget,
            begun=begun,
        )
        yield from self._run(
            bounded(prepared.request, self._engine.context_tokens), Reading(prepared).feed
        )

    def write(
        self,
        conversation: Conversation,
        *,
        sampling: SamplingSettings,
        adapter: Adapter | None = None,
    ) -> Generator[str | Usage | End, None, None]:
        """Yield the next answer as the model writes it, tags included; Usage and End come last.

        For judging the form of an answer; in all else like `answer`.
        """
        prepared = self.prepare(conversation, sampling=sampling, adapter=adapter)
        reading = Reading(prepared)

        def read(output: Output) -> Iterator[str | Usage | End]:
            if output.text:
                yield output.text
            yield from (event for event in reading.feed(output) if isinstance(event, Usage | End))

        yield from self._run(bounded(prepared.request, self._engine.context_tokens), read)

    def _run(
        self, request: Request, read: Callable[[Output], Iterable[ItemT]]
    ) -> Generator[ItemT, None, None]:
        """Yield what `read` makes of a request's outputs; the others advance with it.

        Closing the iterator aborts the request. Raises the error of a request that fails.
        """
        outputs: deque[Output] = deque()
        request_id = self._engine.add(request, outputs.append)
        reason = None
        try:
            while reason is None:
                while not outputs:
                    with whole_step():
                        self._engine.step()
                output = outputs.popleft()
                if output.error is not None:
                    raise output.error
                yield from read(output)
                reason = output.finish_reason
        finally:
            self._engine.abort(request_id)


def bounded(request: Request, context_tokens: int) -> Request:
    """Bound an answer that nobody bounded: a model that never ends would fill the context."""
    if request.sampling.max_tokens is not None:
        return request
    if context_tokens - len(request.prompt) <= ANSWER_TOKENS:
        return request  # the engine ends it with the context
    return replace(request, sampling=replace(request.sampling, max_tokens=ANSWER_TOKENS))


def begun_text(message: Message, *, in_thought: bool) -> str:
    """Write what a model has written of an answer. in_thought: the prompt has opened a thought."""
    if not message.reasoning and not in_thought:
        return message.content
    start = "" if in_thought else f"{THOUGHT_START}\n"
    rest = f"\n{THOUGHT_END}\n\n{message.content}" if message.content else ""
    return f"{start}{message.reasoning or ''}{rest}"


class Reading:
    """Turns the outputs of one request into events; counts the tokens of answer and thought."""

    def __init__(self, prepared: PreparedRequest) -> None:
        self._parser = Parser(
            starts_in_thought=prepared.starts_in_thought, may_call=prepared.may_call
        )
        self._thinking = prepared.request.thinking
        self._parser.feed(prepared.begun)  # shown before; what follows it is read in its state
        self._in_thought = prepared.is_in_thought
        # What the answer has cost so far.
        self.usage = Usage(prompt_tokens=len(prepared.request.prompt), completion_tokens=0)

    def feed(self, output: Output) -> list[Event]:
        """Return the events of one output; Usage and End behind the last, unless it is an error."""
        events: list[Event] = []
        if output.logprobs:
            events.append(Tokens(logprobs=output.logprobs))
        if output.text:
            events += self._parser.feed(output.text)
        self.usage = self.usage.plus(output, self._num_in_thought(output.tokens))
        reason = output.finish_reason
        if reason is None or reason == "error":
            return events
        return [*events, *self._parser.finish(), self.usage, End(reason=reason)]

    def _num_in_thought(self, tokens: Sequence[int]) -> int:
        """Count which of the next tokens belong to the thought, its marks included."""
        if self._thinking is None:
            return 0
        count = 0
        for place, token in enumerate(tokens, start=self.usage.completion_tokens):
            if token == self._thinking.start_id and place == 0:
                self._in_thought = True
            count += self._in_thought
            if token == self._thinking.end_id:
                self._in_thought = False
        return count
