"""From a request's fields to the engine's sampling settings.

What a request does not give comes from the model's own defaults. Must not know messages, templates
or HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from danlu.engine.request import Grammar, Request, SamplingSettings
from danlu.language import _
from danlu.models.adapters import Prompting
from danlu.server.errors import ApiError
from danlu.server.requests import ChatRequest, ResponseFormat, SamplingBody, TemplateSettings
from danlu.server.tool_calls import ToolBody, call_grammar

MAX_GRAMMAR = 128 * 1024
_SAME_NAMES = (
    *("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "min_tokens", "ignore_eos"),
)
# How long a thought may be, in tokens; None: as long as it likes.
EFFORTS = {
    "minimal": 512, "low": 1024, "medium": 4096, "high": None, "xhigh": None, "max": None,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ThinkingMode:
    """Whether to think, and how many tokens at most."""

    enabled: bool
    budget: int | None = None


def thinking_mode(body: ChatRequest, prompting: Prompting) -> ThinkingMode:
    """Decide whether to think: as the request says, else as the model was trained."""
    effort = body.reasoning_effort
    wanted = (body.chat_template_kwargs or TemplateSettings()).enable_thinking
    if effort is not None:
        if wanted is not None and wanted != (effort != "none"):
            raise ApiError(
                400,
                _("reasoning_effort contradicts enable_thinking in chat_template_kwargs."),
                param="reasoning_effort",
            )
        wanted = effort != "none"
    enabled = bool(prompting.enable_thinking if wanted is None else wanted)
    budget = EFFORTS[effort] if effort is not None and effort != "none" else None
    if body.thinking_token_budget is not None:
        budget = body.thinking_token_budget
    return ThinkingMode(enabled=enabled, budget=budget if enabled else None)


def sampling_of(
    body: SamplingBody,
    defaults: SamplingSettings,
    *,
    vocab_size: int,
    max_tokens: int | None,
    logprobs: int | None,
    grammar: Grammar | None,
) -> SamplingSettings:
    """Override the model's defaults with what was given. Raises ApiError for ids that are none."""
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


def choice_of(request: Request, index: int) -> Request:
    """Return a request for one more answer: with a seed, every answer gets one of its own."""
    seed = request.sampling.seed
    if not index or seed is None:
        return request
    return replace(request, sampling=replace(request.sampling, seed=(seed + index) % 2**63))


def fitting(request: Request, context_tokens: int, *, param: str) -> Request:
    """Return the request with room for its answer: what was asked for, or what is left.

    Raises ApiError where prompt and answer exceed the context; nothing is ever cut off.
    """
    prompt, wanted = len(request.prompt), request.sampling.max_tokens
    if prompt + (wanted or 1) > context_tokens:
        raise ApiError(
            400,
            _(
                "This model's context has room for {context} tokens: the prompt has {prompt}, and "
                "the answer may have {answer}. Shorten the prompt or lower max_tokens."
            ).format(context=context_tokens, prompt=prompt, answer=wanted or 1),
            code="context_length_exceeded",
            param=param,
            extra={"n_prompt_tokens": prompt, "n_ctx": context_tokens},
        )
    if wanted is not None:
        return request
    sampling = replace(request.sampling, max_tokens=context_tokens - prompt)
    return replace(request, sampling=sampling)


def grammar_of(body: SamplingBody, response_format: ResponseFormat | None = None) -> Grammar | None:
    """Find what the answer must look like. Raises ApiError where that is said twice."""
    found = [*_from_format(response_format), *_from_structured(body), *_from_guided(body)]
    if len(found) > 1:
        names = ", ".join(name for name, _grammar in found)
        raise ApiError(
            400,
            _("Only one of these can say what the answer looks like: {names}.").format(names=names),
            param=found[1][0],
        )
    for name, grammar in found:
        if len(grammar.source) > MAX_GRAMMAR:
            raise ApiError(
                400,
                _("{name} is too long: {most} characters at most.").format(
                    name=name, most=MAX_GRAMMAR
                ),
                param=name,
            )
    return found[0][1] if found else None


def chat_grammar(body: ChatRequest, tools: list[ToolBody]) -> Grammar | None:
    """Find what the answer to a chat must look like, calls included."""
    grammar = grammar_of(body, body.response_format)
    choice = body.tool_choice
    several = body.parallel_tool_calls is not False
    if choice is not None and choice.needs_a_call:
        named = [tool for tool in tools if choice.name in (None, tool.function.name)]
        return call_grammar(named, several=several and choice.name is None)
    if grammar is None or not tools:
        return grammar
    if grammar.kind not in ("json_schema", "json_object"):
        raise ApiError(
            400,
            _("With tools an answer can be held to JSON only. Set tool_choice to none."),
            param="tools",
        )
    schema = json.loads(grammar.source) if grammar.source else {"type": "object"}
    return call_grammar(tools, several=several, answer_schema=schema)


Found = Iterator[tuple[str, Grammar]]


def _from_format(wanted: ResponseFormat | None) -> Found:
    if wanted is None or wanted.type == "text":
        return
    if wanted.json_schema is None:
        yield "response_format", Grammar(kind="json_object", source="")
    else:
        yield "response_format", _schema_grammar(wanted.json_schema.schema_, "response_format")


def _from_structured(body: SamplingBody) -> Found:
    wanted, name = body.structured_outputs, "structured_outputs"
    if wanted is None:
        return
    if wanted.json_ is not None:
        yield name, _schema_grammar(wanted.json_, name)
    elif wanted.regex is not None:
        yield name, Grammar(kind="regex", source=wanted.regex)
    elif wanted.choice is not None:
        yield name, Grammar(kind="choice", source=json.dumps(wanted.choice))
    elif wanted.grammar is not None:
        yield name, Grammar(kind="lark", source=wanted.grammar)
    else:
        yield name, Grammar(kind="json_object", source="")


def _from_guided(body: SamplingBody) -> Found:
    if body.guided_json is not None:
        yield "guided_json", _schema_grammar(body.guided_json, "guided_json")
    if body.guided_regex is not None:
        yield "guided_regex", Grammar(kind="regex", source=body.guided_regex)
    if body.guided_choice is not None:
        yield "guided_choice", Grammar(kind="choice", source=json.dumps(body.guided_choice))
    if body.guided_grammar is not None:
        yield "guided_grammar", Grammar(kind="lark", source=body.guided_grammar)


def _schema_grammar(schema: Mapping[str, Any] | str, param: str) -> Grammar:
    if isinstance(schema, str):
        try:
            fields = json.loads(schema)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise ApiError(400, _("The schema is no JSON object."), param=param)
        return Grammar(kind="json_schema", source=schema)
    return Grammar(kind="json_schema", source=json.dumps(dict(schema)))
