"""From a conversation to the events of its answer, for the pages of chat and comparison.

The engine is the server's, and so is the queue: an answer takes a seat like any request of the API.
Must not know chats.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from danlu.dialog.dialog import PreparedRequest, Reading, bounded
from danlu.dialog.events import Call, End, Text, Thought
from danlu.engine.request import PromptProgress, SamplingSettings
from danlu.errors import UsageError
from danlu.language import _
from danlu.server.edge.gate import serving_of
from danlu.server.openai.in_flight import RequestsInFlight
from danlu.server.openai.sampling import check_mode
from danlu.server.openai.tool_calls import ToolBody, call_fields
from danlu.server.state import RequestRecord, Serving, state_of
from danlu.text.conversation import Conversation
from danlu.web.studio import Studio

Json = dict[str, Any]


def _shown(tools: Sequence[ToolBody]) -> list[Json]:
    return [tool.shown() for tool in tools]


class AnswerChoice(BaseModel):
    """Who answers, and how; what is None is as the model's own files say.

    model: the loaded model that this was chosen for; "" for whichever is loaded. strength: of the
    adapter, 1 as trained. tools: what an answer may call. thinking_budget: tokens after which a
    thought is ended.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: Annotated[str, Field(max_length=300)] = ""
    voice: Annotated[str, Field(max_length=300)] = "base"
    strength: Annotated[float, Field(ge=0, le=2)] = 1.0
    system: Annotated[str, Field(max_length=200_000)] = ""
    tools: Annotated[list[ToolBody], Field(max_length=128), PlainSerializer(_shown)] = []
    enable_thinking: bool | None = None
    thinking_budget: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None


def prepare(
    studio: Studio, serving: Serving, conversation: Conversation, choice: AnswerChoice
) -> PreparedRequest:
    """Open the voice, render and tokenize; on a thread. Raises what they raise, and ApiError."""
    if choice.model not in ("", serving.name):
        raise UsageError(
            _("This was asked of the model {model}.").format(model=choice.model),
            why=_("{loaded} is loaded.").format(loaded=serving.name),
            fix=_("Load the other one, or go on with this one."),
        )
    model = studio.voices.answering(choice.voice, choice.strength)
    check_mode(model.prompting, ("enable_thinking", choice.enable_thinking))
    thinks = model.prompting.only_mode
    if thinks is None:
        thinks = choice.enable_thinking
    if thinks is None:
        thinks = model.prompting.enable_thinking
    prepared = serving.assistant.dialog.prepare(
        Conversation.framed(
            conversation.messages, system=choice.system, tools=_shown(choice.tools)
        ),
        sampling=_sampling(serving.defaults[bool(thinks)], choice),
        adapter=model.adapter,
        enable_thinking=thinks,
        template=model.prompting.template,
        thinking_budget=choice.thinking_budget,
        most_tokens=serving.context_tokens,
    )
    request = bounded(prepared.request, serving.context_tokens)
    return replace(prepared, request=serving.admitted(request))


def _sampling(own: SamplingSettings, choice: AnswerChoice) -> SamplingSettings:
    given = {
        name: value
        for name in ("temperature", "top_p", "top_k")
        if (value := getattr(choice, name)) is not None
    }
    return replace(
        own,
        **given,
        min_p=choice.min_p,
        repetition_penalty=choice.repetition_penalty,
        presence_penalty=choice.presence_penalty,
        seed=choice.seed,
        max_tokens=choice.max_tokens,
    )


async def answer(
    studio: Studio, app: Any, conversation: Conversation, choice: AnswerChoice
) -> AsyncGenerator[Json, None]:
    """Yield `thought`, `text`, `call` and at last `end` with figures, as an answer is computed.

    Each has `tokens`, those written so far, and `s`, the seconds since the first of them. Before
    them `prompt` with its length, and `reading` as often as a step has read a part of it, with
    `tokens`, those that are read, and `rate`, the tokens a second so far. With a
    seed nothing is taken from the cache: a prompt that is read anew and one that is found computed
    differ in their last bits, and so would answers that are to be the same. Closing the iterator
    cancels the request. Raises ApiError and what `prepare` raises.
    """
    serving = serving_of(app)
    begun = time.monotonic()
    record = RequestRecord() if choice.seed is None else RequestRecord(key=secrets.token_hex(8))
    in_flight = RequestsInFlight(serving.service, state_of(app).figures, record, seats=1)
    try:
        prepared = await asyncio.to_thread(prepare, studio, serving, conversation, choice)
        yield {"kind": "prompt", "prompt_tokens": len(prepared.request.prompt)}
        in_flight.submit([prepared.request])
        reading, first, prompt = Reading(prepared), 0.0, _PromptSpeed()
        while not in_flight.is_complete:
            arrived = await in_flight.next()
            if arrived is None:
                continue
            output, now = arrived[1], time.monotonic()
            if output.progress is not None:
                yield prompt.event(output.progress, now)
            if output.tokens and not first:
                first = now
            for event in reading.feed(output):
                usage = reading.usage
                so_far = {"tokens": usage.completion_tokens, "s": round(now - first, 3)}
                if isinstance(event, Thought):
                    yield {"kind": "thought", "text": event.text, **so_far}
                elif isinstance(event, Text):
                    yield {"kind": "text", "text": event.text, **so_far}
                elif isinstance(event, Call):
                    yield {"kind": "call", "call": call_fields(event.call), **so_far}
                elif isinstance(event, End):
                    yield {
                        "kind": "end",
                        "reason": event.reason,
                        "prompt_tokens": usage.prompt_tokens,
                        "cached_tokens": usage.cached_tokens,
                        "reasoning_tokens": usage.reasoning_tokens,
                        "first_s": round(first - begun, 3),
                        **so_far,
                    }
    finally:
        in_flight.close()


class _PromptSpeed:
    """How fast a prompt is read: from the first step on, since before it a request may wait."""

    def __init__(self) -> None:
        self._since, self._read = time.monotonic(), -1

    def event(self, progress: PromptProgress, now: float) -> Json:
        """Return the event of a step; what was found in the cache counts as read, not as speed."""
        before = progress.num_found if self._read < 0 else self._read
        rate = (progress.num_read - before) / max(now - self._since, 1e-3)
        if self._read < 0:
            self._since, self._read = now, progress.num_read
        return {"kind": "reading", "tokens": progress.num_read, "rate": round(rate, 1)}
