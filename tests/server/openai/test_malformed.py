"""Bodies as nobody should send them: refused in OpenAI's shape, or served; none does harm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from danlu.engine.engine import Engine
from tests.helpers.figures import figure
from tests.helpers.serving.served import client_for, served, tiny_loaded

FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "a"},
            {
                "role": "assistant",
                "content": None,
                "reasoning": "Hm.",
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "ok"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "max_tokens": 2,
        "max_completion_tokens": 2,
        "min_tokens": 0,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "n": 2,
        "seed": 1,
        "stop": ["x"],
        "stop_token_ids": [3],
        "logit_bias": {"5": 1.0},
        "logprobs": True,
        "top_logprobs": 2,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1,
        "repetition_penalty": 1.1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "response_format": {"type": "text"},
        "chat_template_kwargs": {"enable_thinking": False},
        "reasoning_effort": "none",
        "thinking_token_budget": 3,
        "user": "me",
        "metadata": {},
    },
    "/v1/completions": {
        "model": "tiny",
        "prompt": ["a", "b"],
        "max_tokens": 2,
        "echo": False,
        "logprobs": 1,
        "n": 1,
        "best_of": 1,
        "stop": None,
        "structured_outputs": None,
    },
    "/tokenize": {
        "model": "tiny",
        "messages": [{"role": "user", "content": "a"}],
        "tools": [{"type": "function", "function": FUNCTION}],
        "add_generation_prompt": True,
        "return_token_strs": True,
    },
    "/detokenize": {"model": "tiny", "tokens": [1, 2, 3]},
}


def nested(depth: int) -> Any:
    """A list in a list, so many times."""
    value: Any = []
    for _level in range(depth):
        value = [value]
    return value


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400, -1, 0, 1e308, float("inf")]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["\ud800", "a\udfffb", "\x00", "x" * 5000, "<|im_end|>", "{}", "auto"]),
    st.recursive(
        st.none() | st.text(max_size=5) | st.integers(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
    st.integers(min_value=1, max_value=200).map(nested),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a body that something can be done to."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """A route, and a good body for it after one to three changes."""
    route = draw(st.sampled_from(sorted(GOOD)))
    body = deepcopy(GOOD[route])
    for _change in range(draw(st.integers(min_value=1, max_value=3))):
        change(draw, body)
    text = json.dumps(body).encode()
    kind = draw(st.sampled_from(["whole"] * 8 + ["cut", "flipped", "utf-16", "twice"]))
    if kind == "cut":
        text = text[: draw(st.integers(min_value=0, max_value=len(text)))]
    elif kind == "flipped":
        place = draw(st.integers(min_value=0, max_value=len(text) - 1))
        text = text[:place] + bytes([draw(st.integers(0, 255))]) + text[place + 1 :]
    elif kind == "utf-16":
        text = text.decode().encode("utf-16")
    elif kind == "twice":
        text = b'{"model": 1, ' + text[1:]
    return route, text


def change(draw: st.DrawFn, body: dict[str, Any]) -> None:
    """Replace, remove or add something anywhere in a body."""
    path = draw(st.sampled_from(list(places(body)) or [("model",)]))
    parent: Any = body
    for step in path[:-1]:
        parent = parent[step]
    kind = draw(st.sampled_from(["replace"] * 4 + ["remove", "add", "multiply"]))
    if kind == "remove" and path[-1] in (parent if isinstance(parent, dict) else ()):
        del parent[path[-1]]
    elif kind == "add" and isinstance(parent, dict):
        parent[draw(st.text(max_size=8))] = draw(junk)
    elif kind == "multiply" and isinstance(parent, list) and len(parent) < 10:
        parent *= draw(st.integers(min_value=2, max_value=1100))
    else:
        parent[path[-1]] = draw(junk)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    loaded = tiny_loaded()
    engine = Engine(loaded.model, loaded.tokenizer, cache_tokens=8192)
    with served(engine, loaded=loaded, context_tokens=600) as serving:
        yield client_for(serving)


@pytest.mark.parametrize(
    "count", [400, pytest.param(20_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_malformed_bodies(client: TestClient, count: int) -> None:
    question = {"prompt": "The fox", "max_tokens": 6}
    expected = client.post("/v1/completions", json=question).json()["choices"]
    seen: list[int] = []

    @settings(max_examples=count, suppress_health_check=list(HealthCheck), database=None)
    @given(bodies())
    def check(case: tuple[str, bytes]) -> None:
        route, text = case
        response = client.post(route, content=text, headers={"content-type": "application/json"})
        seen.append(response.status_code)
        assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
        if response.status_code != 200:
            error = response.json()["error"]
            assert error.keys() >= {"message", "type", "param", "code"}
            assert isinstance(error["message"], str)
        if len(seen) % 20 == 0:
            assert client.post("/v1/completions", json=question).json()["choices"] == expected

    check()
    assert 0 < seen.count(200) < len(seen) * 0.7  # they are malformed, but not beyond recognition
    figure("malformed bodies refused or served", len(seen))
