"""The loop that many people write: transformers, PEFT, padded batches, accumulated gradients."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.train.measured import Step
from benchmarks.train.recipe import (
    ACCUMULATION,
    BATCH_ROWS,
    CUTOFF_LEN,
    LEARNING_RATE,
    LORA_ALPHA,
    LORA_RANK,
    ROWS_PER_STEP,
)

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100
Example = tuple[list[int], list[int]]


def train(inputs: Path, output: Path, *, checkpointing: bool = False) -> list[Step]:
    """Train without and, if `checkpointing`, with gradient checkpointing; save the adapter."""
    tokenizer = AutoTokenizer.from_pretrained(inputs / "model")
    rows = json.loads((inputs / "in_order" / "rows.json").read_text(encoding="utf-8"))
    examples = [example_of(tokenizer, row) for row in rows]
    model = AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.bfloat16)
    lora = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=TARGETS)
    model = get_peft_model(model, lora)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    steps = []
    for first in range(0, len(examples), ROWS_PER_STEP):
        started = time.perf_counter()
        chosen = examples[first : first + ROWS_PER_STEP]
        computed = 0
        for start in range(0, ROWS_PER_STEP, BATCH_ROWS):
            batch = padded(chosen[start : start + BATCH_ROWS], tokenizer.pad_token_id)
            (model(**batch).loss / ACCUMULATION).backward()
            computed += batch["input_ids"].numel()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - started
        lengths = [len(ids) for ids, _labels in chosen]
        steps.append(
            Step(seconds=seconds, lengths=lengths, computed_tokens=computed, head_rows=sum(lengths))
        )
    model.save_pretrained(output)
    return steps


def example_of(tokenizer: Any, row: dict[str, str]) -> Example:
    """Return a row's tokens and labels, as the model's own template writes it."""
    question = "\n".join(part for part in (row["instruction"], row.get("input", "")) if part)
    asked = [{"role": "user", "content": question}]
    answered = [*asked, {"role": "assistant", "content": row["output"]}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(answered, tokenize=False)
    known = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    learned = tokenizer(whole.removeprefix(prompt), add_special_tokens=False)["input_ids"]
    ids, labels = known + learned, [IGNORED] * len(known) + learned
    return ids[:CUTOFF_LEN], labels[:CUTOFF_LEN]


def padded(examples: list[Example], pad: int) -> dict[str, torch.Tensor]:
    """Pad a batch on the right to its longest example."""
    longest = max(len(ids) for ids, _labels in examples)

    def rows(pieces: list[tuple[list[int], int]]) -> torch.Tensor:
        return torch.tensor([piece + [fill] * (longest - len(piece)) for piece, fill in pieces])

    return {
        "input_ids": rows([(ids, pad) for ids, _labels in examples]),
        "attention_mask": rows([([1] * len(ids), 0) for ids, _labels in examples]),
        "labels": rows([(labels, IGNORED) for _ids, labels in examples]),
    }
