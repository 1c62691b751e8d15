"""The completions route: prompts of every kind, echo, log probabilities, streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from danlu.engine.request import Request, SamplingSettings
from danlu.server.state import Serving
from tests.helpers.models import tiny_engine
from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.served import ScriptedEngine, client_for, served
from tests.helpers.serving.sse import DONE, events_of


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    with served() as subject:
        yield subject


@pytest.fixture(scope="module")
def client(serving: Serving) -> TestClient:
    return client_for(serving)


def post(client: TestClient, status: int = 200, **fields: Any) -> Any:
    response = client.post("/v1/completions", json={"max_tokens": 12, **fields})
    assert response.status_code == status, response.text
    return response.json()


def refused(client: TestClient, **fields: Any) -> Any:
    # As ASCII, for half characters, which the client itself would refuse to send.
    body = json.dumps({"max_tokens": 12, **fields})
    headers = {"content-type": "application/json"}
    response = client.post("/v1/completions", content=body, headers=headers)
    assert response.status_code == 400, response.text
    return response.json()


def reference(prompt: list[int]) -> tuple[list[int], str]:
    """What the engine gives alone."""
    sampling = SamplingSettings(temperature=0.0, max_tokens=12)
    ends = frozenset({tokenizer().control_id("<|im_end|>")})
    request = Request(prompt=tuple(prompt), sampling=sampling, end_token_ids=ends)
    outputs = tiny_engine.alone(request)
    return tiny_engine.tokens_of(outputs), tiny_engine.text_of(outputs)


def test_prompts_as_text_and_as_ids_are_continued(client: TestClient) -> None:
    texts = ["The fox", "你好 🦊"]
    ids = [tokenizer().encode_text(text) for text in texts]
    expected = [reference(prompt)[1] for prompt in ids]
    for prompt in (texts, ids):
        body = post(client, prompt=prompt)
        assert [choice["text"] for choice in body["choices"]] == expected
        assert body["usage"]["prompt_tokens"] == sum(map(len, ids))
    for single in (texts[0], ids[0]):
        body = post(client, prompt=single)
        assert [choice["text"] for choice in body["choices"]] == expected[:1]
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")


def test_a_stream_brings_the_same(client: TestClient) -> None:
    fields = {"prompt": ["The fox", "你好"], "n": 2, "echo": True, "max_tokens": 12}
    whole = client.post("/v1/completions", json=fields).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = client.post("/v1/completions", json=fields | options)
    *chunks, done = events_of(response.text)
    assert done == DONE
    assert chunks[-1]["choices"] == []
    texts: dict[int, str] = {}
    for chunk in chunks[:-1]:
        [choice] = chunk["choices"]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert [choice["text"] for choice in whole["choices"]] == [texts[i] for i in range(4)]
    assert texts[0].startswith("The fox")
    assert texts[3].startswith("你好")
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert chunks[-1]["usage"][name] == whole["usage"][name]


def test_log_probabilities_stand_beside_their_tokens() -> None:
    text = "The 好🦊 fox"
    scripted = ScriptedEngine(tokenizer(), lambda _request: text)
    with served(scripted) as serving:
        client = client_for(serving)
        bodies = [post(client, prompt="a", max_tokens=100, logprobs=n) for n in (0, 3)]
        streamed = client.post(
            "/v1/completions",
            json={"prompt": "a", "max_tokens": 100, "logprobs": 3, "stream": True},
        )
    plain, lists = (body["choices"][0]["logprobs"] for body in bodies)
    ids = tokenizer().encode_text(text)
    assert lists["token_logprobs"] == [-0.25] * len(ids)  # none for the end token
    assert plain["top_logprobs"] == [{}] * len(ids)
    assert [top[token] for token, top in zip(lists["tokens"], lists["top_logprobs"], strict=True)]
    assert -9999.0 in lists["top_logprobs"][0].values()
    whole = text.encode()
    for token, offset, id_ in zip(lists["tokens"], lists["text_offset"], ids, strict=True):
        raw = tokenizer().token_bytes(id_)
        assert token == raw.decode("utf-8", "replace") or token.startswith("bytes:\\x")
        assert (
            len(
                whole[: sum(map(len, map(tokenizer().token_bytes, ids[: ids.index(id_)])))].decode(
                    errors="ignore"
                )
            )
            == offset
        )
    joined: dict[str, list[Any]] = {name: [] for name in lists}
    for chunk in events_of(streamed.text)[:-1]:
        for name, values in chunk["choices"][0]["logprobs"].items():
            joined[name] += values
    assert joined == lists


@pytest.mark.parametrize("prompt", ["The fox 你好 🦊 <|im jumps", [33, 34, 35], "T"])
@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_the_prompt_has_log_probabilities_too(
    client: TestClient, prompt: str | list[int], max_tokens: int
) -> None:
    """What programs such as lm-eval sum up to compare endings of a text."""
    fields = {"prompt": prompt, "max_tokens": max_tokens, "echo": True, "logprobs": 2}
    body = post(client, **fields, temperature=0)
    [choice] = body["choices"]
    ids = tokenizer().encode_text(prompt) if isinstance(prompt, str) else prompt
    shown = tokenizer().decode(ids)
    lists = choice["logprobs"]
    assert choice["text"].startswith(shown)
    assert {len(values) for values in lists.values()} == {len(ids) + max_tokens}
    assert body["usage"]["completion_tokens"] == max_tokens
    assert choice["finish_reason"] == "length"
    assert (choice["text"] == shown) == (max_tokens == 0)
    answer = reference(ids)[0][:max_tokens]
    request = Request(
        prompt=(*ids, *answer),
        sampling=SamplingSettings(temperature=0.0, max_tokens=1),
        prompt_logprobs=2,
    )
    entries = [e for output in tiny_engine.alone(request) for e in output.prompt_logprobs]
    assert lists["token_logprobs"][0] is lists["top_logprobs"][0] is None
    assert lists["token_logprobs"][1:] == pytest.approx([e.logprob for e in entries], abs=1e-4)
    for token, top, entry in zip(
        lists["tokens"][1:], lists["top_logprobs"][1:], entries, strict=True
    ):
        is_likeliest = entry.token == entry.top[0][0]
        assert (max(top, key=top.get) == token) == is_likeliest
    assert lists["text_offset"][0] == 0
    assert lists["text_offset"][: len(ids)] == sorted(lists["text_offset"][: len(ids)])
    streamed = events_of(client.post("/v1/completions", json=fields | {"stream": True}).text)
    joined: dict[str, list[Any]] = {name: [] for name in lists}
    text = ""
    for chunk in streamed[:-1]:
        text += chunk["choices"][0]["text"]
        for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
            joined[name] += values
    assert text == choice["text"]
    assert joined["tokens"] == lists["tokens"]
    assert joined["token_logprobs"][1:] == pytest.approx(lists["token_logprobs"][1:], abs=1e-4)


def test_a_control_token_is_not_measured_as_letters(client: TestClient) -> None:
    """As lm-eval's rolling tasks with tokenized_requests=False begin each text."""
    prompt = "<|im_end|>The fox jumps"
    for asked in (prompt, ["The fox", prompt]):
        error = refused(client, prompt=asked, max_tokens=1, echo=True, logprobs=1)["error"]
        assert error["param"] == "prompt"
        assert "<|im_end|>" in error["message"]
        assert "tokenized_requests=True" in error["message"]
    # In a text that is continued its name is text, as anywhere.
    post(client, prompt=prompt, echo=True)
    post(client, prompt=prompt, logprobs=1)


def test_with_echo_the_end_has_its_entry_too() -> None:
    """Programs leave out as many entries as tokens were written; one is missing otherwise."""
    with served(ScriptedEngine(tokenizer(), lambda _request: "")) as serving:
        fields = {"prompt": "ab", "max_tokens": 5, "echo": True, "logprobs": 1}
        [choice] = post(client_for(serving), **fields)["choices"]
    assert choice["text"] == "ab"
    assert choice["logprobs"]["tokens"][-1] == "<|im_end|>"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": ["a"] * 1025}, "prompt"),
        ({"prompt": "\udc00"}, "prompt"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "max_tokens": 0}, None),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "messages": []}, "messages"),
        ({}, "prompt"),
    ],
)
def test_bad_requests_are_refused_by_name(
    client: TestClient, serving: Serving, fields: dict[str, Any], param: str | None
) -> None:
    assert refused(client, **fields)["error"]["param"] == param
    assert serving.service.num_seats_taken == 0


def test_too_long_a_prompt_names_the_numbers(client: TestClient) -> None:
    error = refused(client, prompt=[1] * 5000)["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "prompt"
    assert error["n_prompt_tokens"] == 5000
    assert error["n_ctx"] == 4096


def test_as_many_prompts_as_a_batch_of_lm_eval(client: TestClient) -> None:
    prompts = [[1, number + 2] for number in range(64)]
    body = post(client, prompt=prompts, max_tokens=1, echo=True, logprobs=1, temperature=0)
    assert [choice["index"] for choice in body["choices"]] == list(range(64))
    for choice in body["choices"]:
        assert len(choice["logprobs"]["token_logprobs"]) == 3
