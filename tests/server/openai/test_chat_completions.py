"""The chat route over answers that are known: messages, streams, reasoning, calls, usage."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.testclient import TestClient

from danlu.engine.request import Request as EngineRequest
from danlu.server.openai import respond
from danlu.server.state import Serving
from danlu.text.conversation import Conversation, Message, ToolCall
from danlu.text.render import render
from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.served import ScriptedEngine, client_for, recorded, served
from tests.helpers.serving.sse import DONE, events_of, whole_chat
from tests.helpers.waiting import PATIENCE_S

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
OTHER_CALL = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
HELLO = [{"role": "user", "content": "Hello"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "It tells.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "time")
]


class Subject:
    """A server whose model answers as told."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.serving: Serving
        self.engine: ScriptedEngine
        self.client: TestClient

    def answers(
        self, text: str | Exception | Callable[[EngineRequest], str | Exception], **settings: Any
    ) -> Subject:
        script = text if callable(text) else lambda _request: text
        self.engine = ScriptedEngine(tokenizer(), script)
        self.serving = self._stack.enter_context(served(self.engine, **settings))
        self.client = client_for(self.serving)
        return self

    def post(self, **fields: Any) -> Any:
        # As ASCII, for half characters, which the client itself would refuse to send.
        body = json.dumps({"messages": HELLO, **fields})
        headers = {"content-type": "application/json"}
        return self.client.post("/v1/chat/completions", content=body, headers=headers)

    def message(self, **fields: Any) -> dict[str, Any]:
        response = self.post(**fields)
        assert response.status_code == 200, response.text
        choice: dict[str, Any] = response.json()["choices"][0]
        return choice["message"] | {"finish_reason": choice["finish_reason"]}

    def chunks(self, **fields: Any) -> list[Any]:
        response = self.post(stream=True, **fields)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return events_of(response.text)

    def refusal(self, status: int = 400, **fields: Any) -> dict[str, Any]:
        response = self.post(**fields)
        assert response.status_code == status, response.text
        error: dict[str, Any] = response.json()["error"]
        assert error.keys() >= {"message", "type", "param", "code"}
        return error

    def prompt(self) -> str:
        """The prompt that the engine was given last, as text."""
        return tokenizer().decode(self.engine.requests[-1].prompt, skip_control=False)


@pytest.fixture
def subject() -> Iterator[Subject]:
    with ExitStack() as stack:
        yield Subject(stack)


def test_an_answer_in_one_piece(subject: Subject) -> None:
    body = subject.answers("<think>\nHm.\n</think>\n\nHello 你好 🦊").post(model="tiny").json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "tiny"
    [choice] = body["choices"]
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": "Hello 你好 🦊",
            "refusal": None,
            "reasoning": "Hm.",
            "reasoning_content": "Hm.",
        },
        "logprobs": None,
        "finish_reason": "stop",
    }
    usage = body["usage"]
    assert usage["prompt_tokens"] == len(subject.engine.requests[0].prompt)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
    thought = tokenizer().encode_text("<think>\nHm.\n</think>")
    assert usage["completion_tokens_details"] == {"reasoning_tokens": len(thought)}
    assert subject.serving.service.num_seats_taken == 0


def test_a_stream_has_the_form_that_clients_expect(subject: Subject) -> None:
    subject.answers("<think>\nHm.\n</think>\n\nHello 你好 🦊")
    *chunks, done = subject.chunks(stream_options={"include_usage": True})
    assert done == DONE
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("role" not in c["choices"][0]["delta"] for c in chunks[1:-1])
    last = chunks[-2]["choices"][0]
    assert last["delta"] == {}
    assert last["finish_reason"] == "stop"
    assert all(c["choices"][0]["finish_reason"] is None for c in chunks[:-2])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert len(chunks) > 8
    message = whole_chat(chunks)[0]
    assert message["content"] == "Hello 你好 🦊"
    assert message["reasoning"] == message["reasoning_content"] == "Hm."


def test_a_stream_without_usage_does_not_speak_of_it(subject: Subject) -> None:
    *chunks, _done = subject.answers("Hello").chunks()
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_line_ends_in_an_answer_do_not_end_an_event(subject: Subject) -> None:
    text = "a\u2028b\x85c\rd\n\ne\u2029f"
    response = subject.answers(text, enable_thinking=False).post(stream=True)
    assert all(line == "" or line.startswith("data: ") for line in response.text.splitlines())
    assert whole_chat(events_of(response.text)[:-1])[0]["content"] == text


def test_calls_are_found_whole_and_streamed(subject: Subject) -> None:
    subject.answers(f"<think>\nHm.\n</think>\n\nI look.\n{CALL}\n{OTHER_CALL}")
    message = subject.message(tools=TOOLS)
    assert message["finish_reason"] == "tool_calls"
    assert message["content"] == "I look."
    functions = [call["function"] for call in message["tool_calls"]]
    assert functions == [
        {"name": "weather", "arguments": '{"city": "北京"}'},
        {"name": "time", "arguments": "{}"},
    ]
    ids = [call["id"] for call in message["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(name.startswith("call_") for name in ids)
    streamed = whole_chat(subject.chunks(tools=TOOLS)[:-1])[0]
    assert streamed["finish_reason"] == "tool_calls"
    assert streamed["content"] == "I look."
    assert [call["function"] for call in streamed["tool_calls"]] == functions
    assert [call["index"] for call in streamed["tool_calls"]] == [0, 1]


def test_a_message_that_only_calls_has_no_content(subject: Subject) -> None:
    message = subject.answers(CALL).message(tools=TOOLS)
    assert message["content"] is None
    assert len(message["tool_calls"]) == 1


def test_a_tag_in_a_thought_calls_nothing(subject: Subject) -> None:
    subject.answers(f"<think>\nI could write {CALL}\n</think>\n\nNo.")
    message = subject.message(tools=TOOLS)
    assert "tool_calls" not in message
    assert message["finish_reason"] == "stop"
    assert message["reasoning"] == f"I could write {CALL}"
    assert message["content"] == "No."


@pytest.mark.parametrize("fields", [{}, {"tools": TOOLS, "tool_choice": "none"}])
def test_without_tools_a_call_is_text(subject: Subject, fields: dict[str, Any]) -> None:
    subject.answers(f"Like this:\n{CALL}")
    message = subject.message(**fields)
    assert message["content"] == f"Like this:\n{CALL}"
    assert message["finish_reason"] == "stop"
    assert "# Tools" not in subject.prompt()
    assert whole_chat(subject.chunks(**fields)[:-1])[0]["content"] == f"Like this:\n{CALL}"


def test_at_most_one_call_where_only_one_is_wanted(subject: Subject) -> None:
    rest = "And much more text that nobody will read." * 20
    subject.answers(f"{CALL}\n{OTHER_CALL}\n{rest}").engine.step_seconds = 0.002
    message = subject.message(tools=TOOLS, parallel_tool_calls=False)
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather"]
    assert message["finish_reason"] == "tool_calls"
    assert message["content"] is None
    streamed = whole_chat(subject.chunks(tools=TOOLS, parallel_tool_calls=False)[:-1])[0]
    assert len(streamed["tool_calls"]) == 1
    assert streamed["finish_reason"] == "tool_calls"
    written = [finished[2] for finished in recorded(subject.client.app).finished]
    assert max(written) < len(tokenizer().encode_text(CALL + OTHER_CALL + rest)) / 2
    assert subject.serving.service.num_seats_taken == 0


def test_an_answer_that_is_cut_off_says_so(subject: Subject) -> None:
    subject.answers("Hello there, how are you?", enable_thinking=False)
    assert subject.message(max_tokens=3)["finish_reason"] == "length"
    assert subject.message(max_completion_tokens=3, max_tokens=500)["finish_reason"] == "length"
    message = subject.message(stop=", how")
    assert message["content"] == "Hello there"
    assert message["finish_reason"] == "stop"


def test_several_choices_share_their_prompt(subject: Subject) -> None:
    subject.answers(lambda request: f"I am {request.sampling.seed}")
    body = subject.post(n=3, seed=5).json()
    contents = [choice["message"]["content"] for choice in body["choices"]]
    assert contents == ["I am 5", "I am 6", "I am 7"]
    assert body["usage"]["prompt_tokens"] == len(subject.engine.requests[0].prompt)
    messages = whole_chat(subject.chunks(n=3, seed=2**63 - 1)[:-1])
    assert [messages[i]["content"] for i in range(3)] == [f"I am {2**63 - 1}", "I am 0", "I am 1"]


def test_the_model_is_shown_the_conversation_as_it_was_trained(subject: Subject) -> None:
    subject.answers("Fine.")
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Two calls.",
            "tool_calls": [
                {
                    "id": name,
                    "type": "function",
                    "function": {"name": name, "arguments": '{"city":"北京"}'},
                }
                for name in ("weather", "time")
            ],
        },
        {"role": "tool", "tool_call_id": "time", "content": "noon"},
        {"role": "tool", "tool_call_id": "weather", "content": "sunny"},
    ]
    subject.message(messages=messages, tools=TOOLS)
    calls = tuple(ToolCall(name=n, arguments={"city": "北京"}) for n in ("weather", "time"))
    expected = Conversation(
        messages=(
            Message(role="system", content="Be kind."),
            Message(role="user", content="a\nb"),
            Message(role="assistant", reasoning="Two calls.", tool_calls=calls),
            Message(role="tool", content="sunny"),
            Message(role="tool", content="noon"),
        ),
        tools=TOOLS,
    )
    spans = render(expected, template="qwen3", enable_thinking=True)
    assert subject.engine.requests[0].prompt == tuple(tokenizer().encode_spans(spans))


def test_what_was_answered_can_be_sent_back(subject: Subject) -> None:
    """Clients put the message they got into the history, with every field it has."""
    subject.answers(f"<think>\nHm.\n</think>\n\nI look.\n{CALL}")
    answer = subject.message(tools=TOOLS)
    del answer["finish_reason"]
    result = {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": "sunny"}
    empty = {"annotations": [], "audio": None, "function_call": None}
    subject.message(messages=[*HELLO, answer | empty, result], tools=TOOLS)
    assert f"<think>\nHm.\n</think>\n\nI look.\n{CALL}<|im_end|>" in subject.prompt()


def test_names_of_control_tokens_in_a_message_stay_text(subject: Subject) -> None:
    subject.answers("Fine.").message(messages=[{"role": "user", "content": "<|im_end|>"}])
    prompt = list(subject.engine.requests[0].prompt)
    assert prompt.count(tokenizer().control_id("<|im_end|>")) == 1
    assert "<|im_end|><|im_end|>" in subject.prompt()


def test_thinking_is_switched_by_template_and_by_effort(subject: Subject) -> None:
    subject.answers("Fine.")
    no_thought = "assistant\n<think>\n\n</think>\n\n"
    for fields, thinks, budget in (
        ({}, True, None),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False, None),
        ({"reasoning_effort": "none"}, False, None),
        ({"reasoning_effort": "minimal"}, True, 512),
        ({"reasoning_effort": "high"}, True, None),
        ({"thinking_token_budget": 7}, True, 7),
        ({"reasoning_effort": "low", "thinking_token_budget": 7}, True, 7),
    ):
        subject.message(**fields)
        assert subject.prompt().endswith(no_thought) != thinks, fields
        thinking = subject.engine.requests[-1].thinking
        assert (thinking is not None) == thinks
        assert not thinking or thinking.budget == budget
    error = subject.refusal(reasoning_effort="none", chat_template_kwargs={"enable_thinking": True})
    assert error["param"] == "reasoning_effort"


def test_a_stream_shows_that_it_lives(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    waited, real = threading.Semaphore(0), respond._next_chunks

    async def noted(*words: Any) -> Any:
        chunks = await real(*words)
        if chunks is None:
            waited.release()
        return chunks

    def slow(_request: EngineRequest) -> str:
        assert all(waited.acquire(timeout=PATIENCE_S) for _comment in range(4))
        return "Hello"

    monkeypatch.setattr(respond, "COMMENT_SECONDS", 0.01)
    monkeypatch.setattr(respond, "_next_chunks", noted)

    body = subject.answers(slow).post(stream=True).text
    assert body.count(": keep-alive\n\n") > 2
    assert whole_chat(events_of(body)[:-1])[0]["content"] == "Hello"


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
AS_TEXT = json.dumps(SCHEMA)


@pytest.mark.parametrize(
    ("fields", "kind", "source"),
    [
        ({"response_format": {"type": "text"}}, None, ""),
        ({"response_format": {"type": "json_object"}}, "json_object", ""),
        ({"response_format": {"type": "json_object", "schema": {}}}, "json_object", ""),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": SCHEMA, "strict": True},
                }
            },
            "json_schema",
            AS_TEXT,
        ),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", AS_TEXT),
        ({"structured_outputs": {"json": AS_TEXT}}, "json_schema", AS_TEXT),
        ({"structured_outputs": {"json_object": True}}, "json_object", ""),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", '["a", "b"]'),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, "lark", 'start: "a"'),
        ({"guided_json": SCHEMA}, "json_schema", AS_TEXT),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"guided_choice": ["a", "b"]}, "choice", '["a", "b"]'),
        ({"guided_grammar": 'start: "a"'}, "lark", 'start: "a"'),
    ],
)
def test_what_an_answer_must_look_like_reaches_the_engine(
    subject: Subject, fields: dict[str, Any], kind: str | None, source: str
) -> None:
    subject.answers("Fine.").message(**fields)
    grammar = subject.engine.requests[0].sampling.grammar
    assert (grammar and grammar.kind) == kind
    found = grammar.source if grammar else ""
    if kind == "json_schema":
        schema = json.loads(found)
        assert schema.pop("x-guidance")["coerce_one_of"] is True
        found = json.dumps(schema)
    assert found == source


@pytest.mark.parametrize(
    ("fields", "rules"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, None),
        ({"tool_choice": "none", "guided_regex": "a"}, "a"),
        ({"tool_choice": "required"}, 'start: call ("\\n" call)*'),
        ({"tool_choice": "required", "parallel_tool_calls": False}, "start: call"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "time"}}},
            "start: call",
        ),
        (
            {"response_format": {"type": "json_object"}},
            'start: call ("\\n" call)* | answer',
        ),
    ],
)
def test_calls_that_are_wanted_are_made_sure_of(
    subject: Subject, fields: dict[str, Any], rules: str | None
) -> None:
    subject.answers(OTHER_CALL).message(tools=TOOLS, **fields)
    grammar = subject.engine.requests[0].sampling.grammar
    assert (grammar.source.split("\n")[0] if grammar else None) == rules
    if isinstance(fields.get("tool_choice"), dict):
        assert grammar is not None
        assert "weather" not in grammar.source


def test_fields_that_change_nothing_are_listed(subject: Subject) -> None:
    subject.answers("Fine.")
    response = subject.post(
        store=True,
        metadata={"a": "b"},
        service_tier=None,
        user="me",
        messages=[{"role": "user", "content": "Hello", "name": "Ann"}],
    )
    assert response.status_code == 200
    assert response.headers["x-danlu-ignored"] == "metadata, store, messages.name"
    assert "x-danlu-ignored" not in subject.post().headers
    assert subject.post(stream=True, store=True).headers["x-danlu-ignored"] == "store"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temprature": 1}, "temprature"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"n": 9}, "n"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "x" * 257}, "stop[0]"),
        ({"stop": ""}, "stop[0]"),
        ({"logit_bias": {"1": 200}}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2, "min_tokens": 3}, "min_tokens"),
        ({"functions": [{}]}, "functions"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
        ({"tools": TOOLS * 65}, "tools"),
        ({"messages": []}, "messages"),
        ({"messages": HELLO * 1025}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "a", "reasoning": "b"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"guided_json": "no json"}, "guided_json"),
        ({"tools": TOOLS, "guided_regex": "a"}, "tools"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    subject: Subject, fields: dict[str, Any], param: str
) -> None:
    assert subject.answers("Fine.").refusal(**fields)["param"] == param
    assert not subject.engine.requests
    assert subject.serving.service.num_seats_taken == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"top_logprobs": 3},
        {"tool_choice": "required"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": TOOLS + TOOLS},
    ],
)
def test_fields_that_need_others_say_so(subject: Subject, fields: dict[str, Any]) -> None:
    message = subject.answers("Fine.").refusal(**fields)["message"]
    assert next(iter(fields)) in message


def test_too_long_is_refused_with_numbers(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject.answers("Fine.", context_tokens=100).message()
    length = len(subject.engine.requests[0].prompt)
    assert subject.engine.requests[0].sampling.max_tokens == 100 - length
    subject.message(max_tokens=100 - length)
    error = subject.refusal(max_tokens=101 - length)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    assert error["n_prompt_tokens"] == length
    assert error["n_ctx"] == 100
    error = subject.refusal(messages=[{"role": "user", "content": "long " * 1000}], stream=True)
    assert error["code"] == "context_length_exceeded"
    assert error["n_prompt_tokens"] > 1000
    # The words by which LiteLLM and aider tell this error from others, whatever the language.
    monkeypatch.setenv("DANLU_LANG", "zh")
    error = subject.refusal(messages=[{"role": "user", "content": "long " * 1000}])
    assert "maximum context length is 100 tokens. However," in error["message"]
    assert subject.serving.service.num_seats_taken == 0
