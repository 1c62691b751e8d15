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
from importlib import metadata
from pathlib import Path
from typing import Any

ROWS_PER_STEP = 16
WARMUP_STEPS = 1
MEASURED_STEPS = 2
DECODE_TOKENS = 48
PROMPT = "用三句话介绍一下你自己。"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
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
    from danlu.data.alpaca import DEFAULT_COLUMNS, conversation_of
    from danlu.data.examples import Rendering, tokenize_row
    from danlu.device.detect import select
    from danlu.engine.engine import Engine
    from danlu.engine.request import Request, SamplingSettings
    from danlu.lora.adapter import LoraConfig
    from danlu.models.load import load_model
    from danlu.runs.folder import RunFolder
    from danlu.train.events import StepDone
    from danlu.train.method import LoraMethod
    from danlu.train.trainer import Recipe, Trainer

    base = load_model(str(folder / "model"), device=select("cpu"))
    prompt = tuple(base.tokenizer.encode_text(PROMPT))
    sampling = SamplingSettings(temperature=0.0, max_tokens=DECODE_TOKENS)
    times = [
        time.perf_counter()
        for _output in Engine(base.model, base.tokenizer).stream(
            Request(prompt=prompt, sampling=sampling)
        )
    ]
    rendering = Rendering(template="qwen3", enable_thinking=True)
    examples = [
        tokenize_row(conversation_of(row, DEFAULT_COLUMNS), base.tokenizer, rendering, row=number)
        for number, row in enumerate(rows)
    ]
    recipe = Recipe(
        total_steps=WARMUP_STEPS + MEASURED_STEPS,
        rows_per_step=ROWS_PER_STEP,
        learning_rate=1e-4,
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=0,
        eval_on_start=False,
        eval_steps=0,
        save_steps=0,
        save_total_limit=None,
        load_best_model_at_end=False,
        micro_batch_tokens=4096,
    )
    method = LoraMethod(base, LoraConfig(r=8, lora_alpha=16), base_name="random", seed=0)
    with tempfile.TemporaryDirectory() as place:
        trainer = Trainer(
            base=base,
            method=method,
            recipe=recipe,
            train_rows=examples,
            eval_rows=[],
            run_folder=RunFolder.create(Path(place) / "run"),
        )
        done = [event for event in trainer.run() if isinstance(event, StepDone)][WARMUP_STEPS:]
    return result(
        train=sum(event.num_tokens for event in done) / sum(event.seconds for event in done),
        # The first output also reads the prompt; only the steps after it are decoding.
        decode=(len(times) - 1) / (times[-1] - times[0]),
    )


def measure_transformers(folder: Path, rows: list[dict[str, str]]) -> dict[str, float]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16)
    decode = decode_with_transformers(model, tokenizer)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
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
    return result(train=tokens / seconds, decode=decode)


def decode_with_transformers(model: Any, tokenizer: Any) -> float:
    """Tokens per second of greedy `generate`, the reading of the prompt taken off."""
    import torch

    ids = tokenizer(PROMPT, return_tensors="pt")
    seconds = []
    for new_tokens in (1, DECODE_TOKENS):
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                **ids, do_sample=False, min_new_tokens=new_tokens, max_new_tokens=new_tokens
            )
        seconds.append(time.perf_counter() - started)
    return (DECODE_TOKENS - 1) / (seconds[1] - seconds[0])


def hf_example(tokenizer: Any, row: dict[str, str]) -> tuple[list[int], list[int]]:
    """Ids and labels of a row as danlu renders it: the answer and its empty thought are learned."""
    question = "\n".join(part for part in (row["instruction"], row.get("input", "")) if part)
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    answer = f"<think>\n\n</think>\n\n{row['output']}<|im_end|>\n"
    parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer)]
    return parts[0] + parts[1], [-100] * len(parts[0]) + parts[1]


def result(*, train: float, decode: float) -> dict[str, float]:
    return {
        "train_tokens_per_s": round(train, 2),
        "decode_tokens_per_s": round(decode, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def processor() -> str:
    from danlu.device.detect import select

    return select("cpu").description


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("danlu", "torch", "transformers", "peft")}


if __name__ == "__main__":
    sys.exit(main())
