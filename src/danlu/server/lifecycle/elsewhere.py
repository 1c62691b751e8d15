"""Addresses that clients ask for and that are not served, each with what to do instead. Data only.

They are those of other APIs (OpenAI's, vLLM's, Anthropic's, Ollama's, llama.cpp's), and ours
without the /v1 of their base address.
"""

from __future__ import annotations

from collections.abc import Mapping

# A client would build chat prompts with it; here names of control tokens in a text are text.
NO_TOKENIZER = (
    "Give the client the tokenizer in the model's folder (lm-eval: tokenizer=FOLDER); /tokenize "
    "and /detokenize read plain text."
)

# Sentences: nothing here does what these addresses stand for.
NOT_SERVED = {
    "/tokenizer_info": NO_TOKENIZER,
    "/v1/embeddings": "This server writes text only; ask another one for embeddings.",
    "/v1/rerank": "This server writes text only; ask another one for rankings.",
    "/v1/moderations": "This server writes text only; ask another one for moderation.",
    "/v1/audio/transcriptions": "This server writes text only; ask another one for speech.",
    "/v1/audio/speech": "This server writes text only; ask another one for speech.",
    "/v1/images/generations": "This server writes text only; ask another one for images.",
}
# A path is the route to use.
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
    **NOT_SERVED,
}
