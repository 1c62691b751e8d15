"""Sampling defaults and end tokens of a model: config.json and generation_config.json together."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.model.config import ModelConfig, broken_file, token_ids


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """A model's own sampling settings. end_token_ids: the union of what both files name."""

    temperature: float
    top_p: float
    top_k: int
    end_token_ids: frozenset[int]


# Qwen3's published advice without thinking; with it, generation_config.json holds 0.6 / 0.95 / 20.
_NO_THINKING = (0.7, 0.8, 20)


def generation_defaults(
    folder: Path, config: ModelConfig, *, enable_thinking: bool | None
) -> GenerationDefaults:
    """Read a model's defaults. Raises DataError where generation_config.json cannot be read."""
    path = folder / "generation_config.json"
    fields: dict[str, Any] = {}
    try:
        if path.is_file():
            fields = json.loads(path.read_text(encoding="utf-8"))
        ends = token_ids(fields.get("eos_token_id"))
        thinking = (
            float(fields.get("temperature", 0.6)),
            float(fields.get("top_p", 0.95)),
            int(fields.get("top_k", 20)),
        )
    except (ValueError, TypeError, AttributeError) as problem:
        raise broken_file(path, str(problem)) from problem
    if fields.get("do_sample") is False:
        thinking = (0.0, 1.0, 0)
    chosen = thinking if enable_thinking or thinking[0] == 0.0 else _NO_THINKING
    temperature, top_p, top_k = chosen
    return GenerationDefaults(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        end_token_ids=frozenset(config.eos_token_ids) | frozenset(ends),
    )
