"""Schemas as pydantic and other programs write them, up to the answers that fit them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr
from starlette.testclient import TestClient

from danlu.engine.engine import Engine
from danlu.engine.grammar_compiler import GrammarCompiler
from danlu.server.openai.grammars import chat_grammar
from danlu.server.openai.requests import ChatRequest
from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.served import client_for, served, tiny_loaded


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class OfSets(BaseModel):
    x: set[int]


class OfPaths(BaseModel):
    x: Path
    y: SecretStr
    z: bytes


class OfUnions(BaseModel):
    x: Annotated[Cat | Dog, Field(discriminator="kind")]


class OfDecimals(BaseModel):
    x: Decimal


class EitherOr(BaseModel):
    model_config = {"json_schema_extra": {"oneOf": [{"required": ["x"]}, {"required": ["y"]}]}}
    x: int | None = None
    y: int | None = None


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    loaded = tiny_loaded()
    engine = Engine(loaded.model, loaded.tokenizer, cache_tokens=4096)
    with served(engine, loaded=loaded, context_tokens=2000) as serving:
        yield client_for(serving)


def asked(schema: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The body of a request for an answer of a schema."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    messages = [{"role": "user", "content": "Hi"}]
    return {"messages": messages, "max_tokens": 1, "response_format": form, **fields}


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        (OfSets, "response_format.uniqueItems"),
        (OfPaths, None),
        (OfUnions, None),
        (OfDecimals, "response_format.pattern"),
        (EitherOr, None),
    ],
)
def test_schemas_of_pydantic_are_taken(
    client: TestClient, model: type[BaseModel], listed: str | None
) -> None:
    schema = model.model_json_schema()
    response = client.post("/v1/chat/completions", json=asked(schema))
    assert response.status_code == 200, response.text
    if listed == "response_format.pattern" and "(?!" not in json.dumps(schema):
        listed = None  # older versions of pydantic write a pattern without a look ahead
    assert response.headers.get("x-danlu-ignored") == listed


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "propertyNames": {"pattern": "^a"}},
        {"type": "array", "contains": {"type": "integer"}},
        {"not": {"type": "string"}},
        {"type": "object", "dependentRequired": {"a": ["b"]}},
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(
    client: TestClient, schema: dict[str, Any]
) -> None:
    response = client.post("/v1/chat/completions", json=asked(schema))
    assert response.status_code == 400
    [word] = schema.keys() - {"type"}
    assert word in response.json()["error"]["message"]


def test_a_tool_that_must_be_called_may_have_any_schema(client: TestClient) -> None:
    parameters = {
        "type": "object",
        "properties": {
            "uniqueItems": {"type": "string", "format": "path", "pattern": "^(?!a)"},
            "x": {"type": "array", "contains": {"type": "integer"}},
        },
    }
    body = asked({}, tools=[{"function": {"name": "f", "parameters": parameters}}])
    del body["response_format"]
    assert "x-danlu-ignored" not in client.post("/v1/chat/completions", json=body).headers
    response = client.post("/v1/chat/completions", json=body | {"tool_choice": "required"})
    assert response.status_code == 200, response.text
    assert response.headers["x-danlu-ignored"] == "tools.contains, tools.pattern"


def test_settings_of_the_library_are_not_the_clients(client: TestClient) -> None:
    schema = {"type": "object", "x-guidance": {"whitespace_pattern": r"\s*"}}
    response = client.post("/v1/chat/completions", json=asked(schema))
    assert response.status_code == 200, response.text
    assert response.headers["x-danlu-ignored"] == "response_format.x-guidance"


def test_names_of_properties_are_no_words_of_the_schema(client: TestClient) -> None:
    properties = {"uniqueItems": {"const": True}, "format": {"const": "x"}, "pattern": {"const": 1}}
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    body = asked(schema, max_tokens=200, enable_thinking=False)
    response = client.post("/v1/chat/completions", json=body)
    text = response.json()["choices"][0]["message"]["content"]
    assert json.loads(text) == {"uniqueItems": True, "format": "x", "pattern": 1}
    assert "x-danlu-ignored" not in response.headers


def test_a_schema_without_end_is_refused(client: TestClient) -> None:
    text = '{"items": ' * 900 + "{}" + "}" * 900
    body = {"prompt": "a", "structured_outputs": {"json": text}}
    assert client.post("/v1/completions", json=body).status_code == 400


LAYOUT = {"a": [1, 2], "b": {"c": "x"}}
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "array", "items": {"type": "integer"}},
        "b": {"type": "object", "properties": {"c": {"type": "string"}}, "required": ["c"]},
    },
    "required": ["a", "b"],
}


@pytest.mark.parametrize("with_tools", [False, True])
def test_blanks_in_an_answer_are_those_of_a_layout(with_tools: bool) -> None:
    tools = [{"function": {"name": "f"}}] if with_tools else None
    body = ChatRequest.model_validate(asked(SCHEMA, tools=tools))
    grammar = chat_grammar(body, body.usable_tools)
    assert grammar is not None

    compiled = GrammarCompiler(tokenizer()).compiled(grammar)

    def fits(text: str) -> bool:
        guide = compiled.guide()
        for token in tokenizer().encode_text(text):
            if not guide.allowed()[0][token]:
                return False
            guide.accept(token)
        return guide.is_complete or guide.allowed()[1]

    for text in (
        json.dumps(LAYOUT),
        json.dumps(LAYOUT, separators=(",", ":")),
        json.dumps(LAYOUT, indent=2),
        json.dumps(LAYOUT, indent=4),
        json.dumps(LAYOUT, indent="\t"),
    ):
        assert fits(text), text
        assert not fits(text.replace(":", ":\n\n")), text
        assert not fits(text.replace(":", ":   ")), text
