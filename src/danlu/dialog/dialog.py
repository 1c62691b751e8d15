"""Messages in, typed events out, over the engine of this process.

The one place where a conversation becomes a request and generated text becomes thoughts, text and
tool calls; terminal, server and reports all go through it. Knows templates and tokens only by
asking `text/`. Must not know screens, HTTP or files.
"""

from __future__ import annotations

from collections.abc import Generator, Set
from contextlib import closing

from danlu.dialog.events import End, Event, Usage
from danlu.engine.engine import Engine
from danlu.engine.request import Request, SamplingSettings
from danlu.lora.adapter import Adapter
from danlu.text.conversation import Conversation
from danlu.text.parse import Parser
from danlu.text.render import TURN_END, Span, ends_in_open_thought, render
from danlu.text.tokenizer import Tokenizer


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
        self._end_token_ids = frozenset(end_token_ids | {tokenizer.control_id(TURN_END)})

    def answer(
        self,
        conversation: Conversation,
        *,
        sampling: SamplingSettings,
        adapter: Adapter | None = None,
        enable_thinking: bool | None = None,
    ) -> Generator[Event, None, None]:
        """Yield the events of the next answer; Usage and End come last.

        enable_thinking None means the dialog's own mode. `assistant_message` makes the events a
        message for the history. Closing the iterator aborts the request. Raises UsageError for an
        unknown template or a prompt that is too long, DataError for text that cannot be encoded.
        """
        spans, request = self._request(conversation, sampling, adapter, enable_thinking)
        parser = Parser(starts_in_thought=ends_in_open_thought(spans))
        with closing(self._written(request)) as written:
            for event in written:
                if isinstance(event, str):
                    yield from parser.feed(event)
                    continue
                if isinstance(event, Usage):
                    yield from parser.finish()
                yield event

    def write(
        self,
        conversation: Conversation,
        *,
        sampling: SamplingSettings,
        adapter: Adapter | None = None,
        enable_thinking: bool | None = None,
    ) -> Generator[str | Usage | End, None, None]:
        """Yield the next answer as the model writes it, tags included; Usage and End come last.

        For those who judge the form of an answer; everyone else wants `answer`, which it resembles
        in all else.
        """
        _spans, request = self._request(conversation, sampling, adapter, enable_thinking)
        yield from self._written(request)

    def _request(
        self,
        conversation: Conversation,
        sampling: SamplingSettings,
        adapter: Adapter | None,
        enable_thinking: bool | None,
    ) -> tuple[list[Span], Request]:
        thinking = self._enable_thinking if enable_thinking is None else enable_thinking
        spans = render(conversation, template=self._template, enable_thinking=thinking)
        request = Request(
            prompt=tuple(self._tokenizer.encode_spans(spans)),
            sampling=sampling,
            adapter=adapter,
            end_token_ids=self._end_token_ids,
        )
        return spans, request

    def _written(self, request: Request) -> Generator[str | Usage | End, None, None]:
        completion_tokens = 0
        with closing(self._engine.stream(request)) as outputs:
            for output in outputs:
                completion_tokens += len(output.tokens)
                if output.text:
                    yield output.text
                reason = output.finish_reason
                if reason is not None and reason != "error":
                    yield Usage(
                        prompt_tokens=len(request.prompt), completion_tokens=completion_tokens
                    )
                    yield End(reason=reason)
