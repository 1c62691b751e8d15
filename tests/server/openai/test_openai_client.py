"""OpenAI's own Python client against a real server: whatever it offers for these routes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel

from danlu.engine.request import Request
from danlu.server.state import Serving
from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.served import ScriptedEngine, application, running, served
from tests.helpers.waiting import wait_until

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Place(BaseModel):
    city: str
    people: int


class weather(BaseModel):
    city: str


def script(request: Request) -> str | Exception:
    """What the model answers, by the question's last word."""
    prompt = tokenizer().decode(request.prompt, skip_control=True)
    if request.sampling.grammar is not None:
        is_schema = request.sampling.grammar.kind == "json_schema"
        return '{"city": "北京", "people": 21893095}' if is_schema else WEATHER
    return f"<think>\nHm.\n</think>\n\n{WEATHER if '# Tools' in prompt else 'Hello 你好 🦊'}"


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Serving, str]]:
    engine = ScriptedEngine(tokenizer(), script)
    with (
        served(engine, num_seats=8, context_tokens=1500) as serving,
        running(application(serving)) as address,
    ):
        yield serving, address


@pytest.fixture
def client(place: tuple[Serving, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=place[1] + "/v1", api_key="-", max_retries=0) as subject:
        yield subject


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HELLO)  # type: ignore[arg-type]
    [choice] = answer.choices
    assert choice.message.content == "Hello 你好 🦊"
    assert choice.finish_reason == "stop"
    assert choice.message.reasoning == choice.message.reasoning_content == "Hm."  # type: ignore[attr-defined]
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens
    assert answer.usage.prompt_tokens_details is not None


def test_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="tiny",
        messages=HELLO,  # type: ignore[arg-type]
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hello 你好 🦊"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert not chunks[-1].choices


def test_stream_with_helpers(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="tiny",
        messages=HELLO,  # type: ignore[arg-type]
        tools=[openai.pydantic_function_tool(weather)],
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    [call] = final.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == weather(city="北京")
    assert final.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_tools(client: openai.OpenAI, stream: bool) -> None:
    for choice in ("auto", "required", {"type": "function", "function": {"name": "weather"}}):
        fields = {"model": "tiny", "messages": HELLO, "tools": [TOOL], "tool_choice": choice}
        if stream:
            chunks = list(client.chat.completions.create(**fields, stream=True))  # type: ignore[call-overload]
            [call] = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or []]
            assert chunks[-1].choices[0].finish_reason == "tool_calls"
        else:
            answer = client.chat.completions.create(**fields)  # type: ignore[call-overload]
            [call] = answer.choices[0].message.tool_calls
            assert answer.choices[0].finish_reason == "tool_calls"
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments) == {"city": "北京"}


def test_structured_parse(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="tiny",
        messages=HELLO,  # type: ignore[arg-type]
        response_format=Place,
    )
    assert answer.choices[0].message.parsed == Place(city="北京", people=21893095)


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=HELLO,  # type: ignore[arg-type]
        logprobs=True,
        top_logprobs=3,
    )
    assert answer.choices[0].logprobs is not None
    entries = answer.choices[0].logprobs.content or []
    raw = b"".join(bytes(entry.bytes or []) for entry in entries)
    assert raw.decode() == "<think>\nHm.\n</think>\n\nHello 你好 🦊"
    assert all(len(entry.top_logprobs) == 3 for entry in entries)
    assert entries[0].logprob == -0.25
    assert entries[0].top_logprobs[2].logprob == -9999.0


def test_logprobs_in_a_stream_are_the_same(client: openai.OpenAI) -> None:
    fields = {"model": "tiny", "messages": HELLO, "logprobs": True, "top_logprobs": 1}
    whole = client.chat.completions.create(**fields)  # type: ignore[call-overload]
    streamed = []
    for chunk in client.chat.completions.create(**fields, stream=True):  # type: ignore[call-overload]
        if chunk.choices[0].logprobs is not None:
            streamed += chunk.choices[0].logprobs.content
    assert streamed == whole.choices[0].logprobs.content


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="a", max_tokens=100, logprobs=2)
    assert answer.choices[0].text.endswith("Hello 你好 🦊")
    assert answer.choices[0].logprobs is not None
    stream = client.completions.create(model="tiny", prompt="a", max_tokens=100, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_errors_have_their_classes(client: openai.OpenAI, place: tuple[Serving, str]) -> None:
    def ask(**fields: object) -> None:
        client.chat.completions.create(**{"model": "tiny", "messages": HELLO, **fields})  # type: ignore[call-overload]

    with pytest.raises(openai.BadRequestError) as bad:
        ask(extra_body={"temprature": 1})
    assert bad.value.param == "temprature"
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as long:
        ask(messages=[{"role": "user", "content": "long " * 2000}])
    assert long.value.code == "context_length_exceeded"
    assert long.value.body["n_ctx"] == 1500  # type: ignore[index]
    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="gpt-4o")
    assert missing.value.code == "model_not_found"
    assert "tiny" in missing.value.message
    service = place[0].service
    assert service.reserve(8)
    with pytest.raises(openai.RateLimitError):
        ask()
    service.give_back(8)
    ask()


def test_a_client_that_stops_reading_frees_its_seat(
    client: openai.OpenAI, place: tuple[Serving, str]
) -> None:
    with client.chat.completions.create(
        model="tiny",
        messages=HELLO,  # type: ignore[arg-type]
        stream=True,
    ) as stream:
        next(iter(stream))
    wait_until(lambda: not place[0].service.num_seats_taken)


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # the client warns of its own field
def test_what_the_helpers_return_can_be_sent_back(client: openai.OpenAI) -> None:
    """The loop of every agent: the parsed message goes into the history as it is."""
    tools = [openai.pydantic_function_tool(weather)]
    with client.chat.completions.stream(
        model="tiny",
        messages=HELLO,  # type: ignore[arg-type]
        tools=tools,
    ) as stream:
        streamed = stream.get_final_completion().choices[0].message
    parsed = (
        client.chat.completions.parse(model="tiny", messages=HELLO, tools=tools)  # type: ignore[arg-type]
        .choices[0]
        .message
    )
    as_json = client.chat.completions.parse(
        model="tiny",
        messages=HELLO,  # type: ignore[arg-type]
        response_format=Place,
    )
    for message in (streamed, parsed, as_json.choices[0].message):
        history = [*HELLO, message, message.model_dump(warnings=False)]
        history += [
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
            for call in message.tool_calls or ()
        ]
        answer = client.chat.completions.create(model="tiny", messages=history)  # type: ignore[arg-type]
        assert answer.choices[0].message.content
