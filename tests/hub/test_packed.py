"""Models that are packed for answers say what they would say unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.device.detect import select
from danlu.dialog.assistant import model_line
from danlu.hub.load import load_for_answers, load_model
from danlu.ops import look_up, packing_for
from tests.helpers.models.logits import logits
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.models.tiny_engine import random_adapter

CPU = select("cpu")
needs_packing = pytest.mark.skipif(
    packing_for(torch.bfloat16, torch.device("cpu")) is None,
    reason="this processor has no bf16 products of its own",
)
TOKENS = list(range(5, 45))


@needs_packing
@pytest.mark.parametrize("overrides", [{}, {"tie_word_embeddings": False}], ids=["tied", "untied"])
def test_logits_are_those_of_the_plain_model(overrides: dict[str, Any], tmp_path: Path) -> None:
    folder = str(write_model_folder(tmp_path / "model", **overrides))
    exact = load_model(folder, device=CPU, dtype=torch.float32).model
    plain = load_model(folder, device=CPU, dtype=torch.bfloat16).model
    loaded = load_for_answers(folder, device=CPU, dtype=torch.bfloat16, quantization=None)
    assert loaded.is_packed
    assert "packed" in model_line(loaded)
    tokens = torch.tensor(TOKENS, dtype=torch.int32)
    with torch.inference_mode():
        assert torch.equal(look_up(loaded.model.embed_tokens, tokens), plain.embed_tokens[TOKENS])
    for adapter in (None, random_adapter(1, like=plain)):
        wanted = logits(exact, TOKENS, adapter)
        error, usual = (
            ((logits(model, TOKENS, adapter) - wanted).norm() / wanted.norm()).item()
            for model in (loaded.model, plain)
        )
        assert error <= 1.2 * usual + 1e-4


def test_fp32_and_quantised_weights_are_not_packed(tmp_path: Path) -> None:
    folder = str(write_model_folder(tmp_path / "model"))
    wide = load_for_answers(folder, device=CPU, dtype=torch.float32, quantization=None)
    few = load_for_answers(folder, device=CPU, dtype=torch.bfloat16, quantization="int8")
    assert not wide.is_packed
    assert not few.is_packed
    assert "packed" not in model_line(wide)
    assert "int8" in model_line(few)
