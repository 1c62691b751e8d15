"""Requests as programs send them that their users cannot change: served, and what they mean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.sse import events_of
from tests.server.openai.test_chat_completions import HELLO, TOOLS, Subject


@pytest.fixture
def subject() -> Iterator[Subject]:
    with ExitStack() as stack:
        yield Subject(stack)


def called(arguments: Any, **notes: Any) -> list[dict[str, Any]]:
    """A history in which the assistant has called a function."""
    function = {"name": "weather", "arguments": arguments}
    call = {"id": "1", "type": "function", "function": function}
    return [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call], **notes},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]


@pytest.mark.parametrize(
    ("message", "listed"),
    [
        ({"id": "m1", "opts": {"visible": True}}, "messages.id, messages.opts"),
        ({"cache_control": {"type": "ephemeral"}}, "messages.cache_control"),
        ({"timestamp": 1, "thinking_blocks": None, "reasoning_details": []}, "messages.timestamp"),
        ({"refusal": "", "annotations": [{"type": "url"}]}, "messages.annotations"),
        ({"provider_specific_fields": {"refusal": None}}, "messages.provider_specific_fields"),
        ({"name": "Ann", "tool_call_id": "1"}, "messages.name, messages.tool_call_id"),
        (
            {"content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
            "messages.content.cache_control",
        ),
    ],
)  # fmt: skip
def test_notes_in_a_message_are_accepted_and_listed(
    subject: Subject, message: dict[str, Any], listed: str
) -> None:
    subject.answers("Fine.")
    response = subject.post(messages=[{"role": "user", "content": "Hi", **message}])
    assert response.status_code == 200, response.text
    assert response.headers["x-danlu-ignored"] == listed
    assert "<|im_start|>user\nHi<|im_end|>" in subject.prompt()


def test_half_a_call_is_text_and_never_called(subject: Subject) -> None:
    """Wherever max_tokens cuts it: nobody runs a call whose arguments are not whole."""
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    ids = tokenizer().encode_text(call)
    subject.answers(call)
    for most in range(1, len(ids), 3):
        message = subject.message(tools=TOOLS, max_tokens=most, enable_thinking=False)
        assert message["finish_reason"] == "length"
        written = tokenizer().decode(ids[:most])
        if "}}" in written:  # only the closing tag is missing
            [found] = message["tool_calls"]
            assert json.loads(found["function"]["arguments"]) == {"city": "Rome"}
        else:
            assert not message.get("tool_calls")
            assert message["content"].strip() == written.strip()


def test_notes_in_calls_and_tools_are_accepted_and_listed(subject: Subject) -> None:
    messages = called("{}", parsed={"a": 1})
    call = messages[1]["tool_calls"][0]
    call |= {"index": 0, "provider_specific_fields": None}
    call["function"]["parsed_arguments"] = {"a": 1}
    tool = TOOLS[0] | {"cache_control": {"type": "ephemeral"}}
    response = subject.answers("Fine.").post(messages=messages, tools=[tool])
    assert response.status_code == 200, response.text
    assert response.headers["x-danlu-ignored"] == (
        "messages.parsed, messages.tool_calls.index, "
        "messages.tool_calls.function.parsed_arguments, tools.cache_control"
    )
    assert "cache_control" not in subject.prompt()


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (None, "{}"),
        ("", "{}"),
        (" \n", "{}"),
        ([], "{}"),
        ({"city": "北京"}, '{"city": "北京"}'),
        ('{"city":"北京"}', '{"city": "北京"}'),
    ],
)
def test_arguments_of_calls_are_read_in_every_form(
    subject: Subject, arguments: Any, shown: str
) -> None:
    subject.answers("Fine.").message(messages=called(arguments), tools=TOOLS)
    assert f'{{"name": "weather", "arguments": {shown}}}' in subject.prompt()


def test_a_call_of_a_name_that_a_model_made_up_can_be_sent_back(subject: Subject) -> None:
    wrong = '<tool_call>\n{"name": "look it up!", "arguments": {}}\n</tool_call>'
    answer = subject.answers(wrong).message(tools=TOOLS)
    del answer["finish_reason"]
    subject.message(messages=[*HELLO, answer, *HELLO], tools=TOOLS)
    assert '"name": "look it up!"' in subject.prompt()


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (None, ""),
        ({"degrees": 21, "sky": "晴"}, '{"degrees": 21, "sky": "晴"}'),
        ([{"degrees": 21}], '[{"degrees": 21}]'),
        (21, "21"),
        (["sunny", {"type": "text", "text": "warm"}], "sunny\nwarm"),
    ],
)
def test_results_of_tools_may_be_json(subject: Subject, content: Any, shown: str) -> None:
    messages = called("{}")
    messages[-1]["content"] = content
    subject.answers("Fine.").message(messages=messages, tools=TOOLS)
    assert f"<tool_response>\n{shown}\n</tool_response>" in subject.prompt()


@pytest.mark.parametrize(
    "content",
    [
        ["a", "b"],
        [{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}],
    ],
)
def test_content_may_be_texts_or_parts_of_the_responses_api(subject: Subject, content: Any) -> None:
    subject.answers("Fine.").message(messages=[{"role": "user", "content": content}])
    assert "<|im_start|>user\na\nb<|im_end|>" in subject.prompt()


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({"max_tokens": 12.0}, 12),
        ({"max_completion_tokens": 12.0, "top_k": 5.0, "n": 1.0, "seed": 3.0}, 12),
        ({"max_tokens": -1}, None),
        ({"max_tokens": -1, "max_completion_tokens": -1}, None),
    ],
)
def test_numbers_as_clients_write_them(
    subject: Subject, fields: dict[str, Any], max_tokens: int | None
) -> None:
    subject.answers("Fine.", context_tokens=500).message(**fields)
    request = subject.engine.requests[0]
    expected = 500 - len(request.prompt) if max_tokens is None else max_tokens
    assert request.sampling.max_tokens == expected
    assert subject.refusal(max_tokens="12")["param"] == "max_tokens"
    assert subject.refusal(max_tokens=12.5)["param"] == "max_tokens"


@pytest.mark.parametrize(
    ("fields", "thinks", "budget"),
    [
        ({"enable_thinking": False}, False, None),
        ({"enable_thinking": True, "thinking_budget": 9}, True, 9),
        ({"reasoning": {"effort": "none"}}, False, None),
        ({"reasoning": {"effort": "low"}}, True, 1024),
        ({"reasoning": {"enabled": False}}, False, None),
        ({"reasoning": {"max_tokens": 7}}, True, 7),
        ({"thinking": {"type": "disabled"}}, False, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 7}}, True, 7),
    ],
)
def test_thinking_is_switched_under_the_names_of_other_servers(
    subject: Subject, fields: dict[str, Any], thinks: bool, budget: int | None
) -> None:
    subject.answers("Fine.").message(**fields)
    thinking = subject.engine.requests[-1].thinking
    assert (thinking is not None) == thinks
    assert thinking is None or thinking.budget == budget


SWITCHED_OFF: list[tuple[dict[str, Any], str]] = [
    ({"reasoning_effort": "none"}, "reasoning_effort"),
    ({"reasoning": {"effort": "none"}}, "reasoning_effort"),
    ({"reasoning": {"enabled": False}}, "reasoning"),
    ({"enable_thinking": False}, "enable_thinking"),
    ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
    ({"thinking": {"type": "disabled"}}, "thinking"),
]


@pytest.mark.parametrize(("fields", "param"), SWITCHED_OFF)
@pytest.mark.parametrize("trained", [True, False, None])
def test_a_model_that_always_thinks_does_not_pretend_otherwise(
    subject: Subject, fields: dict[str, Any], param: str, trained: bool | None
) -> None:
    subject.answers("Hm.\n</think>\n\nFine.", template="qwen3_thinking", enable_thinking=trained)
    error = subject.refusal(**fields)
    assert error["param"] == param
    assert "thinking_token_budget" in error["message"]
    assert subject.engine.requests == []
    # What the message advises, and an effort, are honoured.
    for served, budget in (({"thinking_token_budget": 0}, 0), ({"reasoning_effort": "low"}, 1024)):
        assert subject.message(**served)["content"] == "Fine."
        thinking = subject.engine.requests[-1].thinking
        assert thinking is not None
        assert thinking.budget == budget


def test_a_model_that_never_thinks_does_not_pretend_otherwise(subject: Subject) -> None:
    subject.answers("Fine.", template="qwen3_nothink", enable_thinking=False)
    for fields, param in (
        ({"enable_thinking": True}, "enable_thinking"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking"),
    ):
        assert subject.refusal(**fields)["param"] == param
    for fields in ({"reasoning_effort": "high"}, {"reasoning_effort": "none"}):
        assert subject.message(**fields)["content"] == "Fine."


def test_tokenize_shows_no_prompt_that_the_model_is_never_given(subject: Subject) -> None:
    subject.answers("Fine.", template="qwen3_thinking")
    body = {"messages": HELLO, "chat_template_kwargs": {"enable_thinking": False}}
    response = subject.client.post("/tokenize", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "chat_template_kwargs"


def test_names_of_one_wish_may_not_contradict_each_other(subject: Subject) -> None:
    subject.answers("Fine.")
    for fields, param in (
        ({"enable_thinking": True, "thinking": {"type": "disabled"}}, "thinking"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning_effort"),
    ):
        assert subject.refusal(**fields)["param"] == param


@pytest.mark.parametrize("form", [
    {"type": "json_object", "schema": {"type": "object"}},
    {"type": "json_schema", "schema": {"type": "object"}},
    {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
])  # fmt: skip
def test_a_schema_is_found_wherever_it_stands(subject: Subject, form: dict[str, Any]) -> None:
    subject.answers("{}").message(response_format=form)
    grammar = subject.engine.requests[0].sampling.grammar
    assert grammar is not None
    assert (grammar.kind, json.loads(grammar.source)["type"]) == ("json_schema", "object")


@pytest.mark.parametrize(
    ("choice", "must_call", "shown"),
    [
        ("any", True, {"weather", "time"}),
        ({"type": "auto"}, False, {"weather", "time"}),
        ({"type": "any"}, True, {"weather", "time"}),
        ({"type": "none"}, False, set()),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "time"}}],
                },
            },
            True,
            {"time"},
        ),
    ],
)
def test_a_choice_of_tools_in_other_words(
    subject: Subject, choice: Any, must_call: bool, shown: set[str]
) -> None:
    subject.answers("Fine.").message(tools=TOOLS, tool_choice=choice)
    request = subject.engine.requests[0]
    assert (request.sampling.grammar is not None) == must_call
    names = {name for name in ("weather", "time") if f'"name": "{name}"' in subject.prompt()}
    assert names == shown


@pytest.mark.parametrize("name", ["files/read", "mcp:search.web", "x" * 128])
def test_tools_may_have_the_names_of_servers_of_tools(subject: Subject, name: str) -> None:
    call = f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>'
    message = subject.answers(call).message(tools=[{"function": {"name": name}}])
    assert message["tool_calls"][0]["function"]["name"] == name


def test_usage_can_stand_in_every_chunk(subject: Subject) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, _done = subject.answers("Hello there").chunks(stream_options=options)
    written = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert written == sorted(written)
    assert len(set(written)) > 3
    assert chunks[-1]["choices"] == []
    prompt = {chunk["usage"]["prompt_tokens"] for chunk in chunks}
    assert prompt == {len(subject.engine.requests[0].prompt)}
    body = {"prompt": "a", "stream": True, "stream_options": {"continuous_usage_stats": True}}
    response = subject.client.post("/v1/completions", json=body)
    *chunks, _done = events_of(response.text)
    assert all(chunk["usage"]["prompt_tokens"] for chunk in chunks)


def test_defaults_that_are_written_out_ask_for_nothing(subject: Subject) -> None:
    """As the web page of llama.cpp and others write all that they have settings for."""
    defaults: dict[str, Any] = {
        "logprobs": False,
        "top_logprobs": 0,
        "tools": [],
        "tool_choice": "auto",
        "stop": [],
        "logit_bias": {},
        "response_format": {"type": "text"},
        "max_tokens": -1,
        "reasoning_format": "auto",
        "typ_p": 1,
        "xtc_probability": 0,
        "dry_multiplier": 0,
        "prompt_logprobs": None,
        "something_new": None,
    }
    response = subject.answers("Fine.").post(**defaults, xtc_threshold=0.1)
    assert response.status_code == 200, response.text
    assert response.headers["x-danlu-ignored"] == "xtc_threshold"


def test_options_of_a_stream_harm_no_answer_in_one_piece(subject: Subject) -> None:
    subject.answers("Fine.")
    assert subject.message(stream_options={"include_usage": True})["content"] == "Fine."
