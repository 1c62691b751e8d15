"""Tool calls: what clients send and get, and the grammar that makes a model call."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from danlu.engine.grammar import Grammar
from danlu.server.openai.grammars import call_grammar
from danlu.server.openai.tool_calls import CallBody, ToolBody, arguments_text, call_fields
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


def matcher_of(grammar: Grammar) -> LLMatcher:
    """The grammar at its beginning, over single bytes."""
    assert grammar.kind == "lark"
    source = LLMatcher.grammar_from_lark(grammar.source)
    matcher = LLMatcher(LLTokenizer(TokenizerWrapper(Bytes())), source, log_level=0)
    assert not matcher.get_error()
    return matcher


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether the grammar allows a text as a whole."""
    matcher = matcher_of(grammar)
    return bool(matcher.consume_tokens(list(text.encode()))) and matcher.is_accepting()


def random_text(grammar: Grammar, seed: int) -> str:
    """What a model without any sense might write under the grammar; it likes to end things."""
    chance, matcher, written = random.Random(seed), matcher_of(grammar), bytearray()
    while not matcher.is_stopped():
        allowed = [token for token, bias in enumerate(matcher.compute_logit_bias()) if bias]
        ends = [token for token in (*b'"}', Bytes.eos_token_id) if token in allowed]
        token = chance.choice(ends if ends and chance.random() < 0.4 else allowed)
        assert matcher.consume_token(token)
        if token != Bytes.eos_token_id:
            written.append(token)
    return written.decode()


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


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_written_under_the_grammar_is_calls_that_fit(seed: int) -> None:
    text = random_text(call_grammar(TOOLS, several=True), seed)
    parser = Parser()
    pieces = [*parser.feed(text), *parser.finish()]
    assert pieces
    for piece in pieces:
        assert isinstance(piece, Call), text
        arguments = json.loads(call_fields(piece.call)["function"]["arguments"])
        if piece.call.name == "now":
            assert arguments == {}
        else:
            assert piece.call.name == "weather"
            assert isinstance(arguments.pop("city"), str)
            assert arguments.pop("days", 1) >= 1
            assert not arguments


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
