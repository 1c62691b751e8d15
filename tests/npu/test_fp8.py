"""A base in fp8: its plan's memory against the exact peak that is counted; Ascend has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from danlu.device.detect import select
from danlu.device.variants import FLASH
from danlu.errors import EnvironmentFault
from danlu.hub.load import LoadedModel
from danlu.lora.adapter import LoraConfig
from danlu.model.layout import PROJECTIONS
from danlu.model.qwen3 import replace_weight
from danlu.model.recompute import POLICIES, Recompute
from danlu.ops.attention import ATTENTION
from danlu.ops.choice import VARIABLE
from danlu.ops.frozen.fp8 import FP8_LINEAR
from danlu.ops.nvidia import late_import
from danlu.plan.job import Job, StepPlan
from danlu.plan.memory import layer_bytes
from danlu.train.loop.method import LoraMethod
from danlu.train.loop.precision import check_fp8
from tests.helpers.models.variants import nvidia_variants
from tests.npu.test_memory_plan import NVIDIA, SIZES, measured, on_the_host
from tests.sim.fused_attention import packed_attention


class InBytes(nn.Module):
    """Stands in for a weight in fp8: as large, and what it makes on its way is as large."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        _rows = x.new_empty(x.shape, dtype=torch.int8), x.new_empty(len(x), dtype=torch.float32)
        return x @ weight

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x, self.weight.t())

    def gradient(self, dy: Tensor) -> Tensor:
        return self._product(dy, self.weight)


@pytest.fixture(autouse=True)
def _nvidia() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTENTION._chosen, "npu", (FLASH, packed_attention))
        patch.setattr(late_import, "_function", on_the_host)
        with nvidia_variants("npu"):
            yield


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(SIZES["mlp"], id="mlp"),
        pytest.param(SIZES["attention"], id="attention", marks=pytest.mark.soak),
    ],
)
def test_a_layer_takes_what_was_planned(
    tmp_path: Path, policy: Recompute, sizes: Mapping[str, int]
) -> None:
    lora = LoraConfig(r=4)

    def method_of(base: LoadedModel) -> LoraMethod:
        for layer in base.model.layers:
            for name in PROJECTIONS:
                replace_weight(layer, name, InBytes(getattr(layer, name).detach()))
        return LoraMethod.fresh(base, lora, seed=1)

    way = StepPlan(micro_batch_tokens=10_000, chunk_rows=64, recompute=policy)
    peaks, shape, config = measured(tmp_path / "model", method_of, way, sizes)
    ranks = dict.fromkeys(lora.target_modules, lora.r)
    job = Job(config=config, number_bytes=2, ranks=ranks, base_form="fp8")
    planned = layer_bytes(job, policy, NVIDIA, shape)
    assert 0.95 * planned <= peaks.layer <= planned


def test_a_card_that_has_no_fp8_says_so_and_alarms_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FP8_LINEAR, "_chosen", {})
    with pytest.raises(EnvironmentFault, match="does not multiply in fp8") as caught:
        check_fp8(select("npu"))
    assert caught.value.why.endswith("B200.")
    monkeypatch.setattr(FP8_LINEAR, "_chosen", {})
    monkeypatch.setenv(VARIABLE, "fp8_linear=reference")
    with pytest.raises(EnvironmentFault, match="this device cannot do") as asked:
        check_fp8(select("npu"))
    assert asked.value.why == "an Ascend 910B has no numbers in fp8"
