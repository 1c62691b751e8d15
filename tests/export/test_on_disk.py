"""A model that stays on disk computes what a loaded one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.device.detect import select
from danlu.errors import DataError
from danlu.export.on_disk import logits_on_disk
from danlu.hub.load import check_model, load_model
from tests.helpers.models.logits import logits
from tests.helpers.models.model_folder import write_model_folder

CPU = select("cpu")
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5]]


def on_disk(folder: Path) -> torch.Tensor:
    model = check_model(str(folder))
    seen: list[int] = []
    found = logits_on_disk(
        model.weights,
        model.config,
        PROMPTS,
        device=torch.device("cpu"),
        changes={},
        progress=lambda done, _total: seen.append(done),
    )
    assert seen == sorted(seen)
    assert seen[-1] == model.weights.num_bytes
    return found


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_every_prompt_has_the_logits_of_the_loaded_model(
    tmp_path: Path, tied: bool, dtype: torch.dtype
) -> None:
    folder = write_model_folder(tmp_path, tie_word_embeddings=tied, dtype=dtype)
    model = load_model(str(folder), device=CPU, dtype=torch.float32).model
    expected = torch.cat([logits(model, prompt) for prompt in PROMPTS])
    torch.testing.assert_close(on_disk(folder), expected)


@pytest.mark.parametrize("row", [0, -1])
def test_a_stored_output_matrix_must_equal_the_embedding_it_is_tied_to(
    tmp_path: Path, row: int
) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_model_folder(tmp_path, tie_word_embeddings=True)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    on_disk(folder)
    tensors["lm_head.weight"][row, -1] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(DataError) as caught:
        on_disk(folder)
    assert "lm_head.weight" in caught.value.why
