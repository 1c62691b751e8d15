"""From a request's fields to the grammar that its answer obeys.

The same can be said under OpenAI's name and vLLM's new and old ones; twice is refused. Must not
know how a grammar is obeyed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from danlu.engine.grammar import MAX_SOURCE_CHARACTERS
from danlu.engine.request import Grammar, GrammarKind
from danlu.language import _
from danlu.server.edge.http_errors import ApiError
from danlu.server.openai.requests import ChatRequest, ResponseFormat, SamplingBody
from danlu.server.openai.tool_calls import ToolBody, call_grammar

# By the field of `structured_outputs`, and of the body with `guided_` before it.
_KINDS: Mapping[str, GrammarKind] = {
    "json": "json_schema",
    "regex": "regex",
    "choice": "choice",
    "grammar": "lark",
}


def grammar_of(body: SamplingBody, response_format: ResponseFormat | None = None) -> Grammar | None:
    """Return the grammar that a body asks for. Raises ApiError where it asks for two."""
    found = [
        (name, _grammar(kind, value, name))
        for name, kind, value in _asked_for(body, response_format)
        if value is not None
    ]
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


def _asked_for(
    body: SamplingBody, response_format: ResponseFormat | None
) -> Iterator[tuple[str, GrammarKind, Any]]:
    """Yield the fields that say what the answer looks like: name, kind of grammar, value."""
    if response_format is not None and response_format.type != "text":
        schema = response_format.wanted_schema
        kind: GrammarKind = "json_object" if schema is None else "json_schema"
        yield "response_format", kind, schema or {}
    structured = body.structured_outputs
    given = {} if structured is None else structured.model_dump(by_alias=True)
    yield "structured_outputs", "json_object", given.get("json_object")
    for name, kind in _KINDS.items():
        yield "structured_outputs", kind, given.get(name)
    for name, kind in _KINDS.items():
        yield f"guided_{name}", kind, getattr(body, f"guided_{name}")


def _grammar(kind: GrammarKind, value: Any, param: str) -> Grammar:
    """Make a grammar of a field's value: a text, or JSON."""
    if kind == "json_object":
        return Grammar(kind=kind, source="")
    if kind == "json_schema" and isinstance(value, str):
        try:
            fields = json.loads(value)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise ApiError(400, _("The schema is no JSON object."), param=param)
    return Grammar(kind=kind, source=value if isinstance(value, str) else json.dumps(value))
