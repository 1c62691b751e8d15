"""From a request's fields to the engine's sampling settings.

What a request does not give comes from the model's own defaults. Must not know messages, templates
or HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from danlu.engine.admission import ContextExceeded, UnknownTokens
from danlu.engine.grammar import Grammar
from danlu.engine.request import Request, SamplingSettings
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
    ApiError for a contradiction, and for what the model cannot do. An effort is a limit, which
    holds without a thought too.
    """
    reasoning = body.reasoning or ReasoningSettings()
    thinking = body.thinking or ThinkingSettings()
    effort = _agreed(
        ("reasoning.effort", reasoning.effort),
        ("reasoning_effort", body.reasoning_effort),
    )
    switches = (
        ("chat_template_kwargs", (body.chat_template_kwargs or TemplateSettings()).enable_thinking),
        ("enable_thinking", body.enable_thinking),
        ("thinking", thinking.enabled),
        ("reasoning", reasoning.enabled),
        ("reasoning_effort", False if effort == "none" else None),
    )
    check_mode(prompting, *switches)
    wanted = _agreed(*switches, ("reasoning_effort", None if effort is None else effort != "none"))
    budget = _agreed(
        ("thinking.budget_tokens", thinking.budget_tokens),
        ("reasoning.max_tokens", reasoning.max_tokens),
        ("thinking_token_budget", body.thinking_token_budget),
    )
    if wanted is None:
        wanted = prompting.only_mode or prompting.enable_thinking
    if not wanted:
        return False, None
    return True, _EFFORTS.get(effort or "") if budget is None else budget


def check_mode(prompting: Prompting, *switches: tuple[str, bool | None]) -> None:
    """Raise ApiError where a switch, given with its name, asks for a mode the model has not."""
    only = prompting.only_mode
    for name, value in switches:
        if value is None or only is None or value == only:
            continue
        if only:
            message = _(
                "{name}: This model always thinks. Leave it out, or end the thought early with "
                "thinking_token_budget."
            )
        else:
            message = _("{name}: This model never thinks. Leave it out, or ask another model.")
        raise ApiError(400, message.format(name=name), param=name)


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
    max_tokens: int | None,
    logprobs: int | None,
    grammar: Grammar | None,
) -> SamplingSettings:
    """Override the model's defaults with what was given. Raises ApiError for a contradiction."""
    given: dict[str, Any] = {
        name: getattr(body, name) for name in _SAME_NAMES if getattr(body, name) is not None
    }
    if body.top_k is not None:
        given["top_k"] = max(body.top_k, 0)
    if body.seed is not None:
        given["seed"] = body.seed % 2**63
    if body.stop is not None:
        given["stop"] = tuple(body.stop)
    if body.logit_bias is not None:
        given["logit_bias"] = tuple((int(token), bias) for token, bias in body.logit_bias.items())
    if body.stop_token_ids is not None:
        given["stop_token_ids"] = frozenset(body.stop_token_ids)
    if max_tokens is not None and max_tokens < (body.min_tokens or 0):
        raise ApiError(400, _("min_tokens is greater than max_tokens."), param="min_tokens")
    given |= {"max_tokens": max_tokens, "logprobs": logprobs, "grammar": grammar}
    return replace(defaults, **given)


def request_of_choice(request: Request, index: int) -> Request:
    """Return a request for one more answer: with a seed, every answer gets one of its own."""
    seed = request.sampling.seed
    if not index or seed is None:
        return request
    return replace(request, sampling=replace(request.sampling, seed=(seed + index) % 2**63))


@contextmanager
def admission(*, param: str) -> Iterator[None]:
    """Raise ApiError, in the words that programs look for, where the engine would take no request.

    param: the field with the prompt.
    """
    try:
        yield
    except UnknownTokens as problem:
        raise ApiError(400, f"{problem.what} {problem.why}", param=problem.field) from problem
    except ContextExceeded as problem:
        long = f"the prompt has {problem.prompt} tokens, and the answer may have {problem.answer}"
        raise _too_long(problem.context, problem.prompt, long, param) from problem
    except TextTooLong as problem:
        long = f"the text has at least {problem.least} tokens"
        raise _too_long(problem.most, problem.least, long, param) from problem


def _too_long(context: int, prompt: int, long: str, param: str) -> ApiError:
    return ApiError(
        400,
        # In English whatever the language: programs (LiteLLM, aider) look for these words.
        f"This model's maximum context length is {context} tokens. However, {long}. Shorten the "
        "prompt or lower max_tokens.",
        code="context_length_exceeded",
        param=param,
        extra={"n_prompt_tokens": prompt, "n_ctx": context},
    )
