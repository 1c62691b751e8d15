"""A chip's name, as the runtime or npu-smi writes it, says what it can do and how fast it is."""

from __future__ import annotations

import pytest

from danlu.device.ascend.chips import CHIPS, chip_named
from danlu.device.ascend.versions import (
    PAIRS,
    cann_of,
    numbers,
    oldest_driver,
    pair_of,
    pairs_for,
    release,
)
from danlu.device.datasheets import CATALOGUE, facts_of

GIB = 2**30


@pytest.mark.parametrize(
    ("family", "names"),
    [
        # `910B` without a number is of the first generation.
        ("910A", "Ascend910A Ascend910B Ascend910ProA Ascend910ProB Ascend910PremiumA 910A 910B"),
        ("910B", "Ascend910B1 Ascend910B2C Ascend910B3 Ascend910B4 Ascend910B4-1 910B3 910B4-1"),
        # npu-smi says `Ascend910`, the runtime a number.
        ("910C", "Ascend910_9391 Ascend910_9392 Ascend910_9381 Ascend910_9362 Ascend910"),
        ("310P", "Ascend310P1 Ascend310P3 310P3"),
    ],
)  # fmt: skip
def test_every_name_has_its_family(family: str, names: str) -> None:
    for name in names.split():
        chip = chip_named(name)
        assert chip is not None, name
        assert chip.family == family, name


@pytest.mark.parametrize("name", ["Ascend950PR", "Simulated NPU", "NVIDIA H100", ""])
def test_a_chip_that_is_not_known_is_none(name: str) -> None:
    assert chip_named(name) is None


def test_what_each_family_can_do() -> None:
    can = {chip.family: (chip.can_train, chip.can_answer, chip.saturates) for chip in CHIPS}
    assert can == {
        "910A": (False, False, True),
        "910B": (True, True, False),
        "910C": (True, True, False),
        "310P": (False, True, True),
    }


@pytest.mark.parametrize(
    ("name", "gibibytes", "entry"),
    [
        ("Ascend910B1", 64, "ascend-910b-64g"),
        ("Ascend910B2", 64, "ascend-910b-64g"),
        ("Ascend910B3", 61, "ascend-910b3-64g"),
        ("910B3", 64, "ascend-910b3-64g"),
        ("Ascend910B4", 32, "ascend-910b-32g"),
        # The memory of a 910B3, and as fast as a 910B4.
        ("Ascend910B4-1", 64, "ascend-910b-32g"),
        # A part of a chip, lent to a container.
        ("Ascend910B3", 16, "ascend-910b3-64g"),
        ("Ascend910_9391", 64, "ascend-910b-64g"),
    ],
)
def test_an_ascend_is_planned_as_the_chip_that_it_is(name: str, gibibytes: int, entry: str) -> None:
    assert facts_of("npu", name, gibibytes * GIB) == CATALOGUE[entry]


def test_a_chip_that_no_entry_names_is_planned_roughly_by_its_memory() -> None:
    found = facts_of("npu", "Ascend950PR", 30 * GIB)
    assert (found.is_rough, found.memory_bytes) == (True, 32 * GIB)
    assert not any(facts.is_rough for facts in CATALOGUE.values())


def test_the_table_of_versions_is_whole() -> None:
    for pair in PAIRS:
        assert release(pair.torch_npu) == pair.torch
        assert cann_of(pair.torch_npu) == pair.cann
        assert pair_of(pair.torch, f"{pair.cann}.0" if pair.cann != "9.0.1" else "9.0.1") == pair
    # No torch and CANN stand there twice.
    assert len({(pair.torch, pair.cann) for pair in PAIRS}) == len(PAIRS)


@pytest.mark.parametrize(
    ("cann", "python", "first"),
    [
        ("9.1.0", (3, 11, 9), "2.10.0.post4"),
        ("9.1.0", (3, 14, 0), "2.12.0"),
        ("9.0.1", (3, 12, 1), "2.10.0.post2"),
        ("9.0.0", (3, 12, 1), "2.10.0"),
        ("8.5.0", (3, 11, 9), None),  # no torch that danlu runs with
        ("9.0.0", (3, 14, 0), None),
        ("", (3, 11, 9), None),
    ],
)
def test_cann_and_python_decide_the_pair(
    cann: str, python: tuple[int, ...], first: str | None
) -> None:
    found = [pair.torch_npu for pair in pairs_for(cann, python)]
    assert found[:1] == ([first] if first else [])


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.10.0.post4", (2, 10, 0)), ("8.3.RC1", (8, 3)), ("24.1.rc3.b999", (24, 1)), ("x", ())],
)
def test_the_numbers_of_a_version(version: str, expected: tuple[int, ...]) -> None:
    assert numbers(version) == expected


def test_the_oldest_driver_of_a_cann() -> None:
    drivers = [oldest_driver(cann) for cann in ("9.1.0", "9.0.1", "8.5.0", "8.3.RC1", "")]
    assert drivers == ["25.2", "25.0", "25.0", "", ""]
