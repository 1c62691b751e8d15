"""Writes a model folder with random weights.

    python -m benchmarks.train.model CONFIG TOKENIZER OUTPUT [outliers]

outliers: one of 200 inputs of each matrix has weights of eight times the others' size.
A process of its own, because the benchmark itself must stay small (see `process`).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import torch

from danlu.files.committed import committed_folder
from danlu.hub.save import write_model
from danlu.model.config import load_config
from danlu.model.qwen3 import Qwen3


def write_random_model(
    config: Path, tokenizer: Path, output: Path, *, outliers: bool = False
) -> None:
    """Write seeded bf16 weights in the shape of `config` as an ordinary model folder."""
    model = Qwen3(load_config(config), device=torch.device("cpu"), dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.02, generator=generator)
            if outliers:
                inputs = torch.randperm(parameter.shape[1], generator=generator)
                parameter.data[:, inputs[: len(inputs) // 200]] *= 8
        else:
            parameter.data.fill_(1.0)
    with tempfile.TemporaryDirectory() as like, committed_folder(output) as draft:
        for source in (
            config / "config.json",
            *tokenizer.glob("tokenizer*.json"),
            *tokenizer.glob("*.jinja"),
        ):
            shutil.copy(source, like)
        write_model(draft, model, like=Path(like))


if __name__ == "__main__":
    write_random_model(*map(Path, sys.argv[1:4]), outliers="outliers" in sys.argv[4:])
