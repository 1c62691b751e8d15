"""The loss of each row, against transformers and PEFT computing every sequence alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from danlu.data.examples import Example
from danlu.lora.adapter import LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.train.row_loss import RowLoss, mean_per_row, mean_per_token, row_losses
from tests.helpers.hugging_face import peft_twin, transformers_twin
from tests.helpers.packed import random_adapter
from tests.helpers.training import loaded_tiny, random_rows


@pytest.mark.parametrize("micro_batch_tokens", [1, 50, 10_000])
def test_equals_the_oracle_whatever_the_packing(tmp_path: Path, micro_batch_tokens: int) -> None:
    base = loaded_tiny(tmp_path / "model")
    adapter = random_adapter(LoraConfig(r=4), base.config)
    rows = random_rows(6)
    # A row of two examples, in the middle; its numbers in the data set differ from its place.
    rows[2] = [Example(tokens=e.tokens, supervised=e.supervised, row=40, part=i)
               for i, e in enumerate([*rows[2], *rows[3]])]  # fmt: skip
    oracle = peft_twin(transformers_twin(base.model), adapter)
    expected = []
    for row in rows:
        total, count = 0.0, 0
        for example in row:
            tokens = torch.from_numpy(example.tokens.astype(np.int64))
            with torch.no_grad():
                logits = oracle(input_ids=tokens[None]).logits[0]
            losses = F.cross_entropy(logits[:-1], tokens[1:], reduction="none")
            mask = torch.from_numpy(example.supervised[1:])
            total, count = total + float(losses[mask].sum()), count + int(mask.sum())
        expected.append((total, count))
    found = list(
        row_losses(base, AdapterLinear(adapter), rows, micro_batch_tokens=micro_batch_tokens)
    )
    assert [loss.num_tokens for loss in found] == [count for _total, count in expected]
    assert [loss.total for loss in found] == pytest.approx([t for t, _c in expected], rel=1e-5)


def test_the_two_means() -> None:
    losses = [RowLoss(total=2.0, num_tokens=1), RowLoss(total=3.0, num_tokens=3)]
    assert mean_per_token(losses) == pytest.approx(5 / 4)
    assert mean_per_row(losses) == pytest.approx((2 + 1) / 2)


def test_a_row_that_teaches_nothing_counts_nowhere() -> None:
    losses = [RowLoss(total=2.0, num_tokens=4), RowLoss(total=0.0, num_tokens=0)]
    assert mean_per_token(losses) == mean_per_row(losses) == pytest.approx(0.5)
