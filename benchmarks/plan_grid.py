"""The plan's memory and time against whole runs: 30 settings, each in a process of its own.

    python -m benchmarks.plan_grid --tokenizer FOLDER --data ROWS.json [--output results.json]

Two shapes with random weights and the real vocabulary: a small one for most settings, that of
Qwen3-0.6B with fewer layers for some. `planned` is what `danlu plan` says before anything has run;
time is compared after the run's own probe. A run of five steps is timed without its first; the
median step counts, since one of four is easily held up by something else on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHAPES = {
    "small": (512, 1536, 8, 8, 4, 64),
    "0.6B, 8 layers": (1024, 3072, 8, 16, 8, 128),
}
STEPS = 5


def settings() -> list[tuple[str, dict[str, Any]]]:
    """List (shape, flags): policies, micro-batches, precisions, ranks, targets, full training."""
    grid: list[tuple[str, dict[str, Any]]] = []
    for policy in ("none", "selective", "gate_up", "block"):
        grid += [
            ("small", {"recompute": policy, "micro_batch_tokens": tokens})
            for tokens in (512, 1024, 4096)
        ]
        grid.append(("0.6B, 8 layers", {"recompute": policy, "micro_batch_tokens": 1024}))
    grid += [
        ("small", {}),
        ("small", {"dtype": "float32"}),
        ("small", {"dtype": "float32", "recompute": "block", "micro_batch_tokens": 2048}),
        ("small", {"lora_rank": 128}),
        ("small", {"lora_target": "q_proj,v_proj"}),
        (
            "small",
            {"lora_target": "q_proj,v_proj", "recompute": "none", "micro_batch_tokens": 4096},
        ),
        ("small", {"per_device_train_batch_size": 8, "micro_batch_tokens": 8192}),
        ("small", {"per_device_train_batch_size": 8}),
        ("small", {"cutoff_len": 256, "micro_batch_tokens": 256}),
        ("small", {"finetuning_type": "full"}),
        ("small", {"finetuning_type": "full", "recompute": "block", "micro_batch_tokens": 2048}),
        ("small", {"lora_dropout": 0.1, "micro_batch_tokens": 2048}),
        ("0.6B, 8 layers", {}),
        ("0.6B, 8 layers", {"dtype": "float32", "recompute": "selective"}),
    ]
    return grid


def main() -> None:
    """Run all settings, print a line for each and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory(prefix="plan-grid-") as place:
        work = Path(place)
        models = {shape: write_model(work, shape, options.tokenizer) for shape in SHAPES}
        for number, (shape, flags) in enumerate(settings()):
            figure = compare(models[shape], options.data, flags, work / f"run-{number}")
            figures.append({"shape": shape, "flags": flags, **figure})
            print(json.dumps(figures[-1]), flush=True)
    summary = {
        "settings": len(figures),
        "memory_within_8_percent_or_150_mb": sum(f["memory_holds"] for f in figures),
        "time_within_15_percent": sum(abs(f["time_error"]) <= 0.15 for f in figures),
        "cores": os.cpu_count(),
    }
    print(json.dumps(summary, indent=1))
    if options.output:
        text = json.dumps({"summary": summary, "figures": figures}, indent=1)
        options.output.write_text(text + "\n", encoding="utf-8")


def write_model(work: Path, shape: str, tokenizer: Path) -> Path:
    """Write random weights of a shape as a model folder, in a process of its own."""
    hidden, inner, layers, heads, kv_heads, head_dim = SHAPES[shape]
    folder = work / shape.split(",")[0]
    folder.mkdir()
    config = {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 151_936,
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 40_960,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "eos_token_id": 151_645,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = folder / "model"
    words = [sys.executable, "-m", "benchmarks.train.model", folder, tokenizer, model]
    subprocess.run(words, check=True)
    return model


def compare(model: Path, data: Path, flags: dict[str, Any], run: Path) -> dict[str, Any]:
    """Plan and run one setting; return predicted and measured memory and seconds a step."""
    given = {
        "model": model, "dataset": data, "max_steps": STEPS, "device": "cpu", "cutoff_len": 1024,
        "report": "false", "plot_loss": "false", **flags,
    }  # fmt: skip
    words = [word for key, value in given.items() for word in (f"--{key}", f"{value}")]
    planned = json.loads(danlu("plan", *words, "--json"))
    danlu("train", *words, "--output_dir", f"{run}")
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [step for line in lines if "seconds" in (step := json.loads(line))]
    later = steps[1:]
    measured = record["results"]["peak_memory_bytes"]
    error = planned["memory_bytes"]["total"] - measured
    # Steps differ in tokens, so what is compared is the time of a token.
    total = sum(step["num_tokens"] for step in steps)
    seconds = statistics.median(step["seconds"] / step["num_tokens"] for step in later)
    predicted_s = record["plan"]["total_s"] / total
    return {
        "planned_mb": round(planned["memory_bytes"]["total"] / 1e6),
        "after_probe_mb": round(record["plan"]["memory_bytes"]["total"] / 1e6),
        "measured_mb": round(measured / 1e6),
        "memory_error": round(error / measured, 3),
        "memory_holds": abs(error) <= max(0.08 * measured, 150e6),
        "predicted_ms_per_token": round(1e3 * predicted_s, 3),
        "measured_ms_per_token": round(1e3 * seconds, 3),
        "time_error": round(predicted_s / seconds - 1, 3),
        "chosen": {
            key: record["plan"][key] for key in ("micro_batch_tokens", "chunk_rows", "recompute")
        },
    }


def danlu(*words: str) -> str:
    """Run danlu; return what it printed."""
    command = [sys.executable, "-m", "danlu.cli.main", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
