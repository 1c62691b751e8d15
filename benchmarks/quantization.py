"""How far int8 and int4 weights move a model: `python -m benchmarks.quantization MODEL...`.

Compares the logits of a text, in bf16 on the CPU, with those of the weights as stored: the error as
a share of their size, the divergence of the distributions, how often the likeliest token is the
same. For a model whose weights are random only the first says something.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from danlu.device.detect import select
from danlu.hub.load import LoadedModel, load_model
from danlu.model.attention import PackedAttention
from danlu.model.config import Quantization
from danlu.model.qwen3 import plain_linear
from danlu.ops import Segments


@torch.inference_mode()
def logits(loaded: LoadedModel, tokens: list[int]) -> Tensor:
    """Return the logits of one segment, [tokens, vocab_size], in fp32."""
    segments = Segments.of([len(tokens)], "cpu")
    attend = PackedAttention(loaded.config, torch.arange(len(tokens)), segments)
    hidden = loaded.model(torch.tensor(tokens), attend, plain_linear)
    return plain_linear(loaded.model.head, "lm_head", hidden).float()


def compare(name: str, text: str, length: int) -> dict[str, dict[str, float]]:
    """Measure both ways of one model."""
    device = select("cpu")
    loaded = load_model(name, device=device)
    tokens = loaded.tokenizer.encode_text(text)[:length]
    exact = logits(loaded, tokens)
    del loaded
    found: dict[str, dict[str, float]] = {}
    ways: tuple[Quantization, ...] = ("int8", "int4")
    for quantization in ways:
        loaded = load_model(name, device=device, quantization=quantization)
        tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
        ours = logits(loaded, tokens)
        divergence = torch.nn.functional.kl_div(
            ours.log_softmax(1), exact.log_softmax(1), log_target=True, reduction="batchmean"
        )
        found[quantization] = {
            "tokens": len(tokens),
            "weights_mb": round(sum(tensor.nbytes for tensor in tensors) / 1e6),
            "error_of_logits": round(((ours - exact).norm() / exact.norm()).item(), 4),
            "divergence": round(divergence.item(), 5),
            "same_likeliest": round((ours.argmax(1) == exact.argmax(1)).float().mean().item(), 4),
        }
        del loaded
    return found


def main() -> None:
    """Print the figures of every model as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", help="starter, or model folders")
    parser.add_argument("--text", type=Path, default=Path("README.md"))
    parser.add_argument("--tokens", type=int, default=512)
    options = parser.parse_args()
    text = options.text.read_text(encoding="utf-8")
    for name in options.models:
        print(json.dumps({Path(name).name: compare(name, text, options.tokens)}, indent=1))


if __name__ == "__main__":
    main()
