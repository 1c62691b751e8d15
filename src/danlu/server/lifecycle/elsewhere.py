"""Addresses that clients ask for and that are not served, each with what to do instead. Data only.

They are those of other APIs (OpenAI's, vLLM's, Anthropic's, Ollama's, llama.cpp's), and ours
without the /v1 of their base address. The sentences are for those who write programs, in English
like the names of the fields.
"""

from __future__ import annotations

from collections.abc import Mapping

_ANSWERS_ONLY = "This server writes text only; ask another one for "
# A client would build chat prompts with it; here names of control tokens in a text are text.
_NO_TOKENIZER = (
    "Give the client the tokenizer in the model's folder (lm-eval: tokenizer=FOLDER); /tokenize "
    "and /detokenize read plain text."
)

# A path is the route to use; all else is a sentence.
ELSEWHERE: Mapping[str, str] = {
    "/chat/completions": "/v1/chat/completions",
    "/v1/v1/chat/completions": "/v1/chat/completions",
    "/v1/responses": "/v1/chat/completions",
    "/v1/messages": "/v1/chat/completions",
    "/api/chat": "/v1/chat/completions",
    "/completions": "/v1/completions",
    "/completion": "/v1/completions",
    "/api/generate": "/v1/completions",
    "/models": "/v1/models",
    "/v1/v1/models": "/v1/models",
    "/api/tags": "/v1/models",
    "/v1/tokenize": "/tokenize",
    "/v1/detokenize": "/detokenize",
    "/tokenizer_info": _NO_TOKENIZER,
    "/v1/embeddings": f"{_ANSWERS_ONLY}embeddings.",
    "/v1/rerank": f"{_ANSWERS_ONLY}rankings.",
    "/v1/moderations": f"{_ANSWERS_ONLY}moderation.",
    "/v1/audio/transcriptions": f"{_ANSWERS_ONLY}speech.",
    "/v1/audio/speech": f"{_ANSWERS_ONLY}speech.",
    "/v1/images/generations": f"{_ANSWERS_ONLY}images.",
}
