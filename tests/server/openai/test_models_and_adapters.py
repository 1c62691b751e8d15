"""Real answers of the tiny and the starter model: adapters, caching, streams of odd characters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from danlu.device.detect import select
from danlu.engine.engine import Engine
from danlu.engine.request import Request as EngineRequest
from danlu.engine.request import SamplingSettings
from danlu.hub.load import load_model
from danlu.hub.prompting import Prompting
from danlu.server.edge.keys import Keys
from danlu.server.lifecycle.app import create_app
from danlu.server.served_adapters import ServedAdapter
from danlu.server.settings import ServeSettings
from danlu.server.state import ServerState, Serving
from danlu.text.conversation import Conversation, Message
from danlu.text.render import render
from tests.helpers.models.tiny_engine import alone, random_adapter, text_of, tokenizer
from tests.helpers.serving.served import ScriptedEngine, client_for, served
from tests.helpers.serving.sse import events_of, whole_chat

HELLO = {"messages": [{"role": "user", "content": "Hello 你好"}], "max_tokens": 12}
CHAT = "/v1/chat/completions"
ODD = "一二🦊👩‍👩‍👧‍👦é\u0301 \u00a0ﷺ𝔘 </thin <tool_ca\n\nend\n"


def adapters() -> dict[str, ServedAdapter]:
    promptings = {
        "plain": Prompting(),
        "quick": Prompting(enable_thinking=False),
        "old": Prompting(template="qwen3_nothink", enable_thinking=None),
    }
    return {
        name: ServedAdapter(folder=Path(name), adapter=random_adapter(seed), prompting=prompting)
        for seed, (name, prompting) in enumerate(promptings.items())
    }


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    with served(adapters=adapters()) as subject:
        yield subject


@pytest.fixture(scope="module")
def client(serving: Serving) -> TestClient:
    return client_for(serving)


@pytest.mark.parametrize("name", ["tiny", "plain", "quick", "old"])
def test_every_name_answers_as_it_was_trained(
    client: TestClient, serving: Serving, name: str
) -> None:
    body = client.post(CHAT, json={**HELLO, "model": name}).json()
    served_adapter = serving.adapters.get(name)
    prompting = served_adapter.prompting if served_adapter else Prompting()
    conversation = Conversation(messages=(Message(role="user", content="Hello 你好"),))
    spans = render(
        conversation, template=prompting.template, enable_thinking=prompting.enable_thinking
    )
    request = EngineRequest(
        prompt=tuple(tokenizer().encode_spans(spans)),
        sampling=SamplingSettings(temperature=0.0, max_tokens=12),
        adapter=served_adapter.adapter if served_adapter else None,
        end_token_ids=serving.assistant.dialog.end_token_ids,
    )
    assert body["model"] == name
    assert body["usage"]["prompt_tokens"] == len(request.prompt)
    message = body["choices"][0]["message"]
    text = text_of(alone(request)).strip("\n")
    assert (message["content"] or "") + (message["reasoning"] or "") in text


def test_the_names_there_are_stand_in_the_error(client: TestClient) -> None:
    response = client.post(CHAT, json={**HELLO, "model": "nobody"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "model_not_found"
    assert error["message"].endswith("tiny, old, plain, quick.")


def test_what_was_computed_already_is_counted(client: TestClient) -> None:
    question = {"messages": [{"role": "user", "content": "tell me " * 40}], "max_tokens": 2}
    details = [
        client.post(CHAT, json=question).json()["usage"]["prompt_tokens_details"] for _ in range(2)
    ]
    assert details[0]["cached_tokens"] < details[1]["cached_tokens"]
    choices = {**question, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    usage = events_of(client.post(CHAT, json=choices).text)[-2]["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= details[1]["cached_tokens"]
    assert usage["completion_tokens"] <= 4


@pytest.mark.parametrize("model", ["tiny", "quick"])
def test_one_key_cannot_learn_what_another_has_asked(serving: Serving, model: str) -> None:
    app = create_app(ServerState.of(ServeSettings(), serving), keys=Keys.of(["one", "two"]))
    keyed = TestClient(app, base_url="http://127.0.0.1")
    secret = {
        "messages": [{"role": "user", "content": "my password is " * 30}],
        "max_tokens": 1,
        "model": model,
    }

    def cached(key: str) -> int:
        headers = {"authorization": f"Bearer {key}"}
        usage = keyed.post(CHAT, json=secret, headers=headers).json()["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert cached("one") == 0
    assert cached("one") > 0
    assert cached("two") == 0
    assert cached("two") > 0


def test_the_models_own_sampling_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(tokenizer(), lambda _request: "Fine.")
    own = SamplingSettings(temperature=0.6, top_p=0.95, top_k=20)
    with served(engine, defaults=own) as serving:
        serving.defaults = {True: own, False: replace(own, temperature=0.7, top_p=0.8)}
        client = client_for(serving)
        client.post(CHAT, json=HELLO)
        client.post(CHAT, json={**HELLO, "chat_template_kwargs": {"enable_thinking": False}})
        client.post("/v1/completions", json={"prompt": "a", "top_k": -1, "max_tokens": 12})
        given: dict[str, Any] = {
            "temperature": 0.1,
            "top_p": 0.2,
            "top_k": 3,
            "min_p": 0.4,
            "repetition_penalty": 1.5,
            "presence_penalty": 0.6,
            "frequency_penalty": -0.7,
            "min_tokens": 2,
            "ignore_eos": True,
            "seed": 9,
        }
        more = {"logit_bias": {"5": -3}, "stop": ["x", "y"], "stop_token_ids": [7, 8]}
        client.post(CHAT, json={**HELLO, **given, **more})
        client.post(CHAT, json={**HELLO, "temperature": None, "stop": None, "seed": -1})
    settings = [request.sampling for request in engine.requests]
    base = replace(own, max_tokens=12)
    quick = replace(base, temperature=0.7, top_p=0.8)
    odd = {"logit_bias": ((5, -3.0),), "stop": ("x", "y"), "stop_token_ids": frozenset({7, 8})}
    assert settings == [
        base,
        quick,
        replace(quick, top_k=0),
        replace(base, **given, **odd),  # type: ignore[arg-type]
        replace(base, seed=2**63 - 1),
    ]


@pytest.fixture(scope="module")
def starter() -> Iterator[TestClient]:
    loaded = load_model("starter", device=select("cpu"))
    engine = Engine(loaded.model, loaded.tokenizer, cache_tokens=4096)
    with served(engine, loaded=loaded) as serving:
        yield client_for(serving)


@pytest.mark.parametrize("content", ["你是谁？", "Write 🦊 and 你好.", "What is 2 + 3?"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_stream_of_the_starter_equals_its_answer(
    starter: TestClient, content: str, temperature: float
) -> None:
    """High temperature: tokens that are halves of characters, tags in odd places."""
    body = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 60,
        "temperature": temperature,
        "seed": 3,
    }
    whole = starter.post(CHAT, json=body).json()["choices"][0]
    streamed = whole_chat(events_of(starter.post(CHAT, json={**body, "stream": True}).text)[:-1])[0]
    assert streamed["content"] == (whole["message"]["content"] or "")
    assert streamed.get("reasoning") == whole["message"]["reasoning"]
    assert streamed["finish_reason"] == whole["finish_reason"]


@pytest.mark.parametrize("cut", range(0, len(ODD.encode()), 3))
def test_characters_are_never_cut_in_a_stream(cut: int) -> None:
    """Byte by byte through the tokenizer, ended by a token limit at any place."""
    text = ODD[: max(1, cut // 2)]
    engine = ScriptedEngine(tokenizer(), lambda _request: f"<think>\n{text}\n</think>\n\n{text}")
    with served(engine) as serving:
        client = client_for(serving)
        body = {**HELLO, "max_tokens": 1000}
        response = client.post(CHAT, json={**body, "stream": True})
        message = client.post(CHAT, json=body).json()["choices"][0]["message"]
    assert "\ufffd" not in response.text
    streamed = whole_chat(events_of(response.text)[:-1])[0]
    assert streamed["content"] == message["content"] == text.strip("\n")
    assert streamed.get("reasoning") == message["reasoning"]
