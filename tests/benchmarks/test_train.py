"""The training benchmark's arithmetic, against a tiny shape worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.train.flops import (
    Shape,
    attention_flops,
    lora_flops,
    projection_flops,
    step_flops,
)
from benchmarks.train.inputs import Inputs, write_rows
from benchmarks.train.measured import Measured, Step
from benchmarks.train.process import Finished, run
from benchmarks.train.recipe import ROWS_PER_STEP, SEED
from benchmarks.train.report import figures, ratios, table
from danlu.data.tokens.order import epoch_order

# Two layers. A layer's projections: q 4x6, k and v 4x2, o 6x4, gate and up 4x8, down 8x4.
TINY = Shape(num_layers=2, hidden=4, query=6, key_value=2, intermediate=8, vocab=10)


def test_the_shape_comes_from_the_config(tmp_path: Path) -> None:
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 4,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 2,
        "intermediate_size": 8,
        "vocab_size": 10,
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert Shape.read(tmp_path) == TINY


def test_projections_are_counted_forward_and_for_the_input_gradient() -> None:
    layer = 24 + 8 + 8 + 24 + 32 + 32 + 32
    first_layer_passes_nothing_on = 24 + 8 + 8
    forward = 2 * 2 * layer
    backward = 2 * (2 * layer - first_layer_passes_nothing_on)
    assert projection_flops(TINY) == forward + backward == 1200


def test_adapters_are_counted_with_all_three_products() -> None:
    # Rank 3: a is 3 x inputs, b is outputs x 3.
    layer = 3 * ((4 + 6) + (4 + 2) + (4 + 2) + (6 + 4) + (4 + 8) + (4 + 8) + (8 + 4))
    first_layer_passes_nothing_on = 3 * (4 + 4 + 4)
    forward, weights = 2 * 2 * layer, 2 * 2 * layer
    inputs = 2 * (2 * layer - first_layer_passes_nothing_on)
    assert lora_flops(TINY, 3) == forward + weights + inputs == 2376


def test_attention_is_causal_and_of_each_example_alone() -> None:
    # Three tokens: 6 pairs, each 2 x 6 in a product; 2 products forward, 4 backward; 2 layers.
    assert attention_flops(TINY, 3) == 6 * 12 * 6 * 2
    packed = Step(seconds=1, lengths=[3, 3], computed_tokens=6, head_rows=0)
    per_token = projection_flops(TINY) + lora_flops(TINY, 3)
    assert step_flops(TINY, packed, lora_rank=3) == 6 * per_token + 2 * attention_flops(TINY, 3)


def test_the_output_matrix_counts_on_the_rows_it_is_given() -> None:
    def flops(head_rows: int) -> int:
        step = Step(seconds=1, lengths=[2], computed_tokens=2, head_rows=head_rows)
        return step_flops(TINY, step, lora_rank=3)

    # 2 x 4 x 10 forward, the same for the gradient of the hidden row.
    assert flops(1) - flops(0) == 160


def measured(seconds: float, *, padded: int) -> Measured:
    warm_up = Step(seconds=100.0, lengths=[1], computed_tokens=1, head_rows=1)
    step = Step(seconds=seconds, lengths=[3, 5], computed_tokens=padded, head_rows=8)
    return Measured(first_forward=12.5, threads=2, versions={}, steps=[warm_up, step, step])


def finished(peak_bytes: int) -> Finished:
    return Finished(started=10.0, peak_bytes=peak_bytes, cores_used=2.0)


def test_figures_leave_out_the_first_step_and_the_padding() -> None:
    step = Step(seconds=2, lengths=[3, 5], computed_tokens=10, head_rows=8)
    flops = step_flops(TINY, step, lora_rank=8)
    side = figures(measured(2.0, padded=10), finished(3 * 10**9), TINY, gemm_gflops=flops / 1e9)
    assert side["tokens_per_s"] == 4.0
    assert side["utilisation"] == 0.5
    assert side["padding"] == 0.2
    assert side["peak_memory_gb"] == 3.0
    assert side["first_forward_s"] == 2.5


def test_ratios_are_danlus_figures_by_the_peers() -> None:
    sides = {
        name: figures(measured(seconds, padded=8), finished(peak), TINY, gemm_gflops=1.0)
        for name, seconds, peak in (("danlu", 1e-5, 2 * 10**9), ("loop", 4e-5, 8 * 10**9))
    }
    compared = ratios(sides)
    assert list(compared) == ["danlu / loop"]
    assert compared["danlu / loop"]["tokens_per_s"] == 4.0
    assert compared["danlu / loop"]["peak_memory_gb"] == 0.25
    assert "4.00 x" in table(sides, compared)
    del sides["danlu"]
    assert ratios(sides) == {}


def test_what_a_side_reports_survives_its_file(tmp_path: Path) -> None:
    before = measured(2.0, padded=10)
    before.save(tmp_path / "result.json")
    assert Measured.load(tmp_path / "result.json") == before


def test_the_peers_get_the_rows_in_danlus_order(tmp_path: Path) -> None:
    rows = [{"instruction": str(number), "output": "x"} for number in range(3 * ROWS_PER_STEP)]
    data = tmp_path / "data.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    inputs = Inputs(folder=tmp_path / "inputs")
    write_rows(inputs, data, num_steps=2)

    def numbers(folder: Path) -> list[int]:
        written = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
        return [int(row["instruction"]) for row in written]

    assert numbers(inputs.shuffled) == list(range(2 * ROWS_PER_STEP))
    assert numbers(inputs.in_order) == epoch_order(2 * ROWS_PER_STEP, SEED, 0).tolist()
    with pytest.raises(SystemExit, match="has 48 rows, and 4 steps need 64"):
        write_rows(inputs, data, num_steps=4)


def test_a_process_is_measured_alone_and_a_failure_shows_its_last_words(tmp_path: Path) -> None:
    def shell(script: str) -> Finished:
        return run(["bash", "-c", script], folder=tmp_path, environment={}, log=tmp_path / "log")

    assert shell("echo hello >> seen").peak_bytes > 0
    assert (tmp_path / "seen").read_text() == "hello\n"
    with pytest.raises(SystemExit, match=r"(?s)no such thing.*failed \(3\): bash"):
        shell("echo no such thing; exit 3")
