"""What a stream has sent it does not keep: log probabilities would fill the memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from danlu.engine.request import Output, RequestId, TokenLogprobs
from danlu.server.openai.chat_completions import ChatReply
from danlu.server.openai.completions import CompletionReply
from danlu.server.openai.requests import ChatRequest, CompletionRequest
from danlu.server.requested_model import requested_model
from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.served import ScriptedEngine, served

TOP = tuple((token, -1.0 * token) for token in range(20, 40))
OUTPUT = Output(
    request_id=RequestId(0),
    tokens=(33,),
    text="a",
    logprobs=(TokenLogprobs(token=33, logprob=-1.0, top=TOP),),
)


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_a_stream_does_not_keep_the_log_probabilities_it_has_sent(route: str) -> None:
    with served(ScriptedEngine(tokenizer(), lambda _request: "")) as serving:
        model = requested_model(serving, None)

        def grown(*, stream: bool) -> int:
            """How many bytes stay after 200 tokens whose chunks are gone."""
            fields: dict[str, Any] = {"stream": stream, "max_tokens": 500}
            reply: ChatReply | CompletionReply
            if route == "chat":
                fields |= {"messages": [{"role": "user", "content": "a"}], "logprobs": True}
                body = ChatRequest.model_validate(fields | {"top_logprobs": 20})
                reply = ChatReply(body, model, serving)
            else:
                chosen = CompletionRequest.model_validate(fields | {"prompt": "a", "logprobs": 20})
                reply = CompletionReply(chosen, model, serving)
            assert reply.feed(0, OUTPUT)
            before = tracemalloc.get_traced_memory()[0]
            for _token in range(200):
                reply.feed(0, OUTPUT)
            return tracemalloc.get_traced_memory()[0] - before

        tracemalloc.start()
        try:
            assert grown(stream=True) < grown(stream=False) / 20
        finally:
            tracemalloc.stop()
