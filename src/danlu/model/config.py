"""The shape of a Qwen3 model, read from a Hugging Face `config.json`. No torch here.

Field names are Hugging Face's. What the forward pass cannot do (experts, scaled RoPE, sliding
windows, biases) is refused by name, never computed wrongly.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from danlu.errors import DataError, UsageError
from danlu.language import _

# In how many bits the projections' matrices may be kept for answering.
Quantization = Literal["int8", "int4"]

_LARGEST = sys.float_info.max  # JSON allows whole numbers that no float can hold


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and constants of a dense Qwen3; names as in Hugging Face's Qwen3Config."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    dtype: str
    eos_token_ids: tuple[int, ...] = ()

    @property
    def q_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together; the values' width is the same."""
        return self.num_key_value_heads * self.head_dim


def load_config(folder: Path) -> ModelConfig:
    """Read `config.json` of a model folder.

    Raises UsageError for a missing folder or an unsupported architecture, DataError for a file
    that cannot be read or lacks a field.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise UsageError(
            _("The model folder {folder} does not exist.").format(folder=folder),
            why=_("A model is a folder with config.json, tokenizer.json and *.safetensors files."),
            fix=_("Check the path, or use the built-in model: --model starter"),
        )
    if not path.is_file():
        raise UsageError(
            _("{folder} is not a model folder.").format(folder=folder),
            why=_("It holds no config.json."),
            fix=_("Point to the folder that holds config.json, or download the model again."),
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise broken_file(path, str(problem)) from problem
    if not isinstance(fields, dict):
        raise broken_file(path, _("The file holds no JSON object."))
    return config_from_fields(fields, source=path)


def config_from_fields(fields: Mapping[str, Any], *, source: Path) -> ModelConfig:
    """Build the config from config.json's fields; `source` is named in errors."""
    _refuse_unsupported(fields, source)
    hidden_size = _integer(fields, "hidden_size", source)
    num_attention_heads = _integer(fields, "num_attention_heads", source)
    num_key_value_heads = _integer(fields, "num_key_value_heads", source, num_attention_heads)
    if num_attention_heads % num_key_value_heads:
        raise broken_file(source, _("num_attention_heads is not a multiple of num_key_value_heads"))
    head_dim = _integer(fields, "head_dim", source, hidden_size // num_attention_heads)
    if head_dim % 2:
        raise broken_file(
            source, _("head_dim is {value}; RoPE needs an even number").format(value=head_dim)
        )
    return ModelConfig(
        vocab_size=_integer(fields, "vocab_size", source),
        hidden_size=hidden_size,
        intermediate_size=_integer(fields, "intermediate_size", source),
        num_hidden_layers=_integer(fields, "num_hidden_layers", source),
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=_positive_number("rms_norm_eps", fields.get("rms_norm_eps", 1e-6), source),
        rope_theta=_rope_theta(fields, source),
        max_position_embeddings=_integer(fields, "max_position_embeddings", source),
        tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
        dtype=str(fields.get("dtype") or fields.get("torch_dtype") or "float32"),
        eos_token_ids=_eos_token_ids(fields, source),
    )


def token_ids(value: Any) -> tuple[int, ...]:
    """Read an id field that may be absent, one number or a list (Hugging Face allows all three).

    Raises ValueError for anything else.
    """
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(number) is int and number >= 0 for number in ids):
        raise ValueError(
            _("{value} is neither a token id nor a list of token ids").format(value=repr(value))
        )
    return tuple(ids)


def _eos_token_ids(fields: Mapping[str, Any], source: Path) -> tuple[int, ...]:
    try:
        return token_ids(fields.get("eos_token_id"))
    except ValueError as problem:
        raise broken_file(source, f"eos_token_id: {problem}") from problem


def _refuse_unsupported(fields: Mapping[str, Any], source: Path) -> None:
    model_type = fields.get("model_type")
    refusals = {
        "model_type": model_type != "qwen3" and model_type,
        "quantization_config": fields.get("quantization_config"),
        "use_sliding_window": fields.get("use_sliding_window"),
        "attention_bias": fields.get("attention_bias"),
        "hidden_act": fields.get("hidden_act", "silu") != "silu" and fields["hidden_act"],
        "rope_scaling": _rope_scaling(fields),
    }
    if model_type is None:
        raise broken_file(source, _("The field {name} is missing.").format(name="model_type"))
    if model_type == "qwen3_moe":
        raise UsageError(
            _("{source} describes a mixture-of-experts model.").format(source=source),
            why=_("This version runs dense Qwen3 models only (0.6B to 32B)."),
            fix=_("Choose a dense model, for example Qwen3-8B."),
        )
    for name, value in refusals.items():
        if value:
            raise UsageError(
                _("{source} describes a model that is not supported.").format(source=source),
                why=_("Its field {name} is {value}.").format(name=name, value=value),
                fix=_("Use a dense Qwen3 model as published (model_type qwen3, bf16 weights)."),
            )


def _rope_scaling(fields: Mapping[str, Any]) -> object:
    """Return the RoPE scaling in use, or None where the plain rotation applies."""
    for name in ("rope_scaling", "rope_parameters"):
        rope = fields.get(name)
        if isinstance(rope, Mapping):
            kind = rope.get("rope_type", rope.get("type", "default"))
            if kind != "default":
                return kind
    return None


def _rope_theta(fields: Mapping[str, Any], source: Path) -> float:
    """Read the RoPE base: `rope_parameters.rope_theta` (newer files) or `rope_theta` (older).

    There is no default on purpose: a wrong base gives a model that speaks, but badly.
    """
    parameters = fields.get("rope_parameters")
    theta = parameters.get("rope_theta") if isinstance(parameters, Mapping) else None
    theta = fields.get("rope_theta") if theta is None else theta
    if theta is None:
        raise broken_file(source, _("The field {name} is missing.").format(name="rope_theta"))
    return _positive_number("rope_theta", theta, source)


def _positive_number(name: str, value: Any, source: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST:
        raise broken_file(
            source,
            _("{name} is {value}; a positive number is needed").format(
                name=name, value=repr(value)
            ),
        )
    return float(value)


def _integer(fields: Mapping[str, Any], name: str, source: Path, default: int | None = None) -> int:
    value = fields.get(name)
    value = default if value is None else value
    if value is None:
        raise broken_file(source, _("The field {name} is missing.").format(name=name))
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise broken_file(
            source,
            _("{name} is {value}; a positive whole number is needed").format(
                name=name, value=repr(value)
            ),
        )
    return value


def broken_file(path: Path, why: str) -> DataError:
    """Build the error for a model's JSON file that cannot be used."""
    return DataError(
        _("{path} cannot be used.").format(path=path),
        why=why,
        fix=_("Download the model's files again, or correct the file."),
    )
