"""Models with int8 and int4 weights: what they compute, and the memory it takes to load them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.device.detect import select
from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request
from danlu.errors import CapacityError, DataError, UsageError
from danlu.hub.load import load_model
from danlu.hub.names import STARTER
from danlu.model.config import Quantization, WeightForm
from danlu.model.layout import PROJECTIONS
from danlu.model.quantized import quantized_bytes
from danlu.model.qwen3 import Qwen3
from tests.helpers.models.few_bits import quantized
from tests.helpers.models.invariants import check_engine
from tests.helpers.models.logits import logits
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.models.tiny_engine import GREEDY, random_adapter, tokens_of

CPU = select("cpu")
both = pytest.mark.parametrize("quantization", ["int8", "int4"])
# Widths that int4 can have, as the tiny model's are, and an output matrix of its own.
UNTIED = {"tie_word_embeddings": False}


@both
@pytest.mark.parametrize("overrides", [{}, UNTIED], ids=["tied", "untied"])
def test_every_matrix_is_quantised_and_nothing_else(
    quantization: Quantization, overrides: dict[str, Any], tmp_path: Path
) -> None:
    folder = str(write_model_folder(tmp_path / "model", **overrides))
    plain = load_model(folder, device=CPU).model
    model = load_model(folder, device=CPU, quantization=quantization).model
    bits = 8 if quantization == "int8" else 4
    weights = [("head.lm_head", plain.head.lm_head)]
    weights += [
        (f"layers.{index}.{name}", getattr(layer, name))
        for index, layer in enumerate(plain.layers)
        for name in PROJECTIONS
    ]
    for name, matrix in weights:
        kept = list(model.get_submodule(name).buffers())
        for ours, wanted in zip(kept, quantized(bits, matrix), strict=True):
            assert torch.equal(ours, wanted), name
    rest = dict(model.named_parameters())
    assert len(rest) == len(dict(plain.named_parameters())) - len(weights) + model_is_tied(plain)
    for name, tensor in rest.items():
        assert torch.equal(tensor, plain.get_parameter(name)), name


def model_is_tied(model: Qwen3) -> bool:
    return model.head.lm_head is model.embed_tokens


@both
def test_an_adapter_adds_to_quantised_weights(quantization: Quantization, tmp_path: Path) -> None:
    folder = str(write_model_folder(tmp_path / "model"))
    plain = load_model(folder, device=CPU, dtype=torch.float32).model
    loaded = load_model(folder, device=CPU, dtype=torch.float32, quantization=quantization)
    tokens = list(range(5, 45))
    adapter = random_adapter(1, like=plain)
    exact, without = logits(plain, tokens, adapter), logits(plain, tokens)
    error = (logits(loaded.model, tokens, adapter) - exact).norm() / exact.norm()
    assert error < (0.02 if quantization == "int8" else 0.2)
    assert (without - exact).norm() / exact.norm() > 5 * error  # the adapter is what was added


@both
def test_the_starter_says_nearly_the_same(quantization: Quantization) -> None:
    plain = load_model(STARTER, device=CPU)
    loaded = load_model(STARTER, device=CPU, quantization=quantization)
    tokens = plain.tokenizer.encode_text("What is the capital of France? 法国的首都是巴黎。" * 12)
    exact, ours = logits(plain.model, tokens), logits(loaded.model, tokens)
    same = (exact.argmax(1) == ours.argmax(1)).float().mean().item()
    assert same >= (0.97 if quantization == "int8" else 0.85)


@both
def test_requests_of_many_lengths_run_together(quantization: Quantization, tmp_path: Path) -> None:
    folder = str(write_model_folder(tmp_path / "model"))
    loaded = load_model(folder, device=CPU, quantization=quantization)
    engine = Engine(loaded.model, loaded.tokenizer, prompt_tokens_per_step=32)
    adapters = [None, random_adapter(1, like=loaded.model)]
    outputs: list[Output] = []
    for length in (1, 3, 40, 90):
        for adapter in adapters:
            request = Request(prompt=tuple(range(5, 5 + length)), sampling=GREEDY, adapter=adapter)
            engine.add(request, outputs.append)
    while engine.num_unfinished:
        engine.step()
    check_engine(engine)
    assert all(output.error is None for output in outputs)
    assert len(tokens_of(outputs)) == 8 * (GREEDY.max_tokens or 0)


def test_int4_needs_widths_that_fit(tmp_path: Path) -> None:
    folder = str(write_model_folder(tmp_path / "model", intermediate_size=80))
    load_model(folder, device=CPU, quantization="int8")
    with pytest.raises(UsageError, match="cannot be kept in int4") as refused:
        load_model(folder, device=CPU, quantization="int4")
    assert refused.value.fix == "--quantization int8"


@both
def test_damaged_weights_are_refused_as_ever(quantization: Quantization, tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_model(str(folder), device=CPU, quantization=quantization)


def test_what_fits_only_in_fewer_bits_is_loaded(tmp_path: Path) -> None:
    folder = str(write_model_folder(tmp_path / "model"))
    config = load_model(folder, device=CPU).config
    sizes = {
        q: quantized_bytes(config, torch.float32, q)  # type: ignore[arg-type]
        for q in (None, "int8", "int4")
    }
    for quantization in (None, "int8", "int4"):
        device = replace(CPU, memory_bytes=sizes["int8"])
        if sizes[quantization] > sizes["int8"]:
            with pytest.raises(CapacityError, match="does not fit"):
                load_model(folder, device=device, dtype=torch.float32)
        else:
            load_model(folder, device=device, dtype=torch.float32, quantization=quantization)
    assert sizes[None] > sizes["int8"] > sizes["int4"]


@both
def test_the_size_said_is_the_size_taken(quantization: Quantization, tmp_path: Path) -> None:
    folder = str(write_model_folder(tmp_path / "model", hidden_size=256))
    loaded = load_model(folder, device=CPU, quantization=quantization)
    tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
    taken = sum(tensor.nbytes for tensor in tensors)
    # Scales of whole outputs in int8, and what fills the last block of int4, are not counted.
    assert taken == pytest.approx(
        quantized_bytes(loaded.config, loaded.dtype, quantization), rel=0.02
    )


LOAD = """
import json, sys
from pathlib import Path
import torch
from danlu.device.memory import peak_bytes
from danlu.model.quantized import quantized_model
from danlu.model.qwen3 import Qwen3
from danlu.weights.sharded import WeightFolder
from danlu.weights.safetensors import header_bytes
from dataclasses import replace
from tests.helpers.models.tiny_model import TINY

config = replace(
    TINY, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
    num_attention_heads=16, num_key_value_heads=8, head_dim=128, vocab_size=65536,
)
outline = Qwen3(config, device=torch.device("meta"), dtype=torch.bfloat16)
tensors = dict(outline.hf_tensors())
path = Path(sys.argv[1]) / "model.safetensors"
header = header_bytes([(n, t.dtype, tuple(t.shape)) for n, t in tensors.items()])
with path.open("wb") as file:
    file.write(header)
    file.truncate(len(header) + sum(t.nbytes for t in tensors.values()))
weights = WeightFolder(path.parent)
x = torch.zeros(1, 1024, dtype=torch.bfloat16)
torch.nn.functional.linear(x, x)  # the libraries' own memory
before = peak_bytes(torch.device("cpu"))
model = quantized_model(
    config, sys.argv[2], weights.read_into, device=torch.device("cpu"),
    dtype=torch.bfloat16, keeps_head=sys.argv[2] == "nf4",
)
taken = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
print(json.dumps([taken, peak_bytes(torch.device("cpu")) - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
# Each takes a process of several seconds: all but one run before merging.
@pytest.mark.parametrize(
    "quantization",
    [
        pytest.param("int8", marks=pytest.mark.soak),
        "int4",
        pytest.param("nf4", marks=pytest.mark.soak),
    ],
)
def test_loading_takes_hardly_more_than_the_result(
    quantization: WeightForm, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", LOAD, str(tmp_path), quantization]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    taken, grown = json.loads(run.stdout)
    print(f"{taken / 1e6:.0f} MB are kept, {grown / 1e6:.0f} were needed at most")
    assert taken > 350e6
    assert 0.95 * taken < grown < 1.1 * taken
