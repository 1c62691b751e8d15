"""A card that is here and that torch does not see is said, once, and what looks into it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from danlu.device.cards import Card, Cards
from danlu.device.detect import Device, select
from danlu.hub import choosing, machine_facts
from danlu.hub.choosing import chosen_device, unused_line

CARD = Card(name="NVIDIA GeForce RTX 4090", memory_bytes=24 * 2**30, used_bytes=0)
CARDS = Cards(kind="cuda", cards=(CARD, CARD), driver="580.65.06")


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """Torch sees no card; what a process has said already is forgotten."""
    cpu = select("cpu")
    monkeypatch.setattr(choosing, "select", lambda _kind="auto": cpu)
    monkeypatch.setattr(machine_facts, "select", lambda: cpu)
    for said in (unused_line, choosing._warn_of_cards):
        said.cache_clear()
    yield cpu
    unused_line.cache_clear()


def test_cards_that_torch_does_not_see_are_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choosing, "unused_cards", lambda: CARDS)
    assert chosen_device().kind == chosen_device().kind == "cpu"
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("no GPU is used, but the CPU") == 1
    assert "2 x NVIDIA GeForce RTX 4090" in said
    assert said.endswith("danlu doctor")
    assert "RTX 4090" in machine_facts.machine_facts()["gpu"]


def test_nothing_is_said_of_cards_that_nobody_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choosing, "unused_cards", lambda: CARDS)
    chosen_device("cpu")
    assert capsys.readouterr().err == ""


def test_nothing_is_said_where_there_is_no_card(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choosing, "unused_cards", lambda: None)
    chosen_device()
    assert capsys.readouterr().err == ""
    assert "gpu" not in machine_facts.machine_facts()
