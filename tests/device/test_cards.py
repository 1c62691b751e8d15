"""What the drivers' tools show becomes cards; no tool, a failing or a strange one is no card."""

from __future__ import annotations

from pathlib import Path

import pytest

from danlu.device.cards import (
    Card,
    Cards,
    ToolAnswer,
    ask,
    cuda_capabilities,
    find_cards,
    npus_in,
    unused_cards,
)
from tests.helpers.driver_tools import (
    NO_NPU,
    NPU_910A,
    NPU_A2,
    NPU_A3,
    NPU_DDR,
    npu_table,
    write_cann,
    write_npu_smi,
    write_nvidia_smi,
    write_tool,
)

MIB = 2**20


@pytest.fixture(autouse=True)
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with the shell's own programs and a folder for drivers' tools; no CANN."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for program in ("sh", "cat", "sleep"):
        real = next(p for p in (Path("/bin") / program, Path("/usr/bin") / program) if p.exists())
        (folder / program).symlink_to(real)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "no-cann"))
    return folder


def test_a_machine_without_cards() -> None:
    assert find_cards() == Cards(kind="cpu")


def test_cuda_cards(tools: Path) -> None:
    write_nvidia_smi(tools, count=2, driver="535.161.08", cuda="12.2")
    card = Card(name="NVIDIA H100 80GB HBM3", memory_bytes=81559 * MIB, used_bytes=4 * MIB)
    assert find_cards() == Cards(
        kind="cuda",
        cards=(card, card),
        driver="535.161.08",
        toolkit="CUDA",
        toolkit_version="12.2",
    )


@pytest.mark.parametrize(
    ("table", "cards"),
    [
        (NPU_A2, [("910B3", 65536, 3318), ("910B3", 65536, 61258)]),
        (NPU_A3, [("Ascend910", 65536, 3146), ("Ascend910", 65536, 2906)]),
        (NPU_DDR, [("310P3", 43693, 1682)]),
        (NPU_910A, [("910A", 32768, 23)]),
        (npu_table("910B4", total=32768), [("910B4", 32768, 3318)]),
        (npu_table("910B4-1", used=61258), [("910B4-1", 65536, 61258)]),
    ],
    ids=["A2", "A3", "without HBM", "910A", "910B4", "910B4-1"],
)
def test_npus(
    table: str,
    cards: list[tuple[str, int, int]],
    tools: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_npu_smi(tools, table)
    monkeypatch.setenv("ASCEND_HOME_PATH", str(write_cann(tmp_path / "cann", "9.1.0")))
    found = find_cards()
    assert (found.kind, found.toolkit, found.toolkit_version) == ("npu", "CANN", "9.1.0")
    shown = [(c.name, c.memory_bytes // MIB, c.used_bytes // MIB) for c in found.cards]
    assert shown == cards


def test_npus_come_before_cuda_cards(tools: Path) -> None:
    write_npu_smi(tools)
    write_nvidia_smi(tools)
    assert find_cards().kind == "npu"


@pytest.mark.parametrize(
    "script",
    ["exit 9", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
     "echo 'No devices were found'", "printf '\\377\\376, a, b, c'"],
)  # fmt: skip
def test_a_tool_that_fails_shows_no_card(script: str, tools: Path) -> None:
    write_tool(tools, "nvidia-smi", script)
    write_npu_smi(tools, NO_NPU)
    assert find_cards() == Cards(kind="cpu")


def test_what_a_tool_says_when_it_fails_is_kept(tools: Path) -> None:
    write_tool(tools, "npu-smi", "echo 'a first line'; echo 'Permission denied' >&2; exit 3\n")
    assert ask("npu-smi", "info") == ToolAnswer(problem="Permission denied")
    write_tool(tools, "npu-smi", "exit 3\n")
    assert ask("npu-smi", "info") == ToolAnswer(problem="exit code 3")


def test_a_tool_that_is_missing_or_hangs(tools: Path) -> None:
    assert not ask("npu-smi", "info").is_there
    write_tool(tools, "npu-smi", "sleep 60\n")
    assert ask("npu-smi", "info", patience_s=0.3) == ToolAnswer(hangs=True)


def test_the_health_of_each_chip_is_read() -> None:
    assert [card.health for card in npus_in(npu_table("910B3", health="Alarm"))] == ["Alarm"]


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("8.9\n12.0", ((8, 9), (12, 0))),
        ('Field "compute_cap" is not a valid field to query.', ()),  # as older drivers say
        ("[N/A]", ()),
    ],
)
def test_the_capability_of_each_card(
    tools: Path, printed: str, found: tuple[tuple[int, int], ...]
) -> None:
    write_tool(tools, "nvidia-smi", f"cat <<'END'\n{printed}\nEND\n")
    assert cuda_capabilities() == found


def test_cards_that_torch_does_not_see_are_found_unless_they_are_hidden(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert unused_cards() is None
    write_nvidia_smi(tools)
    assert unused_cards() is not None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert unused_cards() is None
