"""Which torch is chosen: by the user's words, by what is there, by the device and its driver."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from threading import Event
from typing import Any

import pytest

from danlu.device.ascend import versions
from danlu.device.ascend.versions import OLDEST_TORCH, PAIRS, TORCH_NPU_IMAGE, release
from danlu.device.cards import Card, Cards
from danlu.errors import EnvironmentFault
from tests.helpers.source import ROOT
from tests.helpers.torch_index import serving, serving_index
from tools.install import indexes
from tools.install.builds import BUILDS, TorchChoice, choose
from tools.install.environment import pinned_torch

GIB = 2**30
TORCH = "2.13.0"
CPU_INDEX = BUILDS["cpu"]["indexes"][0]
NOTHING = Cards(kind="cpu")


def cuda(driver: str) -> Cards:
    """Two cards of a driver."""
    card = Card(name="NVIDIA H100", memory_bytes=80 * GIB, used_bytes=0)
    return Cards(kind="cuda", cards=(card, card), driver=driver, toolkit="CUDA")


def npu(cann: str) -> Cards:
    """One NPU with a version of CANN; "" where none is installed."""
    card = Card(name="910B3", memory_bytes=64 * GIB, used_bytes=0)
    return Cards(kind="npu", cards=(card,), toolkit="CANN", toolkit_version=cann)


def chosen(found: Cards, *, answers: bool = True, **changes: Any) -> TorchChoice:
    """Choose, with all indexes answering or none."""

    def find(urls: Sequence[str], _version: str, _build: str) -> str | None:
        return urls[0] if answers and urls else None

    words: dict[str, Any] = {"installed": {}, "pip_words": [], "torch": TORCH, "find": find}
    return choose(found=found, **words | changes)


def test_without_a_card_the_cpu_build_is_taken() -> None:
    choice = chosen(NOTHING)
    assert choice.pip_words == ("--extra-index-url", CPU_INDEX)
    assert choice.pins == {"torch": "2.13.0+cpu"}
    assert CPU_INDEX in choice.reason


def test_an_index_that_does_not_answer_is_said_and_done_without() -> None:
    choice = chosen(NOTHING, answers=False)
    assert not choice.pip_words
    assert not choice.pins
    assert "no index of CPU builds answers" in choice.reason


@pytest.mark.parametrize("found", [NOTHING, cuda("580.65"), cuda("390.1"), npu("")])
def test_the_users_words_for_pip_come_first(found: Cards) -> None:
    choice = chosen(found, pip_words=["--index-url", "https://example.com"])
    assert choice.pip_words == ("--index-url", "https://example.com")
    assert not choice.pins


def test_a_new_driver_gets_the_build_of_pypi_and_an_older_one_an_older_build() -> None:
    assert chosen(cuda("580.65.06")).pip_words == ()
    choice = chosen(cuda("535.161.08"))
    assert choice.pip_words[1].endswith("/cu126")
    assert choice.pins == {"torch": "2.13.0+cu126"}


@pytest.mark.parametrize(("driver", "answers"), [("470.82", True), ("535.161", False)])
def test_a_driver_that_no_build_in_reach_runs_on_is_refused(driver: str, answers: bool) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        chosen(cuda(driver), answers=answers)
    assert driver in caught.value.why
    assert "580" in caught.value.fix
    assert f'PIP_ARGS="--extra-index-url {CPU_INDEX}" bash ' in caught.value.fix


@pytest.mark.parametrize(
    ("capability", "driver", "build"),
    [
        ((7, 0), "580.65.06", "cu126"),  # V100: CUDA 13 has no kernels for it
        ((6, 1), "580.65.06", "cu126"),  # P40
        ((7, 5), "580.65.06", ""),  # T4
        ((8, 9), "580.65.06", ""),  # RTX 4090
        ((8, 9), "550.54.15", "cu126"),
        ((12, 0), "580.65.06", ""),  # RTX 5090
    ],
)
def test_the_build_has_kernels_for_the_card(
    capability: tuple[int, int], driver: str, build: str
) -> None:
    choice = chosen(cuda(driver), capabilities=(capability,))
    assert choice.pins == ({"torch": f"2.13.0+{build}"} if build else {})


@pytest.mark.parametrize(
    ("capability", "driver", "answers", "says"),
    [
        ((12, 0), "570.124.06", True, ["570.124.06", "580", "Update the driver to 580"]),
        ((7, 0), "470.82.01", True, ["525", "Update the driver to 525"]),
        ((7, 0), "580.65.06", False, ["its index does not answer"]),
        ((3, 5), "580.65.06", True, ["No build of torch has kernels", "Without the card"]),
    ],
)
def test_a_card_that_no_build_in_reach_has_kernels_for_is_refused(
    capability: tuple[int, int], driver: str, answers: bool, says: list[str]
) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        chosen(cuda(driver), answers=answers, capabilities=(capability,))
    assert all(words in str(caught.value) for words in says)
    assert f'PIP_ARGS="--extra-index-url {CPU_INDEX}" bash ' in caught.value.fix


@pytest.mark.parametrize(
    ("cann", "torch_npu"),
    [("9.1.0", "2.10.0.post4"), ("9.0.1", "2.10.0.post2"), ("9.0.0", "2.10.0")],
)
def test_cann_decides_the_pair(cann: str, torch_npu: str) -> None:
    choice = chosen(npu(cann))
    assert f"torch-npu=={torch_npu}" in choice.requirements
    pins = {"torch": "2.10.0+cpu", "torch-npu": torch_npu, "protobuf": "3.20.3"}
    assert choice.pins == pins
    # Without these, which CANN's guide asks of a Python, the first operation fails (error 500001).
    assert {"attrs", "decorator", "psutil", "scipy", "protobuf==3.20.3"} <= set(choice.requirements)
    # On x86-64 PyPI's torch is for CUDA, which torch_npu does not bear.
    assert choice.pip_words == ("--extra-index-url", CPU_INDEX)


def test_a_bundle_is_chosen_for_the_python_that_will_run_it() -> None:
    assert chosen(npu("9.1.0"), python=(3, 14)).pins["torch-npu"] == "2.12.0"
    with pytest.raises(EnvironmentFault, match="CANN"):
        chosen(npu("9.1.0"), python=(3, 9))


def test_a_cuda_card_that_is_elsewhere_gets_the_newest_build() -> None:
    choice = chosen(Cards(kind="cuda"))
    assert choice.reason.startswith("torch: the build for CUDA 13.0")
    assert choice.pip_words == ()


@pytest.mark.parametrize("cann", ["8.5.0", ""])
def test_a_cann_that_no_pair_fits_is_refused_with_an_image(cann: str) -> None:
    with pytest.raises(EnvironmentFault, match="CANN") as caught:
        chosen(npu(cann))
    assert TORCH_NPU_IMAGE in caught.value.fix


@pytest.mark.parametrize("found", [npu("9.1.0"), npu("8.5.0"), NOTHING])
def test_a_pair_that_is_there_stays(found: Cards) -> None:
    """Also where npu-smi is not in the container, and where the table knows no such pair."""
    here = {"torch": "2.11.0+cpu", "torch-npu": "2.11.0.post3", "numpy": "1.26.4"}
    choice = chosen(found, installed=here, answers=False)
    assert choice.sees_system
    assert choice.pins == {"protobuf": "3.20.3", **here}
    # What CANN asks of a Python is brought where it is missing; no torch.
    assert "scipy" in choice.requirements
    assert not [name for name in choice.requirements if name.startswith("torch")]


def test_a_numpy_that_is_too_old_for_danlu_is_not_kept() -> None:
    here = {"torch": "2.10.0", "torch-npu": "2.10.0.post4", "numpy": "1.24.4"}
    assert "numpy" not in chosen(npu("9.1.0"), installed=here).pins


@pytest.mark.parametrize(
    ("torch", "torch_npu", "says"),
    [("2.9.0", "2.10.0.post2", "do not belong together"), ("2.7.1", "2.7.1.post8", "too old")],
)
def test_a_pair_that_cannot_serve_is_refused(torch: str, torch_npu: str, says: str) -> None:
    with pytest.raises(EnvironmentFault, match=says) as caught:
        chosen(npu("9.1.0"), installed={"torch": torch, "torch-npu": torch_npu})
    assert torch in caught.value.why


def test_the_data_holds_for_the_torch_that_is_tested() -> None:
    """A newer torch in constraints.txt needs a look at torch_builds.json."""
    assert pinned_torch() == TORCH
    assert TORCH in BUILDS["cuda"][0]["why_no_index"]
    oldest = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert oldest is not None
    assert oldest[1] == OLDEST_TORCH
    assert CPU_INDEX == versions.CPU_INDEX
    for pair in PAIRS:
        assert release(pair.torch_npu) == pair.torch


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach this machine's own servers, whatever is set."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize(
    ("page", "counts"),
    [
        (("2.13.0", "cpu"), True),
        (("2.12.0", "cpu"), False),
        (("2.13.0", "cu126"), False),
        (("2.13.0", "cpu", "cp39"), False),
    ],
)
def test_an_index_counts_when_it_lists_the_build_for_this_python(
    page: tuple[str, ...], counts: bool
) -> None:
    with serving_index(*page) as address:
        nobody = "http://127.0.0.1:9"
        found = indexes.first_listing([nobody, address], TORCH, "cpu")
    assert found == (address if counts else None)


def test_an_index_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "PATIENCE_S", 0.5)
    ended = Event()
    with serving(lambda _handler: (ended.wait(60), None)[1]) as address:
        begun = time.monotonic()
        assert indexes.first_listing([address, address], TORCH, "cpu") is None
        assert time.monotonic() - begun < 30
        ended.set()
