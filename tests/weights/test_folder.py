"""A model's weights in one file or in shards: strict loading, saving that others read, memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3ForCausalLM

from danlu.errors import DataError, UsageError
from danlu.files.committed import committed_folder
from danlu.weights.sharded import TensorPlan, WeightFolder, save_weights
from tests.helpers.models.hugging_face import transformers_twin
from tests.helpers.models.packed import packed_logits, random_tokens
from tests.helpers.models.tiny_model import tiny_model

ALIASES = {"lm_head.weight": "model.embed_tokens.weight"}


def hf_tensors(*, tied: bool = True, seed: int = 0) -> dict[str, Tensor]:
    return dict(tiny_model(tie_word_embeddings=tied, seed=seed)[1].hf_tensors())


def save(folder: Path, tensors: dict[str, Tensor], *, shard_bytes: int = 10**9) -> None:
    plans = [TensorPlan(name=n, dtype=t.dtype, shape=tuple(t.shape)) for n, t in tensors.items()]
    with committed_folder(folder) as draft:
        save_weights(draft, plans, tensors.__getitem__, shard_bytes=shard_bytes)


def refusal(folder: Path, wanted: dict[str, Tensor] | None = None) -> str:
    """What a DataError on loading says, in all its lines."""
    with pytest.raises(DataError) as caught:
        WeightFolder(folder, ALIASES).load(wanted or hf_tensors())
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one good file."""
    save_file(hf_tensors(), tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("shard_bytes", [10**9, 60_000])
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_is_what_is_loaded(tied: bool, shard_bytes: int, tmp_path: Path) -> None:
    stored = hf_tensors(tied=tied)
    save(tmp_path / "model", stored, shard_bytes=shard_bytes)
    loaded = hf_tensors(tied=tied, seed=1)
    weights = WeightFolder(tmp_path / "model")
    weights.load(loaded)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())
    assert weights.num_bytes == sum(t.nbytes for t in stored.values())


def test_the_safetensors_library_reads_a_saved_file(tmp_path: Path) -> None:
    stored = hf_tensors()
    save(tmp_path / "model", stored)
    theirs = load_file(tmp_path / "model" / "model.safetensors")
    assert set(theirs) == set(stored)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("shard_bytes", [10**9, 60_000])
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_a_saved_folder(tied: bool, shard_bytes: int, tmp_path: Path) -> None:
    config, model = tiny_model(tie_word_embeddings=tied)
    folder = tmp_path / "model"
    save(folder, dict(model.hf_tensors()), shard_bytes=shard_bytes)
    transformers_twin(model).config.save_pretrained(folder)
    theirs = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = random_tokens(config, 9)
    with torch.no_grad():
        expected = theirs(input_ids=tokens[None]).logits[0]
        got = packed_logits(model, tokens, [9])
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_shards_keep_to_their_size_and_the_index_names_every_tensor(tmp_path: Path) -> None:
    stored = hf_tensors()
    save(tmp_path / "model", stored, shard_bytes=60_000)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text("utf-8"))
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in stored.values())
    assert set(index["weight_map"]) == set(stored)
    shards = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    for shard in shards:
        held = load_file(shard)
        assert sum(t.nbytes for t in held.values()) <= 60_000
        assert {n for n, file in index["weight_map"].items() if file == shard.name} == set(held)


def test_saving_converts_to_the_planned_dtype(tmp_path: Path) -> None:
    tensor = torch.randn(3, 4)
    plan = TensorPlan(name="x", dtype=torch.bfloat16, shape=(3, 4))
    with committed_folder(tmp_path / "model") as draft:
        save_weights(draft, [plan], lambda _name: tensor)
    stored = load_file(tmp_path / "model" / "model.safetensors")["x"]
    assert torch.equal(stored, tensor.bfloat16())


def test_a_missing_tensor(folder: Path) -> None:
    tensors = hf_tensors()
    del tensors["model.layers.1.self_attn.k_norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    text = refusal(folder)
    assert "model.layers.1.self_attn.k_norm.weight" in text
    assert str(folder) in text


def test_a_surplus_tensor(folder: Path) -> None:
    save_file(hf_tensors() | {"model.extra": torch.zeros(2)}, folder / "model.safetensors")
    text = refusal(folder)
    assert "model.extra" in text
    assert "model.safetensors" in text


def test_a_wrong_shape(folder: Path) -> None:
    tensors = hf_tensors() | {"model.norm.weight": torch.zeros(65)}
    save_file(tensors, folder / "model.safetensors")
    text = refusal(folder)
    assert "model.norm.weight" in text
    assert "[65]" in text


def test_a_wrong_dtype(folder: Path) -> None:
    tensors = hf_tensors() | {"model.norm.weight": torch.zeros(64, dtype=torch.int8)}
    save_file(tensors, folder / "model.safetensors")
    text = refusal(folder)
    assert "model.norm.weight" in text
    assert "I8" in text


@pytest.mark.parametrize(
    "change", [{"model.extra": torch.zeros(2)}, {"model.norm.weight": torch.zeros(65)}], ids=list
)
def test_a_mismatch_is_found_before_the_first_byte(change: dict[str, Tensor], folder: Path) -> None:
    """Reading a large model takes minutes: too late to say that a name does not belong."""
    save_file(hf_tensors() | change, folder / "model.safetensors")
    wanted = hf_tensors(seed=5)
    refusal(folder, wanted)
    assert all(torch.equal(wanted[name], tensor) for name, tensor in hf_tensors(seed=5).items())


def test_a_tied_head_stored_as_well_is_accepted_if_it_equals_the_embedding(folder: Path) -> None:
    tensors = hf_tensors()
    same = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors | {"lm_head.weight": same}, folder / "model.safetensors")
    loaded = hf_tensors(seed=1)
    WeightFolder(folder, ALIASES).load(loaded)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_tied_head_that_differs_is_refused(folder: Path) -> None:
    tensors = hf_tensors()
    other = tensors["model.embed_tokens.weight"].clone()
    other[-1, -1] += 1
    save_file(tensors | {"lm_head.weight": other}, folder / "model.safetensors")
    assert "lm_head.weight" in refusal(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save(tmp_path / "model", hf_tensors(), shard_bytes=60_000)
    shard = sorted((tmp_path / "model").glob("*.safetensors"))[1]
    shard.unlink()
    assert shard.name in refusal(tmp_path / "model")


def test_a_missing_shard_is_noticed_without_an_index(tmp_path: Path) -> None:
    save(tmp_path / "model", hf_tensors(), shard_bytes=60_000)
    (tmp_path / "model" / "model.safetensors.index.json").unlink()
    sorted((tmp_path / "model").glob("*.safetensors"))[-1].unlink()
    assert "shards exist" in refusal(tmp_path / "model")


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    tensors = hf_tensors()
    save_file(tensors, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"model.norm.weight": torch.ones(64)}, tmp_path / "model-00002-of-00002.safetensors")
    text = refusal(tmp_path)
    assert "model.norm.weight" in text
    assert "model-00001-of-00002" in text


INDEXES = {
    "empty": "",
    "list": "[]",
    "no map": "{}",
    "map is a list": '{"weight_map": []}',
    "number": '{"weight_map": {"a": 1}}',
    "deep": "[" * 100_000,
    "parent": '{"weight_map": {"a": "../model.safetensors"}}',
    "absolute": '{"weight_map": {"a": "/etc/passwd"}}',
}


@pytest.mark.parametrize("content", INDEXES.values(), ids=INDEXES)
def test_a_damaged_index(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    assert "index.json" in refusal(tmp_path)


def test_the_single_file_is_preferred_as_hugging_face_does(folder: Path) -> None:
    """A stale index beside it changes nothing."""
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone"}}', "utf-8")
    WeightFolder(folder).load(hf_tensors())


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no weights"):
        WeightFolder(tmp_path)


LOAD = """
import json, sys
from pathlib import Path
import torch
from danlu.model.qwen3 import Qwen3
from danlu.weights.sharded import WeightFolder
from danlu.weights.safetensors import header_bytes
from tests.helpers.models.tiny_model import tiny_model
from dataclasses import replace

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

config, _model = tiny_model()
config = replace(
    config, hidden_size=1024, intermediate_size=3072, num_hidden_layers=6,
    num_attention_heads=16, num_key_value_heads=8, head_dim=128, vocab_size=8192,
)
model = Qwen3(config, device=torch.device("cpu"), dtype=torch.bfloat16)
tensors = dict(model.hf_tensors())
path = Path(sys.argv[1]) / "model.safetensors"
grown = []
for stored in (torch.bfloat16, torch.float32):
    header = header_bytes([(n, stored, tuple(t.shape)) for n, t in tensors.items()])
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(t.numel() * stored.itemsize for t in tensors.values()))
    before = peak()
    WeightFolder(path.parent).load(tensors)
    grown.append(peak() - before)
print(json.dumps([sum(t.nbytes for t in tensors.values()), *grown]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_holds_the_weights_once(tmp_path: Path) -> None:
    """200 MB of weights: a conversion may add what does not grow with the model, no second copy.

    The weights' memory counts when they are first filled; the second load fills it again. Measured
    for the conversion: 52 MB with 6 layers and with 18 (8 MB buffers that the allocator keeps).
    """
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    weights_bytes, same_dtype, converted = json.loads(run.stdout)
    assert weights_bytes > 190e6
    assert 0.9 * weights_bytes < same_dtype < 1.05 * weights_bytes
    assert converted < 80e6  # a second copy would be 206 MB, or 411 in fp32
