"""/v1/completions: text or token ids in, what the model writes on out, without any template.

Source of the shapes: OpenAI's API reference.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any, cast

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from danlu.dialog.events import Usage
from danlu.engine.request import Output, Request
from danlu.server.openai.answering import respond
from danlu.server.openai.bodies import IGNORED_HEADER
from danlu.server.openai.grammars import grammar_of
from danlu.server.openai.logprobs import CompletionLogprobs
from danlu.server.openai.reply import Json
from danlu.server.openai.requests import CompletionRequest, Prompt
from danlu.server.openai.sampling import check_ids, choice_of, fitting, sampling_of
from danlu.server.openai.target import Target, target_of
from danlu.server.openai.usage import usage_fields
from danlu.server.state import Serving
from danlu.text.tokenizer import Tokenizer

router = APIRouter(tags=["answers"])


@router.post("/v1/completions", response_model=None)
async def completions(body: CompletionRequest, request: HttpRequest) -> Response:
    """Continue a text, in one piece or as a stream of server-sent events."""
    serving = cast(Serving, request.app.state.serving)
    target = target_of(serving, body.model)
    ignored = body.ignored()
    return await respond(
        request,
        lambda: CompletionReply(body, target, serving),
        seats=len(body.prompt) * body.choices,
        stream=bool(body.stream),
        headers={IGNORED_HEADER: ", ".join(ignored)} if ignored else {},
    )


def prompt_requests(body: CompletionRequest, target: Target, serving: Serving) -> list[Request]:
    """Tokenize the prompts; one request for each. Raises ApiError."""
    vocab_size = serving.loaded.config.vocab_size
    sampling = sampling_of(
        body,
        # Not a chat: no thought is wanted before the text.
        serving.defaults[False],
        vocab_size=vocab_size,
        max_tokens=body.max_tokens,
        logprobs=body.logprobs,
        grammar=grammar_of(body),
    )
    requests = [
        Request(
            prompt=tuple(prompt_ids(prompt, serving.loaded.tokenizer, vocab_size)),
            sampling=sampling,
            adapter=target.adapter,
            end_token_ids=serving.dialog.end_token_ids,
        )
        for prompt in body.prompt
    ]
    return [fitting(request, serving.context_tokens, param="prompt") for request in requests]


def prompt_ids(prompt: Prompt, tokenizer: Tokenizer, vocab_size: int) -> Sequence[int]:
    """Return a prompt's token ids. Raises ApiError for ids that the model does not have."""
    if isinstance(prompt, str):
        return tokenizer.encode_text(prompt)
    check_ids(prompt, vocab_size, "prompt")
    return prompt


class _Choice:
    """One answer as far as it has come."""

    def __init__(self, request: Request, prompt: str, tokenizer: Tokenizer) -> None:
        self._prompt_tokens = len(request.prompt)
        self._completion_tokens = self._cached_tokens = 0
        self.texts = [prompt]
        self._logprobs = CompletionLogprobs(tokenizer)
        self.lists: dict[str, list[Any]] = {}
        self.finish_reason: str | None = None

    def add(self, output: Output) -> dict[str, list[Any]]:
        """Take an output; return its log probabilities."""
        self.texts.append(output.text)
        self._completion_tokens += len(output.tokens)
        self._cached_tokens += output.cached_tokens
        self.finish_reason = output.finish_reason
        lists = self._logprobs.lists(output.logprobs)
        for name, values in lists.items():
            self.lists.setdefault(name, []).extend(values)
        return lists

    @property
    def usage(self) -> Usage:
        """What it has cost."""
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            cached_tokens=self._cached_tokens,
        )


class CompletionReply:
    """The answers to one completion request: `n` to each prompt, prompt after prompt."""

    def __init__(self, body: CompletionRequest, target: Target, serving: Serving) -> None:
        tokenizer = serving.loaded.tokenizer
        self._body = body
        self._choices: list[_Choice] = []
        self.requests: list[Request] = []
        for prompt, request in zip(
            body.prompt, prompt_requests(body, target, serving), strict=True
        ):
            for place in range(body.choices):
                self.requests.append(choice_of(request, place))
                self._choices.append(_Choice(request, self._echo(prompt, tokenizer), tokenizer))
        self._head: Json = {
            "id": f"cmpl-{secrets.token_hex(16)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": target.name,
            "system_fingerprint": None,
        }

    def opening(self) -> list[Json]:
        """Return the prompts, where they were asked for."""
        if not self._body.echo:
            return []
        return [self._chunk(i, choice.texts[0]) for i, choice in enumerate(self._choices)]

    def feed(self, index: int, output: Output) -> list[Json]:
        """Return a chunk for an output that brings something."""
        choice = self._choices[index]
        lists = choice.add(output)
        if not (output.text or output.logprobs or output.finish_reason):
            return []
        logprobs = lists if self._body.logprobs is not None else None
        return [self._chunk(index, output.text, logprobs, output.finish_reason)]

    def has_enough(self, index: int) -> bool:
        """Whether nothing more of this request is wanted: never."""
        return False

    def closing(self) -> list[Json]:
        """Return the chunk with the usage, where it was asked for."""
        if not self._body.include_usage:
            return []
        return [self._head | {"choices": [], "usage": self._usage()}]

    def whole(self) -> Json:
        """Return the body of an answer in one piece."""
        choices = [
            {
                "index": index,
                "text": "".join(choice.texts),
                "logprobs": choice.lists if self._body.logprobs is not None else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return self._head | {"choices": choices, "usage": self._usage()}

    def _echo(self, prompt: Prompt, tokenizer: Tokenizer) -> str:
        if not self._body.echo:
            return ""
        return prompt if isinstance(prompt, str) else tokenizer.decode(prompt, skip_control=False)

    def _usage(self) -> Json:
        n = self._body.choices
        usages = [choice.usage for choice in self._choices]
        return usage_fields(usages[place : place + n] for place in range(0, len(usages), n))

    def _chunk(
        self,
        index: int,
        text: str,
        logprobs: dict[str, list[Any]] | None = None,
        finish_reason: str | None = None,
    ) -> Json:
        choice = {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        chunk = self._head | {"choices": [choice]}
        return chunk | ({"usage": None} if self._body.include_usage else {})
