"""config.json in every published form, and everything in it that must be refused."""

from __future__ import annotations

import json
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen3MoeConfig

from danlu.errors import DataError, UsageError
from danlu.model.config import config_from_fields, load_config, token_ids
from danlu.model.sizes import published_config

SOURCE = Path("somewhere/config.json")
FIELDS: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "eos_token_id": 5,
}
PUBLISHED = Path(__file__).resolve().parents[2] / ".." / "shared" / "qwen3" / "configs"


def read(**changes: Any) -> Any:
    """Read the fields with changes; a value of `...` removes its field."""
    fields = {k: v for k, v in (FIELDS | changes).items() if v is not ...}
    return config_from_fields(fields, source=SOURCE)


def test_old_and_new_names_say_the_same() -> None:
    new = read(
        rope_theta=...,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000},
        torch_dtype=...,
        dtype="bfloat16",
    )
    assert new == read()
    assert new.rope_theta == 1e6
    assert new.dtype == "bfloat16"


def test_a_missing_theta_is_an_error_and_never_a_default() -> None:
    for rope in ({}, {"rope_parameters": None}, {"rope_parameters": {"rope_type": "default"}}):
        with pytest.raises(DataError) as caught:
            read(rope_theta=..., **rope)
        assert "rope_theta" in caught.value.why
        assert str(SOURCE) in caught.value.what


def test_optional_fields() -> None:
    config = read(num_key_value_heads=..., head_dim=..., tie_word_embeddings=..., eos_token_id=...)
    assert config.num_key_value_heads == 4
    assert config.head_dim == 16
    assert not config.tie_word_embeddings
    assert config.eos_token_ids == ()


@pytest.mark.parametrize(
    ("value", "ids"), [(None, ()), (7, (7,)), ([7, 8], (7, 8)), (0, (0,)), ([], ())]
)
def test_end_tokens(value: Any, ids: tuple[int, ...]) -> None:
    assert token_ids(value) == ids


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": ...},
        {"hidden_size": 0},
        {"hidden_size": -64},
        {"num_hidden_layers": "2"},
        {"num_hidden_layers": True},
        {"intermediate_size": 96.0},
        {"num_key_value_heads": 3},
        {"head_dim": 33},
        {"model_type": ...},
        {"rope_theta": "1e6"},
        {"rope_theta": -1},
        {"rope_theta": 10**400},
        {"rms_norm_eps": "small"},
        {"rms_norm_eps": None},
        {"eos_token_id": "five"},
        {"eos_token_id": ["five"]},
        {"eos_token_id": {}},
    ],
    ids=str,
)
def test_bad_fields_name_the_field(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        read(**changes)
    assert next(iter(changes)) in caught.value.why


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "llama"},
        {"quantization_config": {"quant_method": "gptq"}},
        {"use_sliding_window": True},
        {"attention_bias": True},
        {"hidden_act": "gelu"},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}},
    ],
    ids=str,
)
def test_what_cannot_be_computed_is_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        read(**changes)
    assert next(iter(changes)) in caught.value.why or "rope_scaling" in caught.value.why


EXPERTS: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "decoder_sparse_step": 2,
    "mlp_only_layers": [3],
    "num_hidden_layers": 6,
}


def test_experts() -> None:
    config = read(**EXPERTS)
    assert config.experts is not None
    assert config.experts.norm_topk_prob
    with_experts = [n for n in range(6) if config.experts_of(n) is not None]
    assert with_experts == [1, 5]
    # What transformers 5 writes.
    assert read(**{**EXPERTS, "num_experts": ..., "num_local_experts": 8}) == config


def test_experts_that_are_not_described_are_as_transformers_has_them() -> None:
    theirs = Qwen3MoeConfig()
    ours = read(model_type="qwen3_moe").experts
    assert ours is not None
    for field in fields_of(ours):
        expected = getattr(theirs, field.name)
        got = getattr(ours, field.name)
        assert got == (tuple(expected) if isinstance(expected, list) else expected), field.name


@pytest.mark.parametrize(
    "changes",
    [
        {"num_experts_per_tok": 9},
        {"num_experts_per_tok": 0},
        {"num_experts": 0},
        {"num_experts": "8"},
        {"num_experts": 10**18},
        {"moe_intermediate_size": -1},
        {"moe_intermediate_size": 10**18},
        {"decoder_sparse_step": 0},
        {"mlp_only_layers": 3},
        {"mlp_only_layers": [-1]},
        {"mlp_only_layers": ["3"]},
        {"norm_topk_prob": "yes"},
        {"router_aux_loss_coef": -0.1},
        {"output_router_logits": 1},
    ],
    ids=str,
)
def test_bad_experts_name_the_field(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        read(**{**EXPERTS, **changes})
    assert next(iter(changes)) in caught.value.why
    assert str(SOURCE) in caught.value.what


def test_a_dense_model_has_no_experts_whatever_else_its_file_says() -> None:
    assert read(num_experts=8, mlp_only_layers=3) == read()


def test_missing_folder_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_config(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="not a model folder"):
        load_config(tmp_path)


@pytest.mark.parametrize("name", ["Qwen3-8B", "Qwen3-0.6B", "Qwen3-4B-Base"])
def test_a_published_model_that_is_missing_comes_with_its_download(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(tmp_path / "my models" / name)
    assert f"danlu pull {name}" in caught.value.fix


def test_a_gguf_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UsageError, match="is a GGUF file"):
        load_config(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    "changes",
    [
        *({name: 10**18} for name in FIELDS if name.endswith("size") or name.startswith("num_")),
        {"head_dim": 10**18},
        {"num_hidden_layers": 2**31},
        {"max_position_embeddings": 2**31},
    ],
    ids=str,
)
def test_sizes_that_no_machine_holds_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(DataError, match="at most") as caught:
        read(**changes)
    assert next(iter(changes)) in caught.value.why


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'"text"', b"[" * 100_000])
def test_a_file_that_is_no_json_object(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(DataError, match=r"config\.json"):
        load_config(tmp_path)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the folder shared lies not beside the checkout")
def test_every_published_size() -> None:
    experts = {"Qwen3-30B-A3B": 48, "Qwen3-235B-A22B": 94}
    seen = 0
    for folder in sorted(p for p in PUBLISHED.iterdir() if p.is_dir()):
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = load_config(folder)
        seen += 1
        assert config.hidden_size == fields["hidden_size"]
        assert config.rope_theta == fields["rope_theta"]
        assert config.eos_token_ids == (151645,)
        with_experts = [config.experts_of(n) for n in range(config.num_hidden_layers)]
        assert sum(one is not None for one in with_experts) == experts.get(folder.name, 0)
        assert replace(config, eos_token_ids=()) == published_config(folder.name)
    assert seen >= 8
