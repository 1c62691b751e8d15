"""/v1/completions: text or token ids in, what the model writes on out, without any template.

Source of the shapes: OpenAI's API reference.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from danlu.dialog.events import Usage
from danlu.engine.request import FinishReason, Output, Request
from danlu.server.edge.http_errors import ApiError
from danlu.server.edge.long_bodies import LongBodyRoute
from danlu.server.openai.grammars import grammar_of
from danlu.server.openai.logprobs import CompletionLogprobs
from danlu.server.openai.reply import Json, Reply, choice_fields
from danlu.server.openai.requests import CompletionRequest, Prompt
from danlu.server.openai.respond import respond
from danlu.server.openai.sampling import (
    admission,
    request_of_choice,
    sampling_of,
)
from danlu.server.requested_model import RequestedModel
from danlu.server.state import Serving
from danlu.text.tokenizer import Tokenizer

router = APIRouter(tags=["answers"], route_class=LongBodyRoute)


@router.post("/v1/completions", response_model=None)
async def completions(body: CompletionRequest, request: HttpRequest) -> Response:
    """Continue a text, in one piece or as a stream of server-sent events."""
    return await respond(request, body, CompletionReply, seats=len(body.prompt) * body.choices)


def prompt_requests(
    body: CompletionRequest, model: RequestedModel, serving: Serving
) -> list[Request]:
    """Tokenize the prompts; one request for each. Raises ApiError."""
    loaded = serving.assistant.loaded
    sampling = sampling_of(
        body,
        # Not a chat: no thought is wanted before the text.
        serving.defaults[False],
        # With 0 the answer is not shown; the engine always writes a token.
        max_tokens=None if body.max_tokens is None else max(1, body.max_tokens),
        logprobs=body.logprobs,
        grammar=grammar_of(body),
    )

    def request_of(prompt: Prompt) -> Request:
        ids = loaded.tokenizer.encode_text(prompt) if isinstance(prompt, str) else prompt
        request = Request(
            prompt=tuple(ids),
            sampling=sampling,
            adapter=model.adapter,
            end_token_ids=serving.assistant.dialog.end_token_ids,
            prompt_logprobs=body.logprobs if body.wants_prompt_logprobs else None,
        )
        return serving.admitted(request)

    with admission(param="prompt"):
        for prompt in body.prompt:
            if isinstance(prompt, str):
                loaded.tokenizer.check_length([prompt], serving.context_tokens)
                if body.wants_prompt_logprobs:
                    _check_measured(prompt, loaded.tokenizer)
        return [request_of(prompt) for prompt in body.prompt]


class _CompletionChoice:
    """One choice, as far as it is computed."""

    def __init__(self, request: Request, prompt: str, tokenizer: Tokenizer) -> None:
        self.usage = Usage(prompt_tokens=len(request.prompt), completion_tokens=0)
        self.texts = [prompt]
        listed = () if request.prompt_logprobs is None else request.prompt
        self._logprobs = CompletionLogprobs(tokenizer, listed)
        self.lists: dict[str, list[Any]] = {}
        self.finish_reason: str | None = None

    def add(self, output: Output) -> dict[str, list[Any]]:
        """Take an output; return its log probabilities."""
        self.texts.append(output.text)
        self.usage = self.usage.plus(output)
        self.finish_reason = output.finish_reason
        return self._logprobs.lists([*output.prompt_logprobs, *output.logprobs])

    def keep(self, lists: dict[str, list[Any]]) -> None:
        """Put log probabilities behind those before."""
        for name, values in lists.items():
            self.lists.setdefault(name, []).extend(values)


class CompletionReply(Reply):
    """The answers to one completion request: `n` to each prompt, prompt after prompt."""

    def __init__(self, body: CompletionRequest, model: RequestedModel, serving: Serving) -> None:
        super().__init__(body, model=model.name, prefix="cmpl", kind="text_completion")
        tokenizer = serving.assistant.loaded.tokenizer
        self._echo = bool(body.echo)
        self._is_prompt_only = body.max_tokens == 0
        self._has_logprobs = body.logprobs is not None
        self._choices: list[_CompletionChoice] = []
        self.requests: list[Request] = []
        for prompt, request in zip(body.prompt, prompt_requests(body, model, serving), strict=True):
            shown = _text_of(prompt, tokenizer) if self._echo else ""
            for place in range(body.choices):
                self.requests.append(request_of_choice(request, place))
                self._choices.append(_CompletionChoice(request, shown, tokenizer))

    def opening(self) -> list[Json]:
        """Return the prompts, where they were asked for."""
        if not self._echo:
            return []
        return [self.chunk(i, {"text": choice.texts[0]}) for i, choice in enumerate(self._choices)]

    def feed(self, index: int, output: Output) -> list[Json]:
        """Return a chunk for an output that is not empty."""
        if self._is_prompt_only:
            end: FinishReason | None = None if output.finish_reason is None else "length"
            output = replace(output, tokens=(), text="", logprobs=(), finish_reason=end)
        choice = self._choices[index]
        lists = choice.add(output)
        if not self.is_streamed:
            choice.keep(lists)
        if not (output.text or lists["tokens"] or output.finish_reason):
            return []
        logprobs = lists if self._has_logprobs else None
        return [self.chunk(index, {"text": output.text}, logprobs, output.finish_reason)]

    def whole_choice(self, index: int) -> Json:
        """Return a choice, with its text."""
        choice = self._choices[index]
        logprobs = choice.lists if self._has_logprobs else None
        return choice_fields(index, {"text": "".join(choice.texts)}, logprobs, choice.finish_reason)

    def usages(self) -> list[Usage]:
        """Return what each choice has cost so far."""
        return [choice.usage for choice in self._choices]


def _check_measured(prompt: str, tokenizer: Tokenizer) -> None:
    """Raise ApiError where a text to be measured has the name of a control token in it.

    Programs mean the token: they would take the probabilities of its letters for those of the text.
    """
    if named := sorted(name for name in tokenizer.control_tokens if name in prompt):
        raise ApiError(
            400,
            f"The prompt has {named[0]} in it, which in a text is letters: its probabilities would "
            "not be those of the token. Send token ids (lm-eval: tokenized_requests=True and "
            "tokenizer=FOLDER, that of the model).",
            param="prompt",
        )


def _text_of(prompt: Prompt, tokenizer: Tokenizer) -> str:
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt, skip_control=False)
