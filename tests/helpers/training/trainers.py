"""A small training run without files of a model: random rows, a tiny model, a fresh folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from danlu.data.tokens.examples import Example
from danlu.device.detect import select
from danlu.hub.load import LoadedModel
from danlu.lora.adapter import LoraConfig
from danlu.plan.job import StepPlan
from danlu.runs.folder import RunFolder
from danlu.text.tokenizer import Tokenizer
from danlu.train.loop.method import FullMethod, LoraMethod, Method
from danlu.train.loop.trainer import Trainer
from danlu.train.recipe import Recipe
from danlu.train.schedule import Schedule
from tests.helpers.models.tiny_model import tiny_model
from tests.helpers.models.tiny_tokenizer import write_tiny_tokenizer

RECIPE = Recipe(
    total_steps=12,
    rows_per_step=5,
    schedule=Schedule(name="cosine", peak=5e-3, warmup_steps=2),
    max_grad_norm=1.0,
    seed=1,
    eval_steps=4,
    save_steps=3,
)
STEP_PLAN = StepPlan(micro_batch_tokens=64, chunk_rows=256, recompute="none")


def loaded_tiny(
    folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu", **sizes: int
) -> LoadedModel:
    """A tiny random model with a tokenizer, as if loaded from a folder; sizes: as in its config."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tiny_tokenizer(folder)
    tokenizer = Tokenizer.load(folder)
    sizes = {"vocab_size": max(256, tokenizer.vocab_size), **sizes}
    config, model = tiny_model(device=device, **sizes)
    return LoadedModel(
        name="tiny",
        folder=folder,
        config=config,
        model=model.to(dtype),
        tokenizer=tokenizer,
        fingerprint="tiny",
        device=replace(select(device), has_fast_bf16=dtype == torch.bfloat16),
    )


def random_rows(count: int, seed: int = 0) -> list[list[Example]]:
    """Rows of repeated patterns: something a model can learn."""
    generator = np.random.default_rng(seed)
    rows = []
    for row in range(count):
        length = int(generator.integers(8, 30))
        tokens = np.tile(generator.integers(0, 200, 5), 6)[:length].astype(np.int32)
        supervised = np.arange(length) >= 4
        rows.append([Example(tokens=tokens, supervised=supervised, row=row, part=0)])
    return rows


def trainer(
    tmp_path: Path,
    recipe: Recipe = RECIPE,
    *,
    full: bool = False,
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.1,
    device: str = "cpu",
    step_plan: StepPlan = STEP_PLAN,
    run_folder: RunFolder | None = None,
) -> Trainer:
    """A trainer over 23 training and 4 held-out rows in tmp_path/run."""
    base = loaded_tiny(tmp_path / "model", dtype, device)
    method: Method = FullMethod(base)
    if not full:
        config = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout)
        method = LoraMethod.fresh(base, config, seed=recipe.seed)
    else:
        (base.folder / "config.json").write_text("{}", encoding="utf-8")
    return Trainer(
        method=method,
        recipe=recipe,
        step_plan=step_plan,
        train_rows=random_rows(23),
        eval_rows=random_rows(4, seed=1),
        run_folder=run_folder or RunFolder.create(tmp_path / "run"),
    )
