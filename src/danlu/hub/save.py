"""Writing a complete model folder: weights in Hugging Face's names and their companions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from danlu.files.atomic import read_in_pieces
from danlu.files.draft import Draft
from danlu.hub.generation import FILE as GENERATION_FILE
from danlu.hub.generation import exported_generation
from danlu.hub.template_default import TEMPLATE_FILE, TOKENIZER_CONFIG, with_default
from danlu.model.config import read_model_json
from danlu.model.layout import layout
from danlu.model.qwen3 import Qwen3
from danlu.text.render import TURN_END
from danlu.text.tokenizer import Tokenizer
from danlu.weights.sharded import SHARD_BYTES, Fetch, TensorPlan, in_order, save_weights

TOKENIZER_FILES = (
    "tokenizer.json",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    TEMPLATE_FILE,
)


def write_model(
    draft: Draft,
    model: Qwen3,
    *,
    like: Path,
    at_once: bool = False,
    pieces: Iterator[Tensor] | None = None,
) -> None:
    """Write a model folder; everything but the weights is taken from the folder `like`.

    at_once: whether the model was trained to answer without a thought. pieces: its tensors as they
    arrive from those that share it, in the order of `hf_tensors`; None: it has them itself.
    """
    plans = [
        TensorPlan(name=part.hf_name, dtype=model.dtype, shape=part.shape)
        for parts in layout(model.config).values()
        for part in parts
    ]
    if pieces is None:
        pieces = (tensor for _name, tensor in model.hf_tensors())
    turn_end = Tokenizer.load(like).control_id(TURN_END)
    fetch = in_order(plans, pieces)
    write_folder(draft, plans, fetch, like=like, turn_end=turn_end, at_once=at_once)


def write_folder(
    draft: Draft,
    plans: Sequence[TensorPlan],
    fetch: Fetch,
    *,
    like: Path,
    turn_end: int,
    at_once: bool = False,
    shard_bytes: int = SHARD_BYTES,
    config_fields: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write planned tensors and the companions of `like`; config.json names the first's dtype.

    turn_end: the token that ends a turn. config_fields: what else config.json says otherwise than
    that of `like`.
    """
    save_weights(draft, plans, fetch, shard_bytes=shard_bytes)
    config = {**read_model_json(like / "config.json").fields, **config_fields}
    # Newer files say `dtype`, older ones `torch_dtype`; the model says the same in its own words.
    key = "dtype" if "dtype" in config else "torch_dtype"
    config[key] = str(plans[0].dtype).removeprefix("torch.")
    draft.write("config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    draft.write(GENERATION_FILE, exported_generation(like, turn_end=turn_end, at_once=at_once))
    copy_tokenizer(draft, like=like, at_once=at_once)


def copy_tokenizer(draft: Draft, *, like: Path, at_once: bool = False) -> None:
    """Copy the tokenizer's files and the chat template from the folder `like`."""
    for name in TOKENIZER_FILES:
        path = like / name
        if path.exists():
            data = b"".join(read_in_pieces(path))
            draft.write(name, with_default(name, data, at_once=at_once))
