"""The loss of rows in parts: the same as in one piece, computed when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from danlu.data.tokens.examples import Example
from danlu.dialog.assistant import Assistant, open_assistant
from danlu.dialog.settings import ModelSettings
from danlu.model.qwen3 import plain_linear
from danlu.train.loop.evaluate import evaluate
from danlu.workflows.losses import joined, losses_in_parts
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.training.trainers import random_rows


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    model = write_model_folder(tmp_path_factory.mktemp("model") / "tiny")
    return open_assistant(ModelSettings(model_name_or_path=str(model), dtype="float32"))


@pytest.mark.parametrize("part_tokens", [1, 60, 10_000])
def test_parts_join_to_the_whole(assistant: Assistant, part_tokens: int) -> None:
    rows = random_rows(9)
    whole = evaluate(assistant.loaded, plain_linear, rows, micro_batch_tokens=10_000)
    parts = list(losses_in_parts(assistant, rows, part_tokens=part_tokens))
    found = joined(parts)
    assert (found.num_rows, found.num_tokens) == (9, whole.num_tokens)
    assert found.loss == pytest.approx(whole.loss, rel=1e-5)
    assert found.loss_per_sample == pytest.approx(whole.loss_per_sample, rel=1e-5)
    assert len(parts) == {1: 9, 60: len(parts), 10_000: 1}[part_tokens]


def test_nothing_is_computed_before_it_is_asked_for(assistant: Assistant) -> None:
    taken = []

    def rows() -> Iterator[Sequence[Example]]:
        for row in random_rows(9):
            taken.append(row)
            yield row

    next(losses_in_parts(assistant, rows(), part_tokens=1))
    assert len(taken) == 2
