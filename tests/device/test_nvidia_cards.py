"""NVIDIA's cards: every name has its own entry, near names are never mixed up, others are rough."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import pytest
import torch

from danlu.cli.main import main
from danlu.device.datasheets import CATALOGUE, GIB, DeviceFacts, facts_of
from danlu.device.detect import Device, select
from danlu.device.facts import device_facts
from danlu.device.nvidia_cards import (
    NVIDIA_CARDS,
    CardProperties,
    has_kernels,
    hidden_cards,
    rough_figures,
)
from danlu.device.variants import preferred_variants
from danlu.errors import EnvironmentFault
from danlu.hub import machine_facts
from danlu.ops import OpsTable
from danlu.ops.choice import half_dtype
from danlu.train.job import dry_run
from danlu.train.loop.precision import choose_precision
from danlu.train.settings import TrainSettings
from tests.helpers.source import ROOT

# What the wheels of torch 2.13 for CUDA 13.0 and for CUDA 12.6 were built for.
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CUDA_12 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


@pytest.mark.parametrize(
    ("name", "gibibytes", "entry", "tera_flops"),
    [
        ("NVIDIA A800-SXM4-80GB", 79.2, "a800-80g", 312),
        ("NVIDIA A800 80GB PCIe", 79.2, "a800-pcie-80g", 312),
        ("NVIDIA A800-SXM4-40GB", 39.4, "a800-40g", 312),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40g", 312),
        ("NVIDIA A100-PCIE-40GB", 39.4, "a100-40g", 312),
        ("NVIDIA A100-SXM4-80GB", 79.2, "a100-80g", 312),
        ("A100-SXM4-80GB", 79.2, "a100-80g", 312),  # as older drivers say it
        ("NVIDIA H100 80GB HBM3", 79.2, "h100-80g", 989),
        ("NVIDIA H100 PCIe", 79.2, "h100-pcie-80g", 756),
        ("NVIDIA H100 NVL", 93.1, "h100-nvl-94g", 835),
        ("NVIDIA H800", 79.2, "h800-80g", 989),
        ("NVIDIA H20", 95.1, "h20-96g", 148),
        ("NVIDIA H20-3e", 139.7, "h20-141g", 148),
        ("NVIDIA H200", 139.7, "h200-141g", 989),
        ("NVIDIA B200", 178.4, "b200-180g", 2250),
        ("NVIDIA L20", 44.4, "l20-48g", 119.5),
        ("NVIDIA L40", 44.4, "l40-48g", 181),
        ("NVIDIA L40S", 44.4, "l40s-48g", 362),
        ("NVIDIA L4", 22.0, "l4-24g", 121),
        ("NVIDIA A10", 22.0, "a10-24g", 125),
        ("NVIDIA RTX A6000", 47.5, "a6000-48g", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 47.4, "rtx-6000-ada-48g", 364),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 95.0, "rtx-pro-6000-96g", 503.8),
        ("NVIDIA GeForce RTX 3060", 11.6, "rtx-3060-12g", 25.5),
        ("Tesla V100S-PCIE-32GB", 31.7, "v100s-32g", 130),
        ("NVIDIA TITAN RTX", 23.6, "titan-rtx-24g", 130.5),
        ("NVIDIA GeForce RTX 3090", 23.6, "rtx-3090-24g", 71),
        ("NVIDIA GeForce RTX 3090 Ti", 23.6, "rtx-3090-ti-24g", 80),
        ("NVIDIA GeForce RTX 4090", 23.5, "rtx-4090-24g", 165),
        ("NVIDIA GeForce RTX 4090 D", 23.5, "rtx-4090-d-24g", 147),
        ("NVIDIA GeForce RTX 4090 D", 47.4, "rtx-4090-d-24g", 147),  # rebuilt with 48 GB
        ("NVIDIA GeForce RTX 5090", 31.4, "rtx-5090-32g", 209),
        ("NVIDIA GeForce RTX 5090 D", 31.4, "rtx-5090-d-32g", 148),
        ("NVIDIA GeForce RTX 5090 D v2", 23.4, "rtx-5090-d-v2-24g", 148),
        ("Tesla V100-SXM2-32GB", 31.7, "v100-32g", 125),
        ("Tesla V100-PCIE-16GB", 15.8, "v100-pcie-16g", 112),
        ("Tesla T4", 14.6, "t4-16g", 65),
        ("NVIDIA GeForce RTX 2080 Ti", 21.5, "rtx-2080-ti-11g", 53.8),
    ],
)
def test_a_card_is_planned_as_the_one_that_its_name_says(
    name: str, gibibytes: float, entry: str, tera_flops: float
) -> None:
    found = facts_of("cuda", name, int(gibibytes * GIB))
    assert found == CATALOGUE[entry]
    assert found.flops == tera_flops * 1e12
    assert not found.is_rough


def test_every_name_has_one_entry_and_no_other_card_answers_to_it() -> None:
    for card in NVIDIA_CARDS:
        for name in card.names:
            assert facts_of("cuda", f"NVIDIA {name}", int(card.gibibytes * GIB)).name == card.entry
    names = [name.casefold() for card in NVIDIA_CARDS for name in card.names]
    assert len(set(names)) == len(names)
    assert len({card.entry for card in NVIDIA_CARDS}) == len(NVIDIA_CARDS)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A800", "NVIDIA H2", "NVIDIA H200 144G HBM3e", "NVIDIA L400", "NVIDIA L",
        "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 5090 Laptop GPU",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb", "GRID T4-16Q", "NVIDIA A10G", "NVIDIA H100", "",
    ],
)  # fmt: skip
def test_a_name_that_is_only_like_another_is_not_taken_for_it(name: str) -> None:
    found = facts_of("cuda", name, 24 * GIB)
    assert found.is_rough
    assert found.name not in CATALOGUE
    assert found.published == ()


# What cards say of themselves: their sheets' figures come out again, to a tenth.
@pytest.mark.parametrize(
    ("card", "entry"),
    [
        (("NVIDIA A100", (8, 0), 108, 1.41e9, 1555e9), "a100-40g"),
        (("NVIDIA H100", (9, 0), 132, 1.83e9, 3350e9), "h100-80g"),
        (("NVIDIA GeForce RTX 3090 X", (8, 6), 82, 1.695e9, 936e9), "rtx-3090-24g"),
        (("NVIDIA GeForce RTX 4090 X", (8, 9), 128, 2.52e9, 1008e9), "rtx-4090-24g"),
        (("NVIDIA L40S X", (8, 9), 142, 2.52e9, 864e9), "l40s-48g"),
        (("NVIDIA GeForce RTX 5090 X", (12, 0), 170, 2.407e9, 1792e9), "rtx-5090-32g"),
        (("Tesla V100 X", (7, 0), 80, 1.53e9, 900e9), "v100-16g"),
        (("NVIDIA RTX PRO 6000 X", (12, 0), 188, 2.617e9, 1792e9), "rtx-pro-6000-96g"),
        (("NVIDIA GeForce RTX 5070 Ti X", (12, 0), 70, 2.452e9, 896e9), "rtx-5070-ti-16g"),
        (
            ("NVIDIA GeForce RTX 4070 Ti SUPER X", (8, 9), 66, 2.61e9, 672e9),
            "rtx-4070-ti-super-16g",
        ),
        (("NVIDIA GeForce RTX 3060 X", (8, 6), 28, 1.777e9, 360e9), "rtx-3060-12g"),
        (("NVIDIA RTX A5000 X", (8, 6), 64, 1.695e9, 768e9), "a5000-24g"),
        (("NVIDIA TITAN RTX X", (7, 5), 72, 1.77e9, 672e9), "titan-rtx-24g"),
        (("Tesla T4 X", (7, 5), 40, 1.59e9, 320e9), "t4-16g"),
        (("NVIDIA B200 X", (10, 0), 148, 1.85e9, 8000e9), "b200-180g"),
    ],
)
def test_a_card_that_is_not_known_is_planned_by_what_it_says_of_itself(
    card: tuple[str, tuple[int, int], int, float, float], entry: str
) -> None:
    name, capability, multiprocessors, clock_hz, bytes_per_s = card
    says = CardProperties(
        name=name,
        capability=capability,
        multiprocessors=multiprocessors,
        clock_hz=clock_hz,
        bytes_per_s=bytes_per_s,
    )
    sheet = CATALOGUE[entry]
    found = facts_of("cuda", name, sheet.memory_bytes, says)
    assert found.is_rough
    assert found.flops == pytest.approx(sheet.flops, rel=0.1)
    assert found.bandwidth == pytest.approx(sheet.bandwidth, rel=0.01)
    assert found.has_bf16 == sheet.has_bf16


def test_what_a_card_does_not_say_comes_from_its_architecture() -> None:
    says = CardProperties(name="NVIDIA X", capability=(8, 6), multiprocessors=84)
    flops, bandwidth = rough_figures(says)
    assert 100e12 < flops < 200e12
    assert bandwidth > 0
    # A card of tomorrow counts as the newest there is.
    later = CardProperties(name="NVIDIA X", capability=(13, 0), multiprocessors=84)
    assert rough_figures(later)[0] > 0


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((8, 6), CUDA_13, True),
        ((8, 9), CUDA_13, True),  # by sm_86
        ((7, 0), CUDA_13, False),
        ((6, 1), CUDA_13, False),
        ((6, 1), CUDA_12, True),
        ((7, 0), CUDA_12, True),
        ((12, 0), CUDA_12, False),
        ((12, 0), [*CUDA_12, "compute_90"], True),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100a"], False),
        ((10, 3), ["sm_100f"], True),
        ((8, 0), ["sm_86"], False),
        ((8, 0), [], True),
    ],
)
def test_whether_torch_has_kernels_for_a_card(
    capability: tuple[int, int], built_for: list[str], runs: bool
) -> None:
    assert has_kernels(capability, tuple(built_for)) == runs


def cuda_card(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    capability: tuple[int, int],
    *,
    gibibytes: float = 16,
    built_for: list[str] = CUDA_12,
) -> None:
    """Make torch say that this card is here; old ones have bf16 by emulation, as torch has it."""
    properties = SimpleNamespace(
        name=name,
        major=capability[0],
        minor=capability[1],
        multi_processor_count=40,
        total_memory=int(gibibytes * GIB),
    )

    def has_bf16(including_emulation: bool = True) -> bool:
        return including_emulation or capability >= (8, 0)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: properties)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", has_bf16)


@pytest.mark.parametrize(
    ("name", "capability", "dtype"),
    [
        ("Tesla V100-SXM2-32GB", (7, 0), torch.float16),
        ("Tesla T4", (7, 5), torch.float16),
        ("NVIDIA GeForce RTX 2080 Ti", (7, 5), torch.float16),
        ("NVIDIA GeForce RTX 3090", (8, 6), torch.bfloat16),
        # Without tensor cores 16 bits are no faster; float32 is computed.
        ("Tesla P40", (6, 1), torch.float32),
    ],
)
def test_a_card_without_bf16_computes_in_fp16_and_training_says_so(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    cuda_card(monkeypatch, name, capability)
    device = select("cuda")
    assert device.preferred_dtype == dtype
    assert half_dtype(torch.device("cuda")) == (
        torch.bfloat16 if dtype == torch.bfloat16 else torch.float16
    )
    chosen = choose_precision(TrainSettings(), device)
    assert chosen.dtype == dtype
    says = "" if dtype != torch.float16 else f"{name} has no bfloat16: computing in float16"
    assert chosen.note.startswith(says)
    assert bool(says) == bool(chosen.note)
    if dtype == torch.float16:
        # A recipe that was written for other cards: bf16 there is 16 bits here.
        assert choose_precision(TrainSettings(bf16=True), device).dtype == torch.float16
        assert choose_precision(TrainSettings(fp16=True), device).note == ""
    forced = choose_precision(TrainSettings(dtype="bfloat16"), device)
    assert forced.dtype == torch.bfloat16
    assert facts(device).has_bf16 == (dtype == torch.bfloat16)


def usual_variants() -> dict[str, str]:
    return {name: names[0] for name, names in preferred_variants("cuda").items() if names}


def facts(device: Device) -> DeviceFacts:
    return device_facts(device, usual_variants())


def test_a_card_with_other_memory_is_planned_with_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_card(monkeypatch, "NVIDIA GeForce RTX 2080 Ti", (7, 5), gibibytes=21.5)
    found = facts(select("cuda"))
    assert (found.memory_bytes, found.flops) == (int(21.5 * GIB), 53.8e12)
    assert not found.is_rough


@pytest.mark.parametrize(
    ("variant", "rate"),
    [("flash", 254e12), ("sdpa", 254e12), ("flash3", 450e12), ("flash4", 450e12)],
)
def test_attention_is_planned_at_the_rate_of_what_computes_it(
    monkeypatch: pytest.MonkeyPatch, variant: str, rate: float
) -> None:
    cuda_card(monkeypatch, "NVIDIA H200", (9, 0), gibibytes=139.7)
    found = device_facts(select("cuda"), {**usual_variants(), "attention": variant})
    assert found.attention_flops == pytest.approx(rate, rel=0.01)
    # A card that is not here is planned with what torch has.
    assert CATALOGUE["h200-141g"].attention_flops == 254e12


def test_a_card_that_is_not_known_is_planned_roughly(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_card(monkeypatch, "NVIDIA CMP 170HX", (8, 0), gibibytes=8)
    found = facts(select("cuda"))
    assert found.is_rough
    assert found.flops == pytest.approx(40 * 1.4e9 * 2048)
    assert found.description == "NVIDIA CMP 170HX"


@pytest.mark.parametrize(
    ("name", "capability", "built_for", "says", "does"),
    [
        ("Tesla P40", (6, 1), CUDA_13, "is 6.1", "whl/cu126"),
        ("Tesla V100-SXM2-32GB", (7, 0), CUDA_13, "is 7.0", "whl/cu126"),
        ("NVIDIA GeForce RTX 5090", (12, 0), CUDA_12, "is 12.0", "--upgrade torch"),
    ],
)
def test_a_card_without_kernels_is_refused_with_the_reason_and_the_command(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    capability: tuple[int, int],
    built_for: list[str],
    says: str,
    does: str,
) -> None:
    cuda_card(monkeypatch, name, capability, built_for=built_for)
    with pytest.raises(EnvironmentFault) as refused:
        select("cuda")
    assert name in str(refused.value)
    assert says in refused.value.why
    assert built_for[0] in refused.value.why
    assert does in refused.value.fix
    assert "--device cpu" in refused.value.fix


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        ("", "unset CUDA_VISIBLE_DEVICES"),
        ("-1", "unset CUDA_VISIBLE_DEVICES"),
        ("1,0", "unset CUDA_VISIBLE_DEVICES"),
        ("0", "See what is missing"),
        ("GPU-8932f937", "See what is missing"),
        (None, "See what is missing"),
    ],
)
def test_cards_that_the_environment_hides_are_not_blamed_on_the_driver(
    monkeypatch: pytest.MonkeyPatch, value: str | None, fix: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(EnvironmentFault) as refused:
        select("cuda")
    assert refused.value.fix.startswith(fix)


@pytest.mark.parametrize(
    ("value", "num_cards", "hides"),
    [("1", 2, False), ("1", 1, True), ("2,0", 2, True), ("0,7", 2, False), ("-1", 8, True)],
)
def test_the_second_of_two_cards_is_there(value: str, num_cards: int, hides: bool) -> None:
    found = hidden_cards({"CUDA_VISIBLE_DEVICES": value}, num_cards)
    assert (found is not None) == hides


@pytest.mark.parametrize("entry", ["a800-80g", "h20-96g", "rtx-4090-d-24g", "t4-16g"])
def test_a_card_that_is_elsewhere_can_be_planned_for(
    entry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = str(ROOT / "examples" / "identity.jsonl")
    assert main(["plan", "--model", "Qwen3-0.6B", "--dataset", rows, "--device", entry]) == 0
    said = capsys.readouterr().out
    assert CATALOGUE[entry].description.split(",")[0] in said
    assert "16 bits" in said
    assert "data sheet" in said


def test_danlu_plan_and_info_on_a_card_without_bf16(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cuda_card(monkeypatch, "Tesla T4", (7, 5), gibibytes=14.6)
    # What would compute there: this machine has the card's name only.
    table = OpsTable(chosen=usual_variants(), off=())
    for module in (dry_run, machine_facts):
        monkeypatch.setattr(module, "ops_table", lambda _device: table)
    monkeypatch.setattr(dry_run, "budget_bytes", lambda *_a, **_b: 14 * GIB)
    rows = str(ROOT / "examples" / "identity.jsonl")
    words = ["--model", "Qwen3-0.6B", "--dataset", rows, "--device", "cuda"]
    assert main(["plan", *words]) == 0
    said = capsys.readouterr().out
    assert "16 bits, on Tesla T4" in " ".join(said.split())
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["device"], found["precision"]) == ("cuda: Tesla T4", "float16")


def test_a_plan_for_a_card_that_is_not_known_says_that_it_is_rough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cuda_card(monkeypatch, "NVIDIA CMP 170HX", (8, 0), gibibytes=16)
    table = OpsTable(chosen=usual_variants(), off=())
    monkeypatch.setattr(dry_run, "ops_table", lambda _device: table)
    monkeypatch.setattr(dry_run, "budget_bytes", lambda *_a, **_b: 14 * GIB)
    rows = str(ROOT / "examples" / "identity.jsonl")
    words = ["--model", "Qwen3-0.6B", "--dataset", rows, "--device", "cuda"]
    assert main(["plan", *words]) == 0
    assert "rough estimate" in capsys.readouterr().out


def test_faster_cards_are_faster() -> None:
    """A slip of a digit would turn one of these around."""
    order = ["t4-16g", "v100-16g", "a100-40g", "h100-pcie-80g", "h100-80g", "b200-180g"]
    flops = [CATALOGUE[entry].flops for entry in order]
    assert flops == sorted(flops)
    for slow, fast in itertools.pairwise(
        ["rtx-3080-10g", "rtx-3090-24g", "rtx-4080-16g", "rtx-4090-d-24g", "rtx-4090-24g"]
    ):
        assert CATALOGUE[slow].flops < CATALOGUE[fast].flops
