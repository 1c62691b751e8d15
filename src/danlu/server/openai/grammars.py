"""From a request's fields to the grammar that its answer obeys.

The same can be said under OpenAI's name and vLLM's new and old ones; twice is refused. Must not
know how a grammar is obeyed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from danlu.engine.grammar import MAX_SOURCE_CHARACTERS
from danlu.engine.request import Grammar
from danlu.language import _
from danlu.server.edge.http_errors import ApiError
from danlu.server.openai.requests import ChatRequest, ResponseFormat, SamplingBody
from danlu.server.openai.tool_calls import ToolBody, call_grammar

Found = Iterator[tuple[str, Grammar]]


def grammar_of(body: SamplingBody, response_format: ResponseFormat | None = None) -> Grammar | None:
    """Return the grammar that a body asks for. Raises ApiError where it asks for two."""
    found = [*_from_format(response_format), *_from_structured(body), *_from_guided(body)]
    if len(found) > 1:
        names = ", ".join(name for name, _grammar in found)
        raise ApiError(
            400,
            _("Only one of these can say what the answer looks like: {names}.").format(names=names),
            param=found[1][0],
        )
    for name, grammar in found:
        if len(grammar.source) > MAX_SOURCE_CHARACTERS:
            raise ApiError(
                400,
                _("{name} is too long: {most} characters at most.").format(
                    name=name, most=MAX_SOURCE_CHARACTERS
                ),
                param=name,
            )
    return found[0][1] if found else None


def chat_grammar(body: ChatRequest, tools: Sequence[ToolBody]) -> Grammar | None:
    """Return the grammar of the answer to a chat, calls included."""
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
