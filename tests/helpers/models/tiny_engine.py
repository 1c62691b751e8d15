"""A tiny engine with random weights, and ways to run requests on it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request, SamplingSettings
from danlu.lora.adapter import Adapter, LoraConfig
from danlu.model.qwen3 import Qwen3
from danlu.text.tokenizer import Tokenizer
from tests.helpers.models.tiny_model import tiny_model
from tests.helpers.models.tiny_tokenizer import write_tiny_tokenizer

GREEDY = SamplingSettings(temperature=0.0, max_tokens=12)


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    """The tiny tokenizer, built once."""
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_tokenizer(Path(folder))
        return Tokenizer.load(Path(folder))


def varied_model(**overrides: Any) -> Qwen3:
    """A tiny model over the tiny vocabulary whose answers vary."""
    config, model = tiny_model(vocab_size=tokenizer().vocab_size, **overrides)
    # With embeddings small beside what the layers add, a token does not mostly predict itself.
    model.embed_tokens.mul_(0.1 if config.tie_word_embeddings else 1.0)
    return model


@lru_cache(maxsize=1)
def model() -> Qwen3:
    """The tiny model, built once; tests do not change it."""
    return varied_model()


def engine(**settings: int) -> Engine:
    """An empty engine over the tiny model."""
    return Engine(model(), tokenizer(), **settings)


def random_adapter(seed: int, like: Qwen3 | None = None) -> Adapter:
    """An adapter that clearly changes the model, on its device."""
    like = like or model()
    device = like.device
    adapter = Adapter(LoraConfig(r=4), like.config, device=device, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for _layer, _name, a, b in adapter.tensors():
        a.copy_(torch.randn(a.shape, generator=generator) * a.shape[1] ** -0.5)
        b.copy_(torch.randn(b.shape, generator=generator) * 0.5)
    return adapter


def random_prompt(seed: int, length: int | None = None) -> tuple[int, ...]:
    """Ids of the tiny vocabulary; 1 to 40 of them unless a length is given."""
    generator = torch.Generator().manual_seed(seed)
    length = length or int(torch.randint(1, 41, (), generator=generator))
    size = (length,)
    return tuple(torch.randint(0, tokenizer().vocab_size, size, generator=generator).tolist())


def run_all(engine: Engine, requests: Sequence[Request]) -> list[list[Output]]:
    """Run requests together to their end; the outputs of each."""
    outputs: list[list[Output]] = [[] for _request in requests]
    for request, into in zip(requests, outputs, strict=True):
        engine.add(request, into.append)
    while engine.num_unfinished:
        engine.step()
    return outputs


def tokens_of(outputs: Sequence[Output]) -> list[int]:
    """All tokens of an answer."""
    return [token for output in outputs for token in output.tokens]


def text_of(outputs: Sequence[Output]) -> str:
    """The whole text of an answer."""
    return "".join(output.text for output in outputs)


def alone(request: Request) -> list[Output]:
    """What a request gives in an engine of its own."""
    return run_all(engine(), [request])[0]
