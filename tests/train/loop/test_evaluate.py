"""Held-out losses: over all tokens, and the mean of each row's mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from danlu.data.tokens.examples import Example
from danlu.data.tokens.pack import pack
from danlu.model.qwen3 import plain_linear
from danlu.train.loop.batches import stage
from danlu.train.loop.evaluate import evaluate
from danlu.train.loop.loss import supervised_hidden, token_losses
from tests.helpers.training.trainers import loaded_tiny, random_rows


def test_both_losses_equal_a_row_by_row_computation(tmp_path: Path) -> None:
    base = loaded_tiny(tmp_path)
    rows = random_rows(7)
    # A row of two examples counts as one row.
    rows[2].append(
        Example(
            tokens=np.arange(6, dtype=np.int32),
            supervised=np.ones(6, dtype=np.bool_),
            row=2,
            part=1,
        )
    )
    sums, counts = [], []
    with torch.no_grad():
        for row in rows:
            losses = [
                token_losses(
                    base.model, plain_linear, *supervised_hidden(base, plain_linear, staged)
                )
                for staged in (stage(b, torch.device("cpu")) for b in pack(row, 10_000))
            ]
            sums.append(float(torch.cat(losses).double().sum()))
            counts.append(sum(len(part) for part in losses))
    for tokens in (16, 64, 10_000):
        result = evaluate(base, plain_linear, rows, micro_batch_tokens=tokens)
        assert result.loss == pytest.approx(sum(sums) / sum(counts), rel=1e-6)
        means = [a / b for a, b in zip(sums, counts, strict=True)]
        assert result.loss_per_sample == pytest.approx(np.mean(means), rel=1e-6)
        assert (result.num_rows, result.num_tokens) == (7, sum(counts))


def test_it_can_be_stopped_between_microsteps(tmp_path: Path) -> None:
    calls = []

    def between() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(
            loaded_tiny(tmp_path), plain_linear, random_rows(9), micro_batch_tokens=1,
            between=between,
        )  # fmt: skip
    assert len(calls) == 3
