"""Numbers of bytes have one unit wherever they are shown."""

from __future__ import annotations

import re

import pytest

from danlu.device.datasheets import CATALOGUE
from danlu.units import GIB, readable_bytes
from tests.helpers.source import ROOT


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (5000, "4.9 KiB"),
        (37 * 2**20, "37.0 MiB"),
        (64 * GIB, "64.0 GiB"),
        (64 * 10**9, "59.6 GiB"),
    ],
)
def test_sizes_are_binary_and_say_so(count: int, text: str) -> None:
    assert readable_bytes(count) == text


def test_a_card_has_one_size() -> None:
    for facts in CATALOGUE.values():
        _product, _comma, size = facts.description.rpartition(", ")
        assert float(size.removesuffix(" GiB")) == pytest.approx(facts.memory_bytes / GIB)


def test_no_sentence_chooses_a_unit_of_its_own() -> None:
    # A field of a template followed by a decimal unit: `{needed:.1f} GB`.
    alone = re.compile(r"\} ?[KMG]B\b")
    files = sorted((ROOT / "src" / "danlu").rglob("*.py"))
    assert [path for path in files if alone.search(path.read_text(encoding="utf-8"))] == []
