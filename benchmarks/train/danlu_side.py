"""danlu as a user runs it: the command `danlu train`, in this process."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.train.inputs import Inputs
from benchmarks.train.measured import Step
from benchmarks.train.recipe import ROWS_PER_STEP, SEED, TRAIN_FLAGS
from danlu.cli.main import main
from danlu.data.doctor.check import usable_data
from danlu.data.tokens.order import epoch_order
from danlu.hub.load import check_model
from danlu.runs.metrics import read_metrics
from danlu.settings.resolve import resolve
from danlu.train.settings import TrainSettings


def train(inputs: Path, output: Path) -> list[Step]:
    """Train, and read the steps from the run's metrics. Raises RuntimeError when danlu fails."""
    files = Inputs(folder=inputs)
    words = [
        *TRAIN_FLAGS, "--model_name_or_path", str(files.model), "--output_dir", str(output),
        "--dataset_dir", str(files.shuffled), "--device", "cpu", "--report", "false",
    ]  # fmt: skip
    code = main(["train", *words])
    if code != 0:
        raise RuntimeError(f"danlu train ended with {code}")
    records = [record for record in read_metrics(output) if "seconds" in record]
    steps = [
        Step(
            seconds=record["seconds"],
            lengths=lengths,
            computed_tokens=record["num_tokens"],
            head_rows=learned,
        )
        for record, (lengths, learned) in zip(records, _tokens_of_steps(words), strict=True)
    ]
    # Packed, so nothing is computed but the rows; if not, the rows were not those of this step.
    assert all(step.num_tokens == step.computed_tokens for step in steps)
    return steps


def _tokens_of_steps(words: list[str]) -> list[tuple[list[int], int]]:
    """Return the lengths of each step's examples, and how many of their tokens are learned."""
    settings = resolve(TrainSettings, words, os.environ).values
    rows = usable_data(settings, check_model(settings.model_name_or_path).tokenizer).train
    order = epoch_order(len(rows), SEED, 0)
    steps = []
    for first in range(0, len(rows), ROWS_PER_STEP):
        numbers = order[first : first + ROWS_PER_STEP]
        examples = [example for number in numbers for example in rows[int(number)]]
        learned = sum(int(example.supervised.sum()) for example in examples)
        steps.append(([len(example.tokens) for example in examples], learned))
    return steps
