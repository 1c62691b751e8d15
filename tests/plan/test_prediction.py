"""Whole runs in processes of their own: the memory they took against what the plan had said."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from danlu.runs.manifest import read_manifest
from tests.helpers.model_folder import write_model_folder
from tests.helpers.program import start

MB = 10**6
# Each about 2,100 tokens a step; the first leaves everything to the plan.
SETTINGS: list[dict[str, Any]] = [
    {},
    {"micro_batch_tokens": 4096, "recompute": "none", "lora_dropout": 0.1},
    {"micro_batch_tokens": 4096, "recompute": "block", "lora_rank": 64},
    {"micro_batch_tokens": 1024, "recompute": "selective", "dtype": "float32"},
    {"micro_batch_tokens": 4096, "recompute": "gate_up", "lora_target": "q_proj,v_proj"},
    {"micro_batch_tokens": 2048, "recompute": "none", "finetuning_type": "full"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that activations outweigh the program."""
    return write_model_folder(
        tmp_path_factory.mktemp("model") / "model",
        hidden_size=512, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, head_dim=64,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    texts = [f"{n} " + "the quick brown fox jumps over it. " * (2 + n % 5) for n in range(48)]
    lines = [json.dumps({"instruction": text, "output": text}) + "\n" for text in texts]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("given", SETTINGS, ids=lambda given: "-".join(map(str, given.values())))
def test_peak_memory(tmp_path: Path, model: Path, rows: Path, given: dict[str, Any]) -> None:
    settings = {
        "model": model, "dataset": rows, "max_steps": 2, "dtype": "bfloat16", "device": "cpu",
        "report": "false", "plot_loss": "false", **given,
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in (f"--{key}", f"{value}")]
    out = tmp_path / "run"
    # The time is not looked at here: tiny steps need not be long, nor be repeated.
    both = f"""
from danlu.cli.main import main
from danlu.train.loop import probe
probe.TIMES, probe.LONGEST_S = 1, 0.5
words = {words}
code = main(["plan", *words, "--json"])
raise SystemExit(code or main(["train", *words, "--output_dir", {str(out)!r}]))
"""
    with start([], program=both, stdout=PIPE, text=True) as process:
        printed, _nothing = process.communicate()
    assert process.returncode == 0
    predicted = json.loads(printed.splitlines()[0])["memory_bytes"]["total"]
    run = read_manifest(out)
    measured = run.results["peak_memory_bytes"]
    calibrated = run.plan["memory_bytes"]["total"]
    print(
        f"planned {predicted / MB:.0f} MB, after the probe {calibrated / MB:.0f} MB, "
        f"measured {measured / MB:.0f} MB"
    )
    for figure in (predicted, calibrated):
        assert abs(figure - measured) <= max(0.08 * measured, 150 * MB)
