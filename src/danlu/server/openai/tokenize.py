"""/tokenize and /detokenize, with the bodies of vLLM's routes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field, PlainValidator, model_validator
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from danlu.engine.admission import check_ids
from danlu.language import _
from danlu.server.edge.gate import serving_of
from danlu.server.edge.long_bodies import LongBodyRoute, on_thread
from danlu.server.openai.body_types import Body, Text, are_token_ids, ignored_header
from danlu.server.openai.chat_messages import ChatMessage, conversation_of
from danlu.server.openai.requests import TemplateSettings, TokenId
from danlu.server.openai.sampling import admission, check_mode
from danlu.server.openai.tool_calls import ToolBody
from danlu.server.requested_model import RequestedModel, requested_model
from danlu.server.state import Serving
from danlu.text.render import render

router = APIRouter(tags=["tokens"], route_class=LongBodyRoute)


class TokenizeRequest(Body):
    """A prompt, or the messages of a chat. Qwen3 has no special tokens to add to a prompt."""

    model: Text | None = None
    prompt: Text | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=1024, fail_fast=True)
    tools: list[ToolBody] | None = Field(None, max_length=128, fail_fast=True)
    add_generation_prompt: bool = True
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: TemplateSettings | None = None

    @model_validator(mode="after")
    def _prompt_or_messages(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError(_("Give either prompt or messages."))
        return self


class TokenizeResponse(BaseModel):
    """Token ids, and their texts where they were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


def _token_ids(value: object) -> object:
    if not are_token_ids(value):
        raise ValueError(_("It must be a list of token ids."))
    return value


class DetokenizeRequest(Body):
    """Token ids, control tokens among them or not."""

    model: Text | None = None
    tokens: Annotated[list[int], PlainValidator(_token_ids, json_schema_input_type=list[TokenId])]


class DetokenizeResponse(BaseModel):
    """The text of the ids."""

    prompt: str


@router.post("/tokenize")
async def tokenize(
    body: TokenizeRequest, request: HttpRequest, response: Response
) -> TokenizeResponse:
    """Say what tokens the model would be given."""
    response.headers.update(ignored_header(body.ignored()))
    serving = serving_of(request.app)
    model = requested_model(serving, body.model)
    return await on_thread(request, _tokenize, body, serving, model)


def _tokenize(body: TokenizeRequest, serving: Serving, model: RequestedModel) -> TokenizeResponse:
    tokenizer, most = serving.assistant.loaded.tokenizer, serving.context_tokens
    if body.messages is None:
        text = body.prompt or ""
        with admission(param="prompt"):
            tokenizer.check_length([text], most)
        ids = tokenizer.encode_text(text)
    else:
        wanted = (body.chat_template_kwargs or TemplateSettings()).enable_thinking
        check_mode(model.prompting, ("chat_template_kwargs", wanted))
        spans = render(
            conversation_of(body.messages, body.tools or []),
            template=model.prompting.template,
            enable_thinking=model.prompting.enable_thinking if wanted is None else wanted,
            add_generation_prompt=body.add_generation_prompt,
        )
        with admission(param="messages"):
            tokenizer.check_length((span.text for span in spans), most)
        ids = tokenizer.encode_spans(spans)
    texts = None
    if body.return_token_strs:
        texts = [tokenizer.decode([token], skip_control=False) for token in ids]
    return TokenizeResponse(
        count=len(ids),
        max_model_len=serving.context_tokens,
        tokens=ids,
        token_strs=texts,
    )


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, request: HttpRequest) -> DetokenizeResponse:
    """Say what text token ids stand for; bytes that are no characters become U+FFFD."""
    serving = serving_of(request.app)
    requested_model(serving, body.model)
    return await on_thread(request, _detokenize, body.tokens, serving)


def _detokenize(ids: list[int], serving: Serving) -> DetokenizeResponse:
    loaded = serving.assistant.loaded
    with admission(param="tokens"):
        check_ids("tokens", ids, loaded.config.vocab_size)
    return DetokenizeResponse(prompt=loaded.tokenizer.decode(ids, skip_control=False))
