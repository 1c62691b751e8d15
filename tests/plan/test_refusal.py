"""Where a run does not fit, each change that is advised makes it fit, typed as it is printed."""

from __future__ import annotations

import itertools
import shlex

import pytest

from danlu.cli.main import main
from danlu.errors import EXIT_OK, CapacityError
from tests.helpers.source import ROOT

ROWS = str(ROOT / "examples" / "identity.jsonl")
OR = ", or divide it among several devices: "
SMALLER = "Use a smaller model, such as "


def plan(*words: str) -> int:
    return main(["plan", "--dataset", ROWS, *words])


def advised(fix: str) -> list[list[str]]:
    """Take an advice apart into the words that each of its ways adds to the command."""
    first, _or, second = fix.partition(OR)
    if first.startswith(SMALLER):
        name, _and, flags = first.removeprefix(SMALLER).rstrip(".").partition(", and ")
        first = f"--model {name} {flags}"
    return [shlex.split(way) for way in (first, second) if way.startswith("--")]


@pytest.mark.parametrize("device", ["rtx-4090-24g", "ascend-910b-32g", "ascend-910b-64g"])
def test_what_is_advised_fits(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    tried = 0
    for model, kind, count in itertools.product(
        ("Qwen3-8B", "Qwen3-32B", "Qwen3-30B-A3B", "Qwen3-235B-A22B"), ("lora", "full"), (1, 8, 16)
    ):
        words = ["--model", model, "--device", device]
        words += ["--finetuning_type", kind, "--num_devices", str(count)]
        if plan(*words) == EXIT_OK:
            continue
        fix = capsys.readouterr().err.splitlines()[2]
        for way in advised(fix):
            assert plan(*words, *way) == EXIT_OK, f"{shlex.join(words)}: {fix}"
            tried += 1
    assert tried > 10


def test_experts_without_adapters_on_them(capsys: pytest.CaptureFixture[str]) -> None:
    """An adapter on all experts is 28 GiB, whole on every card; int8 is not divided at all."""
    words = ["--model", "Qwen3-235B-A22B", "--device", "ascend-910b-64g"]
    assert plan(*words, "--num_devices", "16") == CapacityError.exit_code
    target = "--lora_target q_proj,k_proj,v_proj,o_proj"
    assert capsys.readouterr().err.splitlines()[2] == target
    assert plan(*words) == CapacityError.exit_code
    assert capsys.readouterr().err.rstrip().endswith(f"{OR}--num_devices 16 {target}")


def test_what_is_advised_fits_where_bits_are_few_already(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words, advice in (
        ("--model Qwen3-32B --device 4090 --quantization_bit 4", "--quantization_type nf4"),
        ("--model Qwen3-14B --device T4 --quantization_bit 8", "--quantization_bit 4"),
        ("--model Qwen3-14B --device 4090 --fp8 true", "--quantization_bit 8 --fp8 false"),
        ("--model Qwen3-30B-A3B --device 3090", "--quantization_bit 4"),
        ("--model Qwen3-30B-A3B --device 3090 --quantization_bit 4", "--lora_target"),
    ):
        assert plan(*words.split()) == CapacityError.exit_code
        fix = capsys.readouterr().err.splitlines()[2]
        assert advice in fix
        for way in advised(fix):
            assert plan(*words.split(), *way) == EXIT_OK, f"{words}: {fix}"
