"""Tool calls: what clients send and get, and the grammar that makes a model call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.engine.request import Grammar
from danlu.server.tool_calls import CallBody, ToolBody, arguments_text, call_fields, call_grammar
from danlu.text.conversation import ToolCall
from danlu.text.parse import Call, Parser
from danlu.text.render import call_text


def tool(name: str, parameters: dict[str, Any] | None) -> ToolBody:
    fields: dict[str, Any] = {"name": name, "description": 'braces } and "quotes"\n%json {'}
    if parameters is not None:
        fields["parameters"] = parameters
    return ToolBody.model_validate({"type": "function", "function": fields})


CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": 'a } brace, "quotes" and 中文'},
        "days": {"$ref": "#/$defs/days"},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"days": {"type": "integer", "minimum": 1}},
}
TOOLS = [tool("weather", CITY), tool("now", None)]


class Bytes:
    """A vocabulary of the 256 bytes, and an end."""

    eos_token_id, bos_token_id, special_token_ids = 256, None, (256,)
    tokens = (*(bytes([value]) for value in range(256)), b"<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether the grammar allows a text as a whole."""
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

    assert grammar.kind == "lark"
    tokenizer = LLTokenizer(TokenizerWrapper(Bytes()))
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar.source), log_level=0)
    assert not matcher.get_error()
    return bool(matcher.consume_tokens(list(text.encode()))) and matcher.is_accepting()


def call(name: str, **arguments: Any) -> str:
    return call_text(ToolCall(name=name, arguments=arguments))


WEATHER, NOW = call("weather", city="北京", days=2), call("now")


def test_the_grammar_holds_the_model_to_calls_of_the_tools() -> None:
    several = call_grammar(TOOLS, several=True)
    for text in (WEATHER, NOW, f"{WEATHER}\n{NOW}", call("weather", city='a "quoted" }')):
        assert accepts(several, text), text
    for text in (
        "",
        "Sure.",
        f"Sure. {WEATHER}",
        call("other"),
        call("weather"),
        call("weather", city="a", days=0),
        call("weather", city="a", more=1),
        call("now", city="a"),
        f"{WEATHER}{NOW}",
        WEATHER[:-1],
        f"{WEATHER}\n",
    ):
        assert not accepts(several, text), text


def test_the_grammar_can_want_one_call() -> None:
    single = call_grammar(TOOLS, several=False)
    assert accepts(single, WEATHER)
    assert not accepts(single, f"{WEATHER}\n{NOW}")


def test_the_grammar_can_leave_the_choice_between_calls_and_an_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    either = call_grammar(TOOLS, several=True, answer_schema=schema)
    assert accepts(either, '{"a": 1}')
    assert accepts(either, f"{WEATHER}\n{NOW}")
    assert not accepts(either, '{"a": "b"}')
    assert not accepts(either, f'{WEATHER}{{"a": 1}}')


def test_what_the_grammar_allows_is_parsed_as_calls() -> None:
    parser = Parser()
    pieces = [*parser.feed(f"{WEATHER}\n{NOW}"), *parser.finish()]
    assert [piece.call.name for piece in pieces if isinstance(piece, Call)] == ["weather", "now"]


def test_the_model_is_shown_the_tool_as_it_was_trained_to_read_it() -> None:
    shown = TOOLS[0].shown()
    assert list(shown) == ["type", "function"]
    assert list(shown["function"]) == ["name", "description", "parameters"]
    assert shown["function"]["parameters"] == CITY


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_arguments_go_out_as_json_and_come_back_as_they_were(arguments: dict[str, Any]) -> None:
    fields = call_fields(ToolCall(name="f", arguments=arguments))
    json.dumps(fields, ensure_ascii=False).encode()  # no half characters are left
    assert json.loads(fields["function"]["arguments"]) == arguments
    assert CallBody.model_validate(fields).call() == ToolCall(name="f", arguments=arguments)


@pytest.mark.parametrize("written", ['{"a": "\\ud83e"}', "\ud83e"])
def test_half_characters_of_a_models_call_can_be_sent(written: str) -> None:
    parsed = json.loads(written) if written.startswith("{") else written
    text = arguments_text(parsed)
    text.encode()
    if isinstance(parsed, dict):
        assert json.loads(text) == parsed


@pytest.mark.parametrize("text", ["[1]", "no json", '{"a": NaN}', '{"a": 1e999}', "1" * 5000])
def test_odd_arguments_in_the_history_stay_as_they_are(text: str) -> None:
    body = {"id": "x", "type": "function", "function": {"name": "f", "arguments": text}}
    assert CallBody.model_validate(body).call() == ToolCall(name="f", arguments=text)
