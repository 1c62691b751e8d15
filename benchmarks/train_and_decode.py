"""Training and decoding speed on random weights of a real Qwen3 shape, next to transformers + PEFT.

    python benchmarks/train_and_decode.py --config CONFIG_DIR --tokenizer TOKENIZER_DIR \
        --data ROWS.json [--output results.json]

Each side runs in a process of its own, one after the other, in the same run on the same machine,
on the same rows, the same random weights and the same rank. "Useful tokens" are tokens of rows;
padding does not count. The plain loop is what many people write: right-padded batches of 2 rows,
8 of them accumulated, bf16, PEFT's LoRA, `generate` for decoding.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS_PER_STEP = 16
WARMUP_STEPS = 1
MEASURED_STEPS = 2
DECODE_TOKENS = 48
PROMPT = "用三句话介绍一下你自己。"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="folder with config.json")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--data", type=Path, required=True, help="alpaca rows")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--side", choices=("danlu", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure = measure_danlu if options.side == "danlu" else measure_transformers
        print(json.dumps(measure(options.model, load_rows(options.data))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder)
        write_random_model(model, options.config, options.tokenizer)
        sides = {side: run_side(side, model, options) for side in ("danlu", "transformers")}
    report = {
        "command": " ".join(["python", *sys.argv]),
        "machine": {"cores": os.cpu_count(), "processor": processor(), "system": platform.system()},
        "versions": versions(),
        "settings": {"rows_per_step": ROWS_PER_STEP, "steps": MEASURED_STEPS, "lora_rank": 8},
        **sides,
        "ratio": {
            key: round(sides["danlu"][key] / sides["transformers"][key], 3)
            for key in ("train_tokens_per_s", "decode_tokens_per_s", "peak_gb")
        },
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0


def run_side(side: str, model: Path, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side, "--model", str(model)]
    for name in ("config", "tokenizer", "data"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def write_random_model(folder: Path, config: Path, tokenizer: Path) -> None:
    """Seeded random weights in the shape of `config`, written as a normal model folder."""
    import torch

    from danlu.files.committed import committed_folder
    from danlu.model.config import load_config
    from danlu.model.qwen3 import Qwen3
    from danlu.models.save import write_model

    shape = load_config(config)
    generator = torch.Generator().manual_seed(0)
    model = Qwen3(shape, device=torch.device("cpu"), dtype=torch.bfloat16)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.02, generator=generator)
        else:
            parameter.data.fill_(1.0)
    files = folder / "like"
    files.mkdir()
    for source in (config / "config.json", *tokenizer.glob("*.json"), *tokenizer.glob("*.jinja")):
        (files / source.name).write_bytes(source.read_bytes())
    with committed_folder(folder / "model") as draft:
        write_model(draft, model, like=files)


def load_rows(path: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return rows[: ROWS_PER_STEP * (WARMUP_STEPS + MEASURED_STEPS)]


def measure_danlu(folder: Path, rows: list[dict[str, str]]) -> dict[str, float]:
    from danlu.data.alpaca import conversation_of
    from danlu.data.examples import tokenize
    from danlu.device.detect import select
    from danlu.engine.engine import Engine
    from danlu.engine.request import Request, SamplingSettings
    from danlu.lora.adapter import LoraConfig
    from danlu.models.load import load_model
    from danlu.runs.folder import RunFolder
    from danlu.train.events import StepDone
    from danlu.train.method import LoraMethod
    from danlu.train.trainer import Recipe, Trainer

    raise SystemExit("completed once the rooms it measures are in place")


def measure_transformers(folder: Path, rows: list[dict[str, str]]) -> dict[str, float]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16)
    decode = decode_with_transformers(model, tokenizer)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-4
    )
    examples = [hf_example(tokenizer, row) for row in rows]
    seconds, tokens = 0.0, 0
    for step in range(WARMUP_STEPS + MEASURED_STEPS):
        chosen = examples[step * ROWS_PER_STEP : (step + 1) * ROWS_PER_STEP]
        started = time.perf_counter()
        for first in range(0, ROWS_PER_STEP, 2):
            pair = chosen[first : first + 2]
            length = max(len(ids) for ids, _labels in pair)
            pad = tokenizer.pad_token_id
            ids = torch.tensor([i + [pad] * (length - len(i)) for i, _l in pair])
            labels = torch.tensor([lab + [-100] * (length - len(lab)) for _i, lab in pair])
            mask = torch.tensor([[1] * len(i) + [0] * (length - len(i)) for i, _l in pair])
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            (loss / (ROWS_PER_STEP // 2)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step >= WARMUP_STEPS:
            seconds += time.perf_counter() - started
            tokens += sum(len(ids) for ids, _labels in chosen)
    return {
        "train_tokens_per_s": round(tokens / seconds, 2),
        "decode_tokens_per_s": round(decode, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
