"""Writing a complete model folder: weights in Hugging Face's names and their companions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from danlu.files.atomic import read_in_pieces
from danlu.files.draft import Draft
from danlu.model.config import read_model_json
from danlu.model.qwen3 import Qwen3
from danlu.weights.sharded import TensorPlan, save_weights

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
# Everything beside the weights that transformers, vLLM or llama.cpp's converter look for.
COMPANION_FILES = ("generation_config.json", *TOKENIZER_FILES)


def write_model(draft: Draft, model: Qwen3, *, like: Path) -> None:
    """Write a model folder; everything but the weights is taken from the folder `like`."""
    tensors = dict(model.hf_tensors())
    dtype = model.embed_tokens.dtype
    plans = [TensorPlan(name=n, dtype=dtype, shape=tuple(t.shape)) for n, t in tensors.items()]
    write_folder(draft, plans, tensors.__getitem__, like=like)


def write_folder(
    draft: Draft, plans: Sequence[TensorPlan], fetch: Callable[[str], Tensor], *, like: Path
) -> None:
    """Write planned tensors and the companions of `like`; config.json names the first's dtype."""
    save_weights(draft, plans, fetch)
    config = dict(read_model_json(like / "config.json").fields)
    # Newer files say `dtype`, older ones `torch_dtype`; the model says the same in its own words.
    key = "dtype" if "dtype" in config else "torch_dtype"
    config[key] = str(plans[0].dtype).removeprefix("torch.")
    draft.write("config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    _copy(draft, COMPANION_FILES, like)


def copy_tokenizer(draft: Draft, *, like: Path) -> None:
    """Copy the tokenizer's files and the chat template from the folder `like`."""
    _copy(draft, TOKENIZER_FILES, like)


def _copy(draft: Draft, names: Sequence[str], like: Path) -> None:
    for name in names:
        path = like / name
        if path.exists():
            draft.write(name, read_in_pieces(path))
