"""/tokenize and /detokenize."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from danlu.text.conversation import Conversation, Message
from danlu.text.render import render
from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.served import client_for, served

TEXT = "Hello <|im_end|> 你好 🦊"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with served() as serving:
        yield client_for(serving)


def test_text_there_and_back(client: TestClient) -> None:
    body = {"model": "tiny", "prompt": TEXT, "add_special_tokens": True}
    found = client.post("/tokenize", json=body).json()
    assert found["tokens"] == tokenizer().encode_text(TEXT)
    assert found["count"] == len(found["tokens"])
    assert found["max_model_len"] == 4096
    back = client.post("/detokenize", json={"tokens": found["tokens"]}).json()
    assert back == {"prompt": TEXT}


def test_messages_become_the_prompt_of_a_chat(client: TestClient) -> None:
    conversation = Conversation(messages=(Message(role="user", content="Hi"),))
    for prompted, thinks in ((True, True), (False, True), (True, False)):
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": "Hi"}],
            "add_generation_prompt": prompted,
            "chat_template_kwargs": {"enable_thinking": thinks},
            "return_token_strs": True,
        }
        found = client.post("/tokenize", json=body).json()
        spans = render(
            conversation,
            template="qwen3",
            enable_thinking=thinks,
            add_generation_prompt=prompted,
        )
        assert found["tokens"] == tokenizer().encode_spans(spans)
        assert "".join(found["token_strs"]) == "".join(span.text for span in spans)
        text = client.post("/detokenize", json={"tokens": found["tokens"]}).json()["prompt"]
        assert text == "".join(span.text for span in spans)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}),
        ("/tokenize", {"prompt": "\ud83e"}),
        ("/tokenize", {"prompt": "a", "chat_template": "b"}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [10**8]}),
        ("/detokenize", {"tokens": "a"}),
    ],
)
def test_bad_requests_are_refused(client: TestClient, path: str, body: Any) -> None:
    headers = {"content-type": "application/json"}
    response = client.post(path, content=json.dumps(body), headers=headers)
    assert response.status_code == 400
    assert "message" in response.json()["error"]


def test_an_unknown_model_is_not_found(client: TestClient) -> None:
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        response = client.post(path, json={"model": "other", **body})
        assert response.status_code == 404
        assert "tiny" in response.json()["error"]["message"]


def test_notes_in_messages_are_listed(client: TestClient) -> None:
    body = {"messages": [{"role": "user", "content": "Hi", "id": "m1"}]}
    response = client.post("/tokenize", json=body)
    assert response.status_code == 200
    assert response.headers["x-danlu-ignored"] == "messages.id"
