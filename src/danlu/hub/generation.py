"""Sampling defaults and end tokens of a model: config.json and generation_config.json together.

Also the file that a trained model carries for other programs, so that they end and draw as danlu.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from danlu.files.json_file import JsonFile
from danlu.model.config import ModelConfig, end_token_ids, read_model_json

FILE = "generation_config.json"


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
    path = folder / FILE
    file = read_model_json(path) if path.exists() else JsonFile(path=path, fields={}, fix="")
    ends = end_token_ids(file)
    thinking = (
        file.number("temperature", 0.6),
        file.number("top_p", 0.95, positive=True, most=1.0),
        file.integer("top_k", 20, least=0),
    )
    if file.switch("do_sample") is False:
        thinking = (0.0, 1.0, 0)
    chosen = thinking if enable_thinking or thinking[0] == 0.0 else _NO_THINKING
    temperature, top_p, top_k = chosen
    return GenerationDefaults(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        end_token_ids=frozenset(config.eos_token_ids) | frozenset(ends),
    )


def exported_generation(folder: Path, *, turn_end: int, at_once: bool) -> str:
    """Return generation_config.json for a model that was trained from the one in `folder`.

    turn_end: the token that ends an answer; a base model's own file may name another one, and
    other programs would never stop. at_once: it answers without a thought, and is drawn so.
    Raises DataError where the file cannot be read.
    """
    path = folder / FILE
    file = read_model_json(path) if path.exists() else JsonFile(path=path, fields={}, fix="")
    of_model = end_token_ids(read_model_json(folder / "config.json"))
    ends = [turn_end, *end_token_ids(file), *of_model]
    fields = {**file.fields, "eos_token_id": list(dict.fromkeys(ends))}
    if at_once and file.switch("do_sample") is not False:
        sampling = dict(zip(("temperature", "top_p", "top_k"), _NO_THINKING, strict=True))
        fields = {**fields, "do_sample": True, **sampling}
    return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
