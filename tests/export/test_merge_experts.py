"""Merging an adapter into a model with experts; what is not exported of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.device.detect import select
from danlu.errors import UsageError
from danlu.export.gguf_model import export
from danlu.export.merge import merge
from danlu.hub.load import load_model
from danlu.hub.prompting import Prompting
from danlu.lora.peft_files import load_adapter
from danlu.weights.sharded import WeightFolder
from tests.export.test_merge import whole, write_random_adapter
from tests.helpers.models.logits import logits
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.models.tiny_model import EXPERTS

CPU = select("cpu")
TOKENS = list(range(5, 45))


def test_a_merged_model_answers_like_base_and_adapter(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 3, "experts": EXPERTS}
    base = write_model_folder(tmp_path / "base", dtype=torch.float32, **shape)
    adapter = write_random_adapter(tmp_path / "adapter", base)
    report = merge(str(base), [whole(adapter)], tmp_path / "merged", device=CPU)
    assert report.max_logit_difference < 1e-4
    assert report.num_merged_tensors == 3 * 4 + 2 * 8 * 3 + 3
    plain = load_model(str(base), device=CPU, dtype=torch.float32)
    merged = load_model(str(tmp_path / "merged"), device=CPU, dtype=torch.float32)
    added = load_adapter(adapter, plain.config, device=torch.device("cpu"), dtype=torch.float32)
    expected = logits(plain.model, TOKENS, added)
    torch.testing.assert_close(logits(merged.model, TOKENS), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(logits(plain.model, TOKENS), expected, atol=1e-2)
    files = [WeightFolder(folder).files for folder in (base, tmp_path / "merged")]
    assert files[0].keys() == files[1].keys()


def test_no_gguf_file_is_written_of_experts(tmp_path: Path) -> None:
    base = write_model_folder(tmp_path / "base", experts=EXPERTS)
    with pytest.raises(UsageError, match="not exported") as caught:
        export(
            str(base),
            tmp_path / "out",
            form="gguf",
            type="bf16",
            prompting=Prompting(template="qwen3", enable_thinking=None),
        )
    assert "convert_hf_to_gguf.py" in caught.value.fix
    assert not (tmp_path / "out").exists()
