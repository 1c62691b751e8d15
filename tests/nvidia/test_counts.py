"""What a training step costs a card's host and its memory, counted without a card.

Before there were kernels a layer started 206 operations for LoRA and 130 for all weights.
"""

from __future__ import annotations

import pytest

from danlu.device.datasheets import CATALOGUE
from danlu.lora.adapter import LoraConfig
from danlu.model.recompute import POLICIES, Recompute
from tests.helpers.models.counting import counted, kernels_counted, moved_by_token, planned
from tests.helpers.models.variants import nvidia_variants

BATCH = [8] * 4


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lora", [LoraConfig(r=4), None], ids=["lora", "full"])
def test_a_training_step_starts_and_moves_what_was_planned(
    policy: Recompute, lora: LoraConfig | None
) -> None:
    with nvidia_variants(), kernels_counted():
        counted(2, BATCH, policy, lora)  # what is made once does not count
        config, few, _bytes = counted(2, BATCH, policy, lora)
        _config, many, _bytes = counted(4, BATCH, policy, lora)
        by_token = moved_by_token(policy, lora, with_narrow=True)
    launches, numbers = planned(config, policy, lora, CATALOGUE["h100-80g"])
    assert launches == pytest.approx((many.total() - few.total()) / 2, rel=1e-6)
    assert numbers == pytest.approx(by_token, rel=0.05)


def test_a_layer_starts_no_more_than_sixty_kernels() -> None:
    with nvidia_variants(), kernels_counted():
        few, many = (counted(n, BATCH, "none", LoraConfig(r=4))[1].total() for n in (2, 4))
    assert (many - few) / 2 <= 60


@pytest.mark.parametrize("policy", POLICIES)
def test_a_base_in_fp8_starts_and_moves_what_was_planned(policy: Recompute) -> None:
    lora = LoraConfig(r=4)
    with nvidia_variants(), kernels_counted():
        counted(2, BATCH, policy, lora, fp8=True)
        config, few, _bytes = counted(2, BATCH, policy, lora, fp8=True)
        _config, many, _bytes = counted(4, BATCH, policy, lora, fp8=True)
        by_token = moved_by_token(policy, lora, with_narrow=True, fp8=True)
    launches, numbers = planned(config, policy, lora, CATALOGUE["h100-80g"], fp8=True)
    assert launches == pytest.approx((many.total() - few.total()) / 2, rel=1e-6)
    assert numbers == pytest.approx(by_token, rel=0.05)
