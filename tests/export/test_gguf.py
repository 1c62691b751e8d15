"""A GGUF file read back by another program's reader: numbers, vocabulary, template, answers."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danlu.cli.main import main
from danlu.errors import CapacityError, DataError
from danlu.export.gguf_model import export
from danlu.export.ollama import go_template
from danlu.files import os_errors as faults
from danlu.files.committed import verify
from danlu.hub.load import load_model
from danlu.hub.prompting import Prompting
from danlu.hub.template_default import ANSWERS_AT_ONCE
from danlu.text.vocabulary import read_vocabulary
from danlu.weights.gguf import quantize_q8_0
from tests.helpers.models.model_folder import write_model_folder

gguf = pytest.importorskip("gguf", reason="pip install gguf: it reads the files back")
TEMPLATE = "{%- for message in messages -%}{{ message.content }}{%- endfor -%}"


def write(tmp_path: Path, kind: Any = "bf16", **overrides: Any) -> tuple[Path, Path]:
    """Export a tiny model; return its folder and the file."""
    model = write_model_folder(tmp_path / "model", **overrides)
    (model / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    report = export(str(model), tmp_path / "out", form="gguf", type=kind, prompting=Prompting())
    verify(tmp_path / "out")
    return model, tmp_path / "out" / report.file


def field(reader: Any, name: str) -> Any:
    return reader.get_field(name).contents()


def names_of(config: Any) -> dict[str, str]:
    """Map Hugging Face's names to GGUF's, as the reader's own package does."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)

    def name(hf_name: str) -> str:
        return str(table.get_name(hf_name, try_suffixes=(".weight",)))

    class Names(dict[str, str]):
        __missing__ = staticmethod(name)

    return Names()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", ["bf16", "q8_0"])
def test_every_tensor_is_there_with_its_numbers(tmp_path: Path, kind: str, tied: bool) -> None:
    model, path = write(tmp_path, kind, tie_word_embeddings=tied)
    loaded = load_model(str(model), device=_cpu(), dtype=torch.float32)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    names = names_of(loaded.config)
    wanted = dict(loaded.model.hf_tensors())
    assert {names[name] for name in wanted} == set(found)
    for name, tensor in wanted.items():
        stored = found[names[name]]
        numbers = gguf.quants.dequantize(stored.data, stored.tensor_type)
        if tensor.dim() == 1:
            assert stored.tensor_type.name == "F32"
        elif kind == "bf16":
            assert stored.tensor_type.name == "BF16"
        else:
            assert stored.tensor_type.name == "Q8_0"
            ours = gguf.quants.quantize(tensor.numpy(), stored.tensor_type)
            assert np.array_equal(stored.data, ours)
            assert abs(numbers - tensor.numpy()).max() <= abs(tensor).max() / 127
            continue
        assert np.array_equal(numbers.reshape(tensor.shape), tensor.numpy())


def test_the_reference_quantises_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 96, generator=generator) * torch.logspace(-6, 3, 64)[:, None]
    rows[3] = 0.0
    rows[4, 0] = 127.0  # halves: those of this block are away from zero
    rows[4, 1:32] = torch.arange(31) + 0.5
    theirs = gguf.quants.quantize(rows.numpy(), gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(quantize_q8_0(rows).numpy().reshape(theirs.shape), theirs)


def test_vocabulary_template_and_settings(tmp_path: Path) -> None:
    model, path = write(tmp_path)
    reader = gguf.GGUFReader(path)
    config = load_model(str(model), device=_cpu()).config
    vocabulary = read_vocabulary(model)
    tokens = field(reader, "tokenizer.ggml.tokens")
    types = field(reader, "tokenizer.ggml.token_type")
    fields = json.loads((model / "tokenizer.json").read_text("utf-8"))
    assert len(tokens) == len(types) == config.vocab_size
    assert all(tokens[id_] == token for token, id_ in fields["model"]["vocab"].items())
    for added in fields["added_tokens"]:
        assert tokens[added["id"]] == added["content"]
        assert types[added["id"]] == (3 if added["special"] else 4)
    assert len(set(tokens)) == len(tokens)  # llama.cpp wants a name for each
    merges = field(reader, "tokenizer.ggml.merges")
    assert merges == [" ".join(pair) for pair in vocabulary.merges]
    assert field(reader, "tokenizer.ggml.pre") == "qwen2"
    end = next(t["id"] for t in fields["added_tokens"] if t["content"] == "<|im_end|>")
    assert field(reader, "tokenizer.ggml.eos_token_id") == end
    assert field(reader, "tokenizer.chat_template") == TEMPLATE
    assert field(reader, "qwen3.rope.freq_base") == config.rope_theta
    assert field(reader, "qwen3.attention.key_length") == config.head_dim


def test_a_model_that_answers_at_once_does_so_by_default(tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model")
    at_once = Prompting(enable_thinking=False)
    report = export(str(model), tmp_path / "out", form="ollama", type="q8_0", prompting=at_once)
    reader = gguf.GGUFReader(tmp_path / "out" / report.file)
    # It has no template of its own: danlu's, with the trained default.
    assert field(reader, "tokenizer.chat_template").startswith(ANSWERS_AT_ONCE)
    assert field(reader, "general.sampling.temp") == pytest.approx(0.7)
    lines = (tmp_path / "out" / "Modelfile").read_text("utf-8")
    assert lines.startswith(f"FROM ./{report.file}\n")
    assert 'assistant\n<think>\n\n</think>\n\n"""' in lines
    assert ".Thinking" not in lines  # or Ollama would offer to think
    assert 'PARAMETER stop "<|im_end|>"\n' in lines


def test_a_model_that_thinks_can_be_told_not_to_in_ollama() -> None:
    template = go_template(Prompting())
    assert template.endswith(
        "{{ if and .IsThinkSet (not .Think) }}<think>\n\n</think>\n\n{{ end }}"
    )
    assert ".Thinking" in template
    assert go_template(Prompting(template="qwen3_thinking")).endswith("assistant\n<think>\n")
    assert go_template(Prompting(template="qwen3_nothink")).endswith("<|im_start|>assistant\n")


def test_what_cannot_be_exported_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = write(tmp_path)
    words = ["export", str(model), "--export_dir", str(path.parent)]
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-3:]
    assert "not empty" in error[0]
    assert main(shlex.split(error[2])[1:]) == 0
    monkeypatch.setattr(faults, "free_bytes", lambda _path: 1000)
    with pytest.raises(CapacityError):
        export(str(model), tmp_path / "no", form="gguf", type="bf16", prompting=Prompting())
    file = model / "tokenizer.json"
    fields = json.loads(file.read_text("utf-8"))
    fields["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+"
    file.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(DataError, match="cannot be exported"):
        export(str(model), tmp_path / "no", form="gguf", type="bf16", prompting=Prompting())
    assert not (tmp_path / "no").exists()


def test_an_adapter_is_to_be_merged_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert main(["export", str(tmp_path / "adapter"), "--export_dir", str(tmp_path / "no")]) == 2
    assert "danlu merge --adapter" in capsys.readouterr().err


@pytest.mark.skipif(
    "DANLU_LLAMACPP_PYTHON" not in os.environ,
    reason="DANLU_LLAMACPP_PYTHON names no Python with llama-cpp-python",
)
@pytest.mark.parametrize("kind", ["bf16", "q8_0"])
def test_llamacpp_answers_alike(tmp_path: Path, kind: Any) -> None:
    from tools.gguf_check import compare

    report = export("starter", tmp_path / "out", form="gguf", type=kind, prompting=Prompting())
    python = Path(os.environ["DANLU_LLAMACPP_PYTHON"])
    results = compare("starter", tmp_path / "out" / report.file, python)
    assert all(each.same_prompt for each in results)
    # q8_0 rounds the weights; which answers stay the same is not ours to say.
    assert kind == "q8_0" or all(each.same_answer for each in results)


def _cpu() -> Any:
    from danlu.device.detect import select

    return select("cpu")
