"""Thought, text and calls come out right however the stream is cut."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.text.conversation import Conversation, Message, ToolCall
from danlu.text.parse import Call, Parser, Text, Thought
from danlu.text.render import call_text, render


def parsed(pieces: list[str], *, starts_in_thought: bool = False, may_call: bool = True) -> Message:
    parser = Parser(starts_in_thought=starts_in_thought, may_call=may_call)
    found = [piece for text in pieces for piece in parser.feed(text)] + parser.finish()
    thought = "".join(p.text for p in found if isinstance(p, Thought))
    return Message(
        role="assistant",
        content="".join(p.text for p in found if isinstance(p, Text)),
        reasoning=thought or None,
        tool_calls=tuple(p.call for p in found if isinstance(p, Call)),
    )


def test_thought_then_text() -> None:
    got = parsed(["<thi", "nk>\nfirst\n\nsecond\n</th", "ink>\n\nYes.", "\n\nReally."])
    assert got.reasoning == "first\n\nsecond"
    assert got.content == "Yes.\n\nReally."


def test_empty_thought_is_no_thought() -> None:
    got = parsed(["<think>\n\n</think>\n\nHi"])
    assert (got.reasoning, got.content) == (None, "Hi")


def test_prompt_that_left_a_thought_open() -> None:
    got = parsed(["so far</think>\n\nHi"], starts_in_thought=True)
    assert (got.reasoning, got.content) == ("so far", "Hi")


def test_calls_between_text() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    got = parsed([f"Let me look.\n{call}\n{call}"])
    assert got.content == "Let me look."
    assert got.tool_calls == (ToolCall(name="f", arguments={"x": 1}),) * 2


def test_a_tag_inside_a_thought_does_not_trigger() -> None:
    got = parsed(["<think>\nI could <tool_call> now\n</think>\n\nNo."])
    assert got.reasoning == "I could <tool_call> now"
    assert got.tool_calls == ()


def test_without_tools_calls_are_text() -> None:
    text = 'Look:\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n\nSo.'
    for size in range(1, 20):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        assert parsed(["<think>\na\n</think>\n\n", *pieces], may_call=False) == Message(
            role="assistant", content=text, reasoning="a"
        )


def test_tags_inside_a_calls_text_are_text() -> None:
    call = ToolCall(
        name="write", arguments={"a": 'x </tool_call> \\" <tool_call>', "b": "</think>"}
    )
    text = f"{call_text(call)}\n{call_text(call)}"
    for size in range(1, 40):
        got = parsed([text[i : i + size] for i in range(0, len(text), size)])
        assert got.tool_calls == (call, call)
        assert got.content == ""


def test_a_broken_call_does_not_take_the_next_one_with_it() -> None:
    good = ToolCall(name="f", arguments={})
    for broken in ('\n{"name": "f}\n', '{"name": "f}', "\n{oops}\n"):
        text = f"<tool_call>{broken}</tool_call>\n{call_text(good)}"
        for size in range(1, 40):
            got = parsed([text[i : i + size] for i in range(0, len(text), size)])
            assert got.tool_calls == (good,), (broken, size)
            assert got.content == f"<tool_call>{broken}</tool_call>"


def test_broken_calls_are_text() -> None:
    assert parsed(["<tool_call>\n{oops}\n</tool_call>"]).content == (
        "<tool_call>\n{oops}\n</tool_call>"
    )
    assert parsed(["a <tool_call>{"]).content == "a <tool_call>{"
    assert parsed(["abc\n<tool_call>{x}</tool_call>"]).content == "abc\n<tool_call>{x}</tool_call>"


@pytest.mark.parametrize(
    ("body", "calls"),
    [
        ('{"name": "f", "parameters": {"a": 1}}', [("f", {"a": 1})]),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', [("f", {"a": 1})]),
        ('{"name": "f", "arguments": null}', [("f", {})]),
        ('{"name": "f", "arguments": " "}', [("f", {})]),
        ('{"name": "f", "arguments": {}}\n{"name": "g"}', [("f", {}), ("g", {})]),
        ('[{"name": "f", "arguments": {}}, {"name": "g"}]', [("f", {}), ("g", {})]),
        ('{"name": "f"}\n<tool_call>\n{"name": "g"}', [("f", {}), ("g", {})]),
        ('{"name": "f", "arguments": {"code": "a\nb\tc"}}', [("f", {"code": "a\nb\tc"})]),
        ('{"type": "function", "name": "f", "arguments": {"a": 1.5}}', [("f", {"a": 1.5})]),
        ('{"name": "f", "parameters": {"a": "</tool_call>\n"}}', [("f", {"a": "</tool_call>\n"})]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tail", ["\n</tool_call>", "\n", ""])
def test_calls_are_read_as_models_write_them(
    body: str, calls: list[tuple[str, dict[str, object]]], tail: str
) -> None:
    text = f"Look.\n<tool_call>\n{body}{tail}"
    for size in (1, 7, len(text)):
        got = parsed([text[i : i + size] for i in range(0, len(text), size)])
        assert [(call.name, call.arguments) for call in got.tool_calls] == calls
        assert got.content == "Look."


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "f", "arguments": {"a": NaN}}',
        '{"name": "f", "arguments": {"a": -Infinity}}',
        '{"name": "f", "arguments": {"a": 1e400}}',
        '{"name": "f", "arguments": "{\\"a\\": NaN}"}',
        '{"name": "f", "arguments": "a=1"}',
        '{"name": "f", "arguments": "[1]"}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": {}, "parameters": {"a": 1}}',
        '{"name": "f", "args": {"a": 1}}',
        '{"name": "f", "arguments": {}} {"name": 1}',
        "[]",
        "",
    ],
)
def test_what_would_lose_something_as_a_call_is_text(body: str) -> None:
    for tail in ("\n</tool_call>", ""):
        text = f"<tool_call>\n{body}{tail}"
        for size in (1, 7, len(text)):
            got = parsed([text[i : i + size] for i in range(0, len(text), size)])
            assert (got.tool_calls, got.content) == ((), text.rstrip("\n"))


WORDS = st.text(alphabet="ab<>/\n{}", max_size=12)
TAGS = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "\n"),
        *('{"name": "f"}', '{"name": "</tool_call>"}', "[", "]", ",", '"'),
    ]
)


@given(st.lists(st.one_of(WORDS, TAGS), max_size=8), st.lists(st.integers(0, 60), max_size=6))
def test_cuts_do_not_matter(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    places = sorted({0, len(text), *(cut for cut in cuts if cut <= len(text))})
    pieces = [text[a:b] for a, b in pairwise(places)]
    assert parsed(pieces) == parsed([text]) == parsed(list(text))


PLAIN = st.text(alphabet=st.characters(blacklist_characters="<", blacklist_categories=["Cs"]))
LINE = PLAIN.map(lambda text: text.strip("\n"))
CALLS = st.lists(
    st.builds(
        ToolCall,
        name=st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
        arguments=st.dictionaries(st.text("abc", max_size=3), st.integers() | LINE, max_size=2),
    ),
    max_size=2,
).map(tuple)


@given(LINE, LINE, CALLS)
def test_a_rendered_answer_parses_back(thought: str, content: str, calls: tuple[ToolCall]) -> None:
    message = Message(
        role="assistant", content=content, reasoning=thought or None, tool_calls=calls
    )
    question = Message(role="user", content="?")
    spans = render(
        Conversation(messages=(question, message)),
        template="qwen3",
        enable_thinking=True,
        add_generation_prompt=False,
    )
    text = "".join(span.text for span in spans)
    answer = text.split("<|im_start|>assistant\n", 1)[1].removesuffix("<|im_end|>\n")
    got = parsed([answer])
    assert got.reasoning == message.reasoning
    assert got.content == content
    expected = [(c.name, json.loads(json.dumps(c.arguments))) for c in calls]
    assert [(c.name, c.arguments) for c in got.tool_calls] == expected
