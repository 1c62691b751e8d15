"""Build the starter model: `python -m tools.starter.build`, with fixed seeds from first to last.

Generates conversations, learns the tokenizer from a sample of them, trains a Qwen3 of 5.8 million
parameters from random weights with danlu's own trainer, and puts the result into the package.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import danlu
from danlu.data.tokens.examples import Example, Rendering, tokenize_row
from danlu.device.detect import select
from danlu.files.atomic import atomic_write, make_folder
from danlu.files.committed import committed_folder
from danlu.hub.load import LoadedModel, load_model
from danlu.hub.save import write_model
from danlu.model.config import load_config
from danlu.model.qwen3 import Qwen3
from danlu.plan.job import StepPlan
from danlu.runs.checkpoints import FINAL, commit_final
from danlu.runs.folder import RunFolder
from danlu.text.render import render
from danlu.text.tokenizer import Tokenizer
from danlu.train.events import Evaluated, StepDone
from danlu.train.loop.method import FullMethod
from danlu.train.loop.trainer import Trainer
from danlu.train.recipe import Recipe
from danlu.train.schedule import Schedule
from tools.starter.skills import draw
from tools.starter.tokenizer import tokenizer_config, train_tokenizer

SEED = 20261124
VOCAB_SIZE = 3072
ROWS_PER_STEP = 64
STEP_PLAN = StepPlan(micro_batch_tokens=6144, chunk_rows=256, recompute="selective")
TOKENIZER_ROWS = 12_000
TARGET = Path(danlu.__file__).parent / "starter"

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 768,
    "max_position_embeddings": 4096,
    "model_type": "qwen3",
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCAB_SIZE,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the starter model.")
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps")
    parser.add_argument("--work_dir", type=Path, default=Path("build/starter"))
    parser.add_argument("--target", type=Path, default=TARGET)
    options = parser.parse_args()
    started = time.monotonic()
    start = options.work_dir / "start"
    write_start(start)
    base = load_model(str(start), device=select("cpu"))
    rows = list(training_rows(base.tokenizer, options.steps * ROWS_PER_STEP))
    held_out = list(training_rows(base.tokenizer, 300, side="eval"))
    tokens = sum(len(example.tokens) for row in rows for example in row)
    print(f"{len(rows)} rows, {tokens / 1e6:.1f}M tokens, {time.monotonic() - started:.0f} s")
    train(base, rows, held_out, options.steps, options.work_dir / "run")
    publish(options.work_dir / "run" / FINAL, options.target)
    print(f"done in {(time.monotonic() - started) / 60:.1f} minutes: {options.target}")
    return 0


def write_start(folder: Path) -> None:
    """Write a complete model folder with random weights."""
    rng = random.Random(SEED)
    texts = (
        span.text
        for sample in (draw(rng, "train") for _ in range(TOKENIZER_ROWS))
        for span in render(
            sample.conversation,
            template="qwen3",
            enable_thinking=sample.thinks,
            add_generation_prompt=False,
        )
        if not span.control
    )
    tokenizer = train_tokenizer(texts, VOCAB_SIZE)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} entries")
    like = folder.with_name("like")
    like.mkdir(parents=True, exist_ok=True)
    end, pad = (tokenizer.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>"))
    config = {**CONFIG, "bos_token_id": pad, "eos_token_id": end}
    generation = {
        "bos_token_id": pad,
        "do_sample": True,
        "eos_token_id": [end, pad],
        "pad_token_id": pad,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    }
    template = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
    for name, content in (
        ("config.json", json.dumps(config, indent=2) + "\n"),
        ("generation_config.json", json.dumps(generation, indent=2) + "\n"),
        ("tokenizer.json", tokenizer.to_str(pretty=False)),
        ("tokenizer_config.json", tokenizer_config(tokenizer)),
        ("chat_template.jinja", template),
    ):
        atomic_write(like / name, content)
    model = Qwen3(load_config(like), device=torch.device("cpu"), dtype=torch.float32)
    initialise(model)
    with committed_folder(folder) as draft:
        write_model(draft, model, like=like)


def initialise(model: Qwen3) -> None:
    """Normal weights; what writes into the residual stream is scaled down by the depth (GPT-2)."""
    generator = torch.Generator().manual_seed(SEED)
    depth = math.sqrt(2 * model.config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data.fill_(1.0)
            continue
        into_residual = name.endswith(("o_proj", "down_proj"))
        parameter.data.normal_(std=0.02 / (depth if into_residual else 1), generator=generator)


def training_rows(tokenizer: Tokenizer, count: int, side: str = "train") -> Iterator[list[Example]]:
    """Draw and tokenize conversations; every one is new."""
    rng = random.Random(f"{SEED} {side}")
    for row in range(count):
        sample = draw(rng, "train" if side == "train" else "eval")
        rendering = Rendering(template="qwen3", enable_thinking=sample.thinks)
        yield tokenize_row(sample.conversation, tokenizer, rendering, row=row)


def train(
    base: LoadedModel,
    rows: list[list[Example]],
    held_out: list[list[Example]],
    steps: int,
    run: Path,
) -> None:
    """Train all weights in one pass over the rows."""
    recipe = Recipe(
        total_steps=steps,
        rows_per_step=ROWS_PER_STEP,
        schedule=Schedule(name="cosine", peak=2.5e-3, warmup_steps=min(200, steps // 5)),
        weight_decay=0.05,
        max_grad_norm=1.0,
        seed=SEED,
        eval_steps=200,
        save_steps=500,
        save_total_limit=1,
    )
    method = FullMethod(base)
    with RunFolder.create(run, overwrite=True) as folder:
        trainer = Trainer(
            method=method,
            recipe=recipe,
            step_plan=STEP_PLAN,
            train_rows=rows,
            eval_rows=held_out,
            run_folder=folder,
        )
        started, tokens = time.monotonic(), 0
        for event in trainer.run():
            if isinstance(event, StepDone):
                tokens += event.num_tokens
                if event.step % 50 == 0:
                    rate = tokens / (time.monotonic() - started)
                    left = (steps - event.step) * (time.monotonic() - started) / event.step / 60
                    print(
                        f"step {event.step}/{steps} loss {event.loss:.3f} "
                        f"{rate:.0f} tokens/s, {left:.0f} min left"
                    )
                    sys.stdout.flush()
            elif isinstance(event, Evaluated):
                print(f"held out {event.loss:.4f}", flush=True)
        with commit_final(folder.path) as draft:
            method.save(draft, method.pieces())


def publish(final: Path, target: Path) -> None:
    """Copy the finished model's files into the package."""
    make_folder(target)
    for path in sorted(final.iterdir()):
        if path.name != "manifest.json":
            atomic_write(target / path.name, path.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
