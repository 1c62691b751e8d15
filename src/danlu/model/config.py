"""The shape of a Qwen3 model, read from a Hugging Face `config.json`. No torch here.

Field names are Hugging Face's. What the forward pass cannot do (scaled RoPE, sliding windows,
biases) is refused by name, never computed wrongly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from danlu.errors import UsageError
from danlu.files.json_file import JsonFile, read_json_file
from danlu.language import _
from danlu.reasons import reason_of

# In how many bits the projections' matrices may be kept for answering.
Quantization = Literal["int8", "int4"]
# The same, and that of a base under an adapter that is trained.
WeightForm = Literal["int8", "int4", "nf4", "fp8"]

_OF_EXPERTS = "qwen3_moe"
_MODEL_TYPES = ("qwen3", _OF_EXPERTS)
# Several times what any published model has. Sizes are multiplied, and memory is taken by them,
# before anything can be compared with the weights.
_MOST = {
    "vocab_size": 1 << 22,
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 18,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 10,
    "num_key_value_heads": 1 << 10,
    "head_dim": 1 << 10,
    "max_position_embeddings": 1 << 22,
    "num_experts": 1 << 9,
    "moe_intermediate_size": 1 << 18,
    "decoder_sparse_step": 1 << 10,
}


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """Experts in the place of MLPs; names as in Hugging Face's Qwen3MoeConfig.

    mlp_only_layers: those that keep their MLP. decoder_sparse_step: so does every other one but
    each n-th. router_aux_loss_coef: the factor of a loss that evens out the experts' shares, which
    only training with output_router_logits has.
    """

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()
    output_router_logits: bool = False
    router_aux_loss_coef: float = 0.001


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and constants of a Qwen3; names as in Hugging Face's Qwen3Config.

    experts: None for a dense model.
    """

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
    experts: ExpertsConfig | None = None

    def experts_of(self, layer: int) -> ExpertsConfig | None:
        """Return the experts that a layer, counted from 0, has in its MLP's place; None: no."""
        experts = self.experts
        if experts is None or layer in experts.mlp_only_layers:
            return None
        return None if (layer + 1) % experts.decoder_sparse_step else experts

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
    if folder.suffix.lower() == ".gguf" and folder.is_file():
        raise UsageError(
            _("{folder} is a GGUF file, not a model folder.").format(folder=folder),
            why=_("danlu reads Hugging Face folders; GGUF is llama.cpp's format."),
            fix=_("Download the model as a folder with config.json and *.safetensors files."),
        )
    if folder.is_file():
        raise UsageError(
            _("{path} is a file, not a model folder.").format(path=folder),
            why=_("A model is a folder with config.json, tokenizer.json and *.safetensors files."),
            fix=_("Name the folder; danlu data check looks at files of data."),
        )
    if not folder.is_dir():
        raise UsageError(
            _("The model folder {folder} does not exist.").format(folder=folder),
            why=_("A model is a folder with config.json, tokenizer.json and *.safetensors files."),
            fix=_how_to_get(folder),
        )
    if not path.exists():
        raise UsageError(
            _("{folder} is not a model folder.").format(folder=folder),
            why=_("It holds no config.json."),
            fix=_("Point to the folder that holds config.json, or download the model again."),
        )
    return config_from_fields(read_model_json(path).fields, source=path)


def _how_to_get(folder: Path) -> str:
    """Say where the missing model comes from: a published one by its name, else the built-in."""
    if re.fullmatch(r"Qwen3-\d+(\.\d+)?B(-Base)?", folder.name):
        return _("Check the path, or download it: danlu pull {name}").format(name=folder.name)
    return _("Check the path, or use the built-in model: --model starter")


def read_model_json(path: Path) -> JsonFile:
    """Read a JSON file of a model folder. Raises DataError, EnvironmentFault."""
    return read_json_file(path, fix=_fix())


def _fix() -> str:
    return _("Download the model's files again, or correct the file.")


def config_from_fields(fields: Mapping[str, Any], *, source: Path) -> ModelConfig:
    """Build the config from config.json's fields; `source` is named in errors."""
    file = JsonFile(path=source, fields=fields, fix=_fix())
    _refuse_unsupported(file)

    def size(name: str, default: int | None = None) -> int:
        return file.integer(name, default, most=_MOST[name])

    hidden_size = size("hidden_size")
    num_attention_heads = size("num_attention_heads")
    num_key_value_heads = size("num_key_value_heads", num_attention_heads)
    if num_attention_heads % num_key_value_heads:
        raise file.broken(_("num_attention_heads is not a multiple of num_key_value_heads"))
    head_dim = size("head_dim", hidden_size // num_attention_heads)
    if head_dim % 2:
        raise file.broken(
            _("head_dim is {value}; RoPE needs an even number").format(value=head_dim)
        )
    return ModelConfig(
        vocab_size=size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=size("intermediate_size"),
        num_hidden_layers=size("num_hidden_layers"),
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=file.number(
            "rms_norm_eps", None if "rms_norm_eps" in fields else 1e-6, positive=True
        ),
        rope_theta=_rope_theta(file),
        max_position_embeddings=size("max_position_embeddings"),
        tie_word_embeddings=file.switch("tie_word_embeddings") or False,
        dtype=str(fields.get("dtype") or fields.get("torch_dtype") or "float32"),
        eos_token_ids=end_token_ids(file),
        experts=_experts(file) if fields["model_type"] == _OF_EXPERTS else None,
    )


def _experts(file: JsonFile) -> ExpertsConfig:
    """Read the experts; what is absent is what it is in Hugging Face's Qwen3MoeConfig."""

    def size(name: str, default: int) -> int:
        return file.integer(name, default, most=_MOST[name])

    # transformers 5 calls it num_local_experts in what it saves.
    name = "num_experts" if file.fields.get("num_experts") is not None else "num_local_experts"
    count = file.integer(name, 128, most=_MOST["num_experts"])
    dense = file.fields.get("mlp_only_layers")
    dense = [] if dense is None else dense
    if not isinstance(dense, list) or not all(type(n) is int and n >= 0 for n in dense):
        raise file.broken(_("{name} is no list of layers").format(name="mlp_only_layers"))
    return ExpertsConfig(
        num_experts=count,
        num_experts_per_tok=file.integer("num_experts_per_tok", 8, most=count),
        moe_intermediate_size=size("moe_intermediate_size", 768),
        norm_topk_prob=file.switch("norm_topk_prob") or False,
        decoder_sparse_step=size("decoder_sparse_step", 1),
        mlp_only_layers=tuple(sorted(set(dense))),
        output_router_logits=file.switch("output_router_logits") or False,
        router_aux_loss_coef=file.number("router_aux_loss_coef", 0.001),
    )


def end_token_ids(file: JsonFile) -> tuple[int, ...]:
    """Read `eos_token_id` of config.json or generation_config.json. Raises DataError."""
    try:
        return token_ids(file.fields.get("eos_token_id"))
    except ValueError as problem:
        raise file.broken(f"eos_token_id: {reason_of(problem)}") from problem


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


def _refuse_unsupported(file: JsonFile) -> None:
    fields, source = file.fields, file.path
    model_type = fields.get("model_type")
    refusals = {
        "model_type": model_type not in _MODEL_TYPES and model_type,
        "quantization_config": fields.get("quantization_config"),
        "use_sliding_window": fields.get("use_sliding_window"),
        "attention_bias": fields.get("attention_bias"),
        "hidden_act": fields.get("hidden_act", "silu") != "silu" and fields["hidden_act"],
        "rope_scaling": _rope_scaling(fields),
    }
    if model_type is None:
        raise file.broken(_("The field {name} is missing.").format(name="model_type"))
    for name, value in refusals.items():
        if value:
            raise UsageError(
                _("{source} describes a model that is not supported.").format(source=source),
                why=_("Its field {name} is {value}.").format(name=name, value=value),
                fix=_(
                    "Use a Qwen3 model as published (model_type qwen3 or qwen3_moe, bf16 weights)."
                ),
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


def _rope_theta(file: JsonFile) -> float:
    """Read the RoPE base: `rope_parameters.rope_theta` (newer files) or `rope_theta` (older).

    There is no default on purpose: a wrong base gives a model that speaks, but badly.
    """
    parameters = file.fields.get("rope_parameters")
    theta = parameters.get("rope_theta") if isinstance(parameters, Mapping) else None
    if theta is not None:
        file = replace(file, fields={"rope_theta": theta})
    return file.number("rope_theta", positive=True)
