"""From a request's fields to the engine's sampling settings.

What a request does not give comes from the model's own defaults. Must not know messages, templates
or HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from danlu.engine.request import Grammar, Request, SamplingSettings
from danlu.hub.prompting import Prompting
from danlu.language import _
from danlu.server.edge.http_errors import ApiError
from danlu.server.openai.requests import (
    ChatRequest,
    ReasoningSettings,
    SamplingBody,
    TemplateSettings,
    ThinkingSettings,
)
from danlu.text.tokenizer import TextTooLong

ValueT = TypeVar("ValueT")

_SAME_NAMES = (
    *("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "min_tokens", "ignore_eos"),
)
# How long a thought may be, in tokens; with more effort as long as it likes.
_EFFORTS = {"minimal": 512, "low": 1024, "medium": 4096}


def thinking_mode(body: ChatRequest, prompting: Prompting) -> tuple[bool, int | None]:
    """Decide whether to think, and how many tokens at most.

    As the request says, under whichever of its names, else as the model was trained. Raises
    ApiError for a contradiction.
    """
    reasoning = body.reasoning or ReasoningSettings()
    thinking = body.thinking or ThinkingSettings()
    effort = _agreed(
        ("reasoning.effort", reasoning.effort),
        ("reasoning_effort", body.reasoning_effort),
    )
    wanted = _agreed(
        ("chat_template_kwargs", (body.chat_template_kwargs or TemplateSettings()).enable_thinking),
        ("enable_thinking", body.enable_thinking),
        ("thinking", thinking.enabled),
        ("reasoning", reasoning.enabled),
        ("reasoning_effort", None if effort is None else effort != "none"),
    )
    budget = _agreed(
        ("thinking.budget_tokens", thinking.budget_tokens),
        ("reasoning.max_tokens", reasoning.max_tokens),
        ("thinking_token_budget", body.thinking_token_budget),
    )
    if not (prompting.enable_thinking if wanted is None else wanted):
        return False, None
    return True, _EFFORTS.get(effort or "") if budget is None else budget


def _agreed(*given: tuple[str, ValueT | None]) -> ValueT | None:
    """Return what was said under one name or several. Raises ApiError where they disagree."""
    said = [(name, value) for name, value in given if value is not None]
    for name, value in said[1:]:
        if value != said[0][1]:
            raise ApiError(
                400,
                _("{name} contradicts {other}. Leave one of them out.").format(
                    name=name, other=said[0][0]
                ),
                param=name,
            )
    return said[0][1] if said else None


def sampling_of(
    body: SamplingBody,
    defaults: SamplingSettings,
    *,
    vocab_size: int,
    max_tokens: int | None,
    logprobs: int | None,
    grammar: Grammar | None,
) -> SamplingSettings:
    """Override the model's defaults with what was given. Raises ApiError for ids out of range."""
    given: dict[str, Any] = {
        name: getattr(body, name) for name in _SAME_NAMES if getattr(body, name) is not None
    }
    if body.top_k is not None:
        given["top_k"] = min(max(body.top_k, 0), vocab_size)
    if body.seed is not None:
        given["seed"] = body.seed % 2**63
    if body.stop is not None:
        given["stop"] = tuple(body.stop)
    if body.logit_bias is not None:
        biases = tuple((int(token), bias) for token, bias in body.logit_bias.items())
        check_ids([token for token, _bias in biases], vocab_size, "logit_bias")
        given["logit_bias"] = biases
    if body.stop_token_ids is not None:
        check_ids(body.stop_token_ids, vocab_size, "stop_token_ids")
        given["stop_token_ids"] = frozenset(body.stop_token_ids)
    if max_tokens is not None and max_tokens < (body.min_tokens or 0):
        raise ApiError(400, _("min_tokens is greater than max_tokens."), param="min_tokens")
    given |= {"max_tokens": max_tokens, "logprobs": logprobs, "grammar": grammar}
    return replace(defaults, **given)


def check_ids(ids: Collection[int], vocab_size: int, param: str) -> None:
    """Raise ApiError for token ids that the model does not have."""
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise ApiError(
            400,
            _("{param}: token ids go from 0 to {highest}.").format(
                param=param, highest=vocab_size - 1
            ),
            param=param,
        )


def request_of_choice(request: Request, index: int) -> Request:
    """Return a request for one more answer: with a seed, every answer gets one of its own."""
    seed = request.sampling.seed
    if not index or seed is None:
        return request
    return replace(request, sampling=replace(request.sampling, seed=(seed + index) % 2**63))


@contextmanager
def fitting_texts(context_tokens: int, *, param: str) -> Iterator[None]:
    """Raise ApiError for a text that cannot fit, where its tokens were not even counted."""
    try:
        yield
    except TextTooLong as problem:
        # In English whatever the language: programs look for these words.
        raise ApiError(
            400,
            f"This model's maximum context length is {context_tokens} tokens. However, the text "
            f"has at least {problem.least} tokens.",
            code="context_length_exceeded",
            param=param,
            extra={"n_prompt_tokens": problem.least, "n_ctx": context_tokens},
        ) from problem


def fitting(request: Request, context_tokens: int, *, param: str) -> Request:
    """Return the request with room for its answer: what was asked for, or what is left.

    Raises ApiError where prompt and answer exceed the context; nothing is ever cut off.
    """
    prompt, wanted = len(request.prompt), request.sampling.max_tokens
    if prompt + (wanted or 1) > context_tokens:
        raise ApiError(
            400,
            # In English whatever the language: programs (LiteLLM, aider) look for these words.
            f"This model's maximum context length is {context_tokens} tokens. However, the prompt "
            f"has {prompt} tokens, and the answer may have {wanted or 1}. Shorten the prompt or "
            "lower max_tokens.",
            code="context_length_exceeded",
            param=param,
            extra={"n_prompt_tokens": prompt, "n_ctx": context_tokens},
        )
    if wanted is not None:
        return request
    sampling = replace(request.sampling, max_tokens=context_tokens - prompt)
    return replace(request, sampling=sampling)
