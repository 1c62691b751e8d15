"""/v1/chat/completions: conversations in, answers with reasoning and tool calls out.

Source of the shapes: OpenAI's API reference. Reasoning goes out under both names that clients look
for, `reasoning` and `reasoning_content`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from danlu.dialog.dialog import PreparedRequest, Reading
from danlu.dialog.events import Call, End, Event, Text, Thought, Tokens, Usage
from danlu.engine.request import Output
from danlu.server.edge.long_bodies import LongBodyRoute
from danlu.server.openai.chat_messages import conversation_of
from danlu.server.openai.grammars import chat_grammar
from danlu.server.openai.logprobs import chat_logprobs
from danlu.server.openai.reply import Json, Reply, choice_fields
from danlu.server.openai.requests import ChatRequest
from danlu.server.openai.respond import respond
from danlu.server.openai.sampling import (
    admission,
    request_of_choice,
    sampling_of,
    thinking_mode,
)
from danlu.server.openai.tool_calls import call_fields
from danlu.server.requested_model import RequestedModel
from danlu.server.state import Serving

router = APIRouter(tags=["answers"], route_class=LongBodyRoute)


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(body: ChatRequest, request: HttpRequest) -> Response:
    """Answer a conversation, in one piece or as a stream of server-sent events."""
    return await respond(request, body, ChatReply, seats=body.choices)


def ask(body: ChatRequest, model: RequestedModel, serving: Serving) -> PreparedRequest:
    """Render and tokenize a request; some milliseconds per thousand tokens. Raises ApiError."""
    thinks, budget = thinking_mode(body, model.prompting)
    tools = body.usable_tools
    sampling = sampling_of(
        body,
        serving.defaults[thinks],
        max_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        grammar=chat_grammar(body, tools),
    )
    with admission(param="messages"):
        prepared = serving.assistant.dialog.prepare(
            conversation_of(body.messages, tools),
            sampling=sampling,
            adapter=model.adapter,
            enable_thinking=thinks,
            template=model.prompting.template,
            thinking_budget=budget,
            most_tokens=serving.context_tokens,
        )
        request = serving.admitted(prepared.request)
    return replace(prepared, request=request, may_call=bool(tools))


class _ChatChoice:
    """One choice, as far as it is computed."""

    def __init__(self, prepared: PreparedRequest) -> None:
        self._reading = Reading(prepared)
        self.thoughts: list[str] = []
        self.texts: list[str] = []
        self.calls: list[Json] = []
        self.logprobs: list[Json] = []
        self.finish_reason: str | None = None

    @property
    def usage(self) -> Usage:
        """What the choice has cost so far."""
        return self._reading.usage

    def read(self, output: Output, *, one_call: bool) -> Iterator[Event]:
        """Yield the events of an output; with `one_call` nothing that follows the first call."""
        for event in self._reading.feed(output):
            if not (one_call and self.calls) or isinstance(event, Usage | End):
                yield event

    def add(self, event: Event) -> Json | None:
        """Take an event; return the delta that it makes."""
        if isinstance(event, Thought):
            self.thoughts.append(event.text)
            return {"reasoning": event.text, "reasoning_content": event.text}
        if isinstance(event, Text):
            self.texts.append(event.text)
            return {"content": event.text}
        if isinstance(event, Call):
            self.calls.append(call_fields(event.call))
            return {"tool_calls": [{"index": len(self.calls) - 1, **self.calls[-1]}]}
        if isinstance(event, End):
            # An answer that was cut after its call ends with "abort".
            has_called = self.calls and event.reason != "length"
            self.finish_reason = "tool_calls" if has_called else event.reason
        return None

    def message(self) -> Json:
        """Return the whole message."""
        text = "".join(self.texts)
        reasoning = "".join(self.thoughts) or None
        fields: Json = {
            "role": "assistant",
            "content": None if self.calls and not text else text,
            "refusal": None,
            "reasoning": reasoning,
            "reasoning_content": reasoning,
        }
        return fields | ({"tool_calls": self.calls} if self.calls else {})


class ChatReply(Reply):
    """The answers to one chat request."""

    def __init__(self, body: ChatRequest, model: RequestedModel, serving: Serving) -> None:
        kind = "chat.completion.chunk" if body.stream else "chat.completion"
        super().__init__(body, model=model.name, prefix="chatcmpl", kind=kind)
        prepared = ask(body, model, serving)
        self.requests = [
            request_of_choice(prepared.request, place) for place in range(body.choices)
        ]
        self._choices = [_ChatChoice(prepared) for _place in range(body.choices)]
        self._tokenizer = serving.assistant.loaded.tokenizer
        self._one_call = body.parallel_tool_calls is False
        self._has_logprobs = bool(body.logprobs)

    def opening(self) -> list[Json]:
        """Return a chunk for each choice, with its role."""
        start = {"role": "assistant", "content": ""}
        return [self.chunk(index, {"delta": start}) for index in range(len(self._choices))]

    def feed(self, index: int, output: Output) -> list[Json]:
        """Return a chunk for each piece of an output, and one for its end."""
        choice = self._choices[index]
        chunks: list[Json] = []
        waiting: list[Json] = []
        for event in choice.read(output, one_call=self._one_call):
            if isinstance(event, Tokens):
                entries = chat_logprobs(event.logprobs, self._tokenizer)
                waiting += entries
                if not self.is_streamed:
                    choice.logprobs += entries
                continue
            delta = choice.add(event)
            if delta is not None:
                chunks.append(self._delta(index, delta, waiting))
                waiting = []
        if waiting:  # the text of these tokens has not become certain yet
            chunks.append(self._delta(index, {"content": ""}, waiting))
        if choice.finish_reason is not None:
            chunks.append(self.chunk(index, {"delta": {}}, end=choice.finish_reason))
        return chunks

    def has_enough(self, index: int) -> bool:
        """Whether the one call that was asked for is complete."""
        return self._one_call and bool(self._choices[index].calls)

    def whole_choice(self, index: int) -> Json:
        """Return a choice, with its message."""
        choice = self._choices[index]
        logprobs = self._logprobs(choice.logprobs)
        return choice_fields(index, {"message": choice.message()}, logprobs, choice.finish_reason)

    def usages(self) -> list[Usage]:
        """Return what each choice has cost so far."""
        return [choice.usage for choice in self._choices]

    def _delta(self, index: int, delta: Json, logprobs: list[Json]) -> Json:
        return self.chunk(index, {"delta": delta}, self._logprobs(logprobs) if logprobs else None)

    def _logprobs(self, entries: list[Json]) -> Json | None:
        return {"content": entries, "refusal": None} if self._has_logprobs else None
