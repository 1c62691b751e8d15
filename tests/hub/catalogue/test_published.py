"""The catalogue of published models: complete, and true to the published figures."""

from __future__ import annotations

import pytest

from danlu.device.datasheets import CATALOGUE, cpu_facts
from danlu.hub.catalogue.needs import needs
from danlu.hub.catalogue.published import find_published, published_models

# metadata.total_size of each model's model.safetensors.index.json, which counts bytes of weights.
TOTAL_SIZES = {
    "Qwen3-8B": 16_381_470_720,
    "Qwen3-14B": 29_536_614_400,
    "Qwen3-32B": 65_524_246_528,
    "Qwen3-30B-A3B": 61_064_245_248,
    "Qwen3-235B-A22B": 470_187_269_120,
}


@pytest.mark.parametrize(("name", "size"), TOTAL_SIZES.items())
def test_sizes_are_those_of_the_published_files(name: str, size: int) -> None:
    model = find_published(name)
    assert model is not None
    assert model.file_bytes == size


def test_names_are_found_as_users_write_them() -> None:
    for name in ("Qwen3-8B", "qwen3-8b", "Qwen/Qwen3-8B", "qwen/QWEN3-8B"):
        found = find_published(name)
        assert found is not None
        assert found.repository == "Qwen/Qwen3-8B"
    for name in ("Qwen3-9B", "./Qwen3-8B", "other/Qwen3-8B", "Qwen3-8B/", ""):
        assert find_published(name) is None


def test_variants_stand_in_the_list() -> None:
    models = {model.name: model for model in published_models()}
    assert {"Qwen3-4B-Instruct-2507", "Qwen3-4B-Thinking-2507", "Qwen3-14B-Base"} <= models.keys()
    assert "Qwen3-32B-Base" not in models  # never published
    assert "Qwen3-30B-A3B-Instruct-2507" in models
    sizes = [model.parameters for model in models.values()]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(("name", "active"), [("Qwen3-30B-A3B", 3.3), ("Qwen3-235B-A22B", 22)])
def test_what_experts_compute_with_is_what_their_publisher_says(name: str, active: float) -> None:
    model = find_published(name)
    assert model is not None
    assert model.active_parameters == pytest.approx(active * 1e9, rel=0.02)


def test_experts_in_few_bits_take_less() -> None:
    model = find_published("Qwen3-30B-A3B")
    assert model is not None
    on_card = needs(model.config, CATALOGUE["h100-80g"], 80 << 30)
    assert on_card.keys() == {"chat_bf16", "chat_int8", "chat_int4", "lora", "full"}
    assert on_card["chat_bf16"].fits
    cpu = cpu_facts(description="cpu", memory_bytes=64 << 30, threads=8, has_fast_bf16=True)
    on_cpu = needs(model.config, cpu, 64 << 30)
    assert on_cpu["chat_bf16"].num_bytes > 2 * on_cpu["chat_int4"].num_bytes


def test_needs_on_a_card() -> None:
    """Qwen3-8B on a 24 GiB card: chat fits, full training does not; fewer bits need less."""
    card = CATALOGUE["rtx-4090-24g"]
    model = find_published("Qwen3-8B")
    assert model is not None
    found = needs(model.config, card, card.memory_bytes)
    assert (
        found["chat_bf16"].num_bytes > found["chat_int8"].num_bytes > found["chat_int4"].num_bytes
    )
    assert found["chat_bf16"].num_bytes > model.file_bytes
    assert found["chat_bf16"].fits
    assert found["lora"].fits
    assert not found["full"].fits
    # 16 bytes for each trained number: master weight, gradient and two moments in fp32.
    assert found["full"].num_bytes > 16 * model.parameters


def test_what_fits_follows_the_memory() -> None:
    card = CATALOGUE["rtx-4090-24g"]
    model = find_published("Qwen3-8B")
    assert model is not None
    assert not needs(model.config, card, 8 << 30)["chat_bf16"].fits
    assert needs(model.config, card, 8 << 30)["chat_int4"].fits
