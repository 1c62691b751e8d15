"""How far int8 and int4 weights move a model: `python -m benchmarks.quantization MODEL...`.

Compares the logits of a text on the CPU with those in fp32 of the weights as stored: the error as a
share of their size, the divergence of the distributions, how often the likeliest token is the same.
For a model whose weights are random only the first says something. With `--llamacpp` its formats
are beside ours; `python -m benchmarks.train.model CONFIG TOKENIZER OUTPUT outliers` writes a model
whose inputs are unequal, as those of trained ones are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.serve.llamacpp import (
    ENVIRONMENT,
    K_QUANTS,
    QUANTISED,
    make_environment,
    write_models,
)
from danlu.device.detect import select
from danlu.hub.load import LoadedModel, load_for_answers, load_model
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


def off_by(ours: Tensor, exact: Tensor) -> dict[str, float]:
    """Compare logits with those of the weights as they are."""
    divergence = torch.nn.functional.kl_div(
        ours.log_softmax(1), exact.log_softmax(1), log_target=True, reduction="batchmean"
    )
    return {
        "error_of_logits": round(((ours - exact).norm() / exact.norm()).item(), 4),
        "divergence": round(divergence.item(), 5),
        "same_likeliest": round((ours.argmax(1) == exact.argmax(1)).float().mean().item(), 4),
    }


def compare(name: str, text: str, length: int, *, peer: bool) -> dict[str, dict[str, float]]:
    """Measure one model in bf16, int8 and int4, and llama.cpp's formats."""
    device = select("cpu")
    loaded = load_model(name, device=device, dtype=torch.float32)
    folder, tokens = loaded.folder, loaded.tokenizer.encode_text(text)[:length]
    exact = logits(loaded, tokens)
    del loaded
    found: dict[str, dict[str, float]] = {}
    ways: tuple[Quantization | None, ...] = (None, "int8", "int4")
    for quantization in ways:
        loaded = load_for_answers(
            name, device=device, dtype=torch.bfloat16, quantization=quantization
        )
        found[quantization or "bf16"] = off_by(logits(loaded, tokens), exact)
        del loaded
    if peer:
        for label, theirs in llamacpp_logits(folder, tokens):
            found[f"llama.cpp {label}"] = off_by(theirs, exact)
    return found


def llamacpp_logits(folder: Path, tokens: list[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield llama.cpp's logits by format."""
    environment = ENVIRONMENT.expanduser()
    python = make_environment(environment)
    script = Path(__file__).parent / "serve" / "llamacpp_logits.py"
    with tempfile.TemporaryDirectory(prefix="bench-quantization-") as place:
        work = Path(place)
        (work / "tokens.json").write_text(json.dumps(tokens), encoding="utf-8")
        for label, file in write_models(folder, environment, work, QUANTISED | K_QUANTS).items():
            output = work / "logits.npy"
            words = [str(file), str(work / "tokens.json"), str(output)]
            subprocess.run([str(python), str(script), *words], check=True, capture_output=True)
            yield label, torch.from_numpy(np.load(output))


def main() -> None:
    """Print the figures of every model as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", help="starter, or model folders")
    parser.add_argument("--text", type=Path, default=Path("README.md"))
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--llamacpp", action="store_true", help="and llama.cpp's formats")
    options = parser.parse_args()
    text = options.text.read_text(encoding="utf-8")
    for name in options.models:
        figures = compare(name, text, options.tokens, peer=options.llamacpp)
        print(json.dumps({Path(name).name: figures}, indent=1))


if __name__ == "__main__":
    main()
