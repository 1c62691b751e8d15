"""`danlu plan --device`: a card answers to its own names, and never to those of another one."""

from __future__ import annotations

import pytest

from danlu.cli.main import main
from danlu.device.datasheets import CATALOGUE, GIB
from danlu.device.nvidia_cards import NVIDIA_CARDS
from danlu.errors import AmbiguousName, UsageError
from danlu.plan.named_devices import named_device
from tests.helpers.source import ROOT

PLAN = ["plan", "--model", "Qwen3-0.6B", "--dataset", str(ROOT / "examples" / "identity.jsonl")]


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("4090", "rtx-4090-24g"),
        ("RTX 4090", "rtx-4090-24g"),
        ("rtx_4090 24GB", "rtx-4090-24g"),
        ("RTX4090D", "rtx-4090-d-24g"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090-24g"),
        ("3090ti", "rtx-3090-ti-24g"),
        ("5090 D v2", "rtx-5090-d-v2-24g"),
        ("T4", "t4-16g"),
        ("L20", "l20-48g"),
        ("h800", "h800-80g"),
        ("H100 PCIe", "h100-pcie-80g"),
        ("A100-40G", "a100-40g"),
        ("A100 80GB PCIe", "a100-pcie-80g"),
        ("NVIDIA A800-SXM4-80GB", "a800-80g"),
        ("v100 16g", "v100-16g"),
        ("H20-3e", "h20-141g"),
        ("V100S", "v100s-32g"),
        ("RTX PRO 6000", "rtx-pro-6000-96g"),
        ("NVIDIA RTX A5000", "a5000-24g"),
        ("Quadro RTX 8000", "rtx-8000-48g"),
        ("TITAN RTX", "titan-rtx-24g"),
        ("Ascend910B4", "ascend-910b-32g"),
        ("910b3", "ascend-910b3-64g"),
    ],
)
def test_what_people_type_is_the_card(name: str, entry: str) -> None:
    assert named_device(name) is CATALOGUE[entry]


def meant(name: str) -> tuple[str, ...]:
    """Return the entries that a name can mean."""
    try:
        return (named_device(name).name,)
    except AmbiguousName as several:
        return several.choices


def test_the_name_that_a_driver_prints_is_the_card() -> None:
    for card in NVIDIA_CARDS:
        for name in card.names:
            assert card.entry in meant(f"NVIDIA {name}")  # H20s of both sizes may be called H20


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("V100", ("v100-32g", "v100-16g")),
        ("a100", ("a100-80g", "a100-40g")),
        ("A800", ("a800-80g", "a800-40g")),
        ("H20", ("h20-96g", "h20-141g")),
        ("a100 60g", ("a100-80g", "a100-40g")),
        ("910B", ("ascend-910b-64g", "ascend-910b-32g")),
    ],
)
def test_a_name_that_several_cards_have_is_asked_about(name: str, choices: tuple[str, ...]) -> None:
    with pytest.raises(AmbiguousName) as several:
        named_device(name)
    assert several.value.choices == choices
    assert several.value.fix == f"--device {choices[0]}"


@pytest.mark.parametrize(
    ("name", "entry", "gibibytes"),
    [("4090-48g", "rtx-4090-24g", 47.0), ("2080 Ti 22G", "rtx-2080-ti-11g", 21.2)],
)
def test_more_memory_than_was_sold_is_the_same_card_rebuilt(
    name: str, entry: str, gibibytes: float
) -> None:
    found = named_device(name)
    assert found.memory_bytes / GIB == pytest.approx(gibibytes, abs=0.05)
    assert f"{gibibytes} GiB" in found.description
    assert found.name not in CATALOGUE
    assert (found.flops, found.bandwidth) == (CATALOGUE[entry].flops, CATALOGUE[entry].bandwidth)


@pytest.mark.parametrize(
    "name",
    [
        "A10G", "TITAN V", "GB200", "GH200", "P40", "RTX 4090 Laptop GPU", "RTX PRO 5000",
        "RTX 6000", "4060", "MI300X", "K80", "nvidia", "",
    ],
)  # fmt: skip
def test_no_other_card_is_advised_in_the_place_of_one_that_is_not_known(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        named_device(name)
    assert name in refused.value.what
    assert "--device" not in refused.value.fix


def test_of_an_unknown_card_those_with_its_memory_are_named() -> None:
    with pytest.raises(UsageError) as refused:
        named_device("vGPU-32GB")
    assert "rtx-5090-32g" in refused.value.why
    assert "rtx-4090-24g" not in refused.value.why


def test_a_slip_of_the_pen_is_recognised() -> None:
    with pytest.raises(UsageError) as refused:
        named_device("a100-80")
    assert "--device a100-80g" in refused.value.fix


def test_less_memory_than_was_sold_is_another_card() -> None:
    """A laptop's RTX 4090 has 16 GB, and another chip."""
    with pytest.raises(UsageError, match="no rtx-4090-24g with 16g"):
        named_device("RTX 4090 16G")


def test_a_plan_takes_these_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--device", "NVIDIA GeForce RTX 4090 D"]) == 0
    assert "on NVIDIA GeForce RTX 4090 D, 23.5 GiB" in capsys.readouterr().out
    assert main([*PLAN, "--device", "A800"]) == 2
    assert "a800-80g, a800-40g" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "flags", "is_said"),
    [
        ("T4", [], True),
        ("T4", ["--bf16", "true"], True),
        ("T4", ["--dtype", "float32"], False),
        ("RTX 3090", [], False),
    ],
)
def test_a_plan_says_where_there_is_no_bfloat16(
    device: str, flags: list[str], is_said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PLAN, "--device", device, *flags]) == 0
    said = capsys.readouterr().out
    assert ("NVIDIA T4 has no bfloat16: a run computes in float16, with a loss" in said) == is_said
