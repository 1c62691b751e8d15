"""Which device this process computes on, and what it can do.

Facts about the device are data (`Device`), asked once at the start, printed and recorded in the
run. Nothing above `device/` and `ops/` asks for a device's kind: it asks for a capability.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch

from danlu.container import memory_bytes, num_processors
from danlu.device.ascend.causes import NpuTrouble, no_training
from danlu.device.ascend.chips import chip_named
from danlu.device.ascend.torch_plugin import npu_trouble
from danlu.device.cards import cuda_cards
from danlu.device.launcher import Place
from danlu.device.nvidia_cards import (
    SHOW_ALL_CARDS,
    CardProperties,
    has_kernels,
    has_tensor_cores,
    hidden_cards,
    is_newer_than,
)
from danlu.device.openmp import watch_waiting
from danlu.device.processor import multiplies_twice, processor
from danlu.environment import set_unless_given
from danlu.errors import EnvironmentFault, UsageError
from danlu.language import _
from danlu.program import as_typed, own_pip

KINDS = ("npu", "cuda", "cpu")
# Where torch is built for CUDA 12.6, which has kernels for cards before Turing; CUDA 13 has none.
_OLDER_CARDS = "--index-url https://download.pytorch.org/whl/cu126"
# The values of --dtype; auto is the device's preferred one.
DTYPES = {
    "auto": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device: memory in bytes that this process may use, and its capabilities.

    token_multiple: number of rows, or a multiple of it, with which 16-bit products are fast. Few
    sizes mean few kernels, which the CPU's library keeps for ever; tensor cores and Ascend's cubes
    work on tiles. prompt_chunk: tokens of prompts that the engine reads in one step. no_training:
    why it cannot train; empty where it can. card: what a CUDA card says of itself. index: which of
    several alike; each process of a group has its own. has_two_units: see `multiplies_twice`.
    """

    kind: str
    description: str
    memory_bytes: int
    has_fast_bf16: bool
    has_fast_fp16: bool
    threads: int
    token_multiple: int = 16
    prompt_chunk: int = 2048
    no_training: str = ""
    card: CardProperties | None = None
    index: int = 0
    has_two_units: bool = False

    @property
    def torch_device(self) -> torch.device:
        """The device as torch names it."""
        return torch.device(self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}")

    @property
    def has_host(self) -> bool:
        """Whether there is another memory, the host's, to put something aside."""
        return self.kind != "cpu"

    def use_threads(self, count: int) -> Device:
        """Set how many threads this process computes with; return the device with that number."""
        torch.set_num_threads(count)
        return replace(self, threads=count)

    @property
    def preferred_dtype(self) -> torch.dtype:
        """bfloat16 where the hardware multiplies it at full speed, else float16, else float32."""
        if self.has_fast_bf16:
            return torch.bfloat16
        return torch.float16 if self.has_fast_fp16 else torch.float32


def select(kind: str = "auto") -> Device:
    """Choose this process's device; `auto` takes an NPU, then a CUDA card, then the CPU.

    From then on it is watched how threads wait for each other. The CPU's choice limits, in the
    environment, how many kernels oneDNN keeps. torch_npu is loaded for `auto` and `npu` only.
    Raises UsageError for an unknown kind and EnvironmentFault for one that is not usable here.
    """
    if kind == "auto":
        kind = _best()
    if kind not in KINDS:
        raise UsageError(
            _("There is no device {kind}.").format(kind=kind),
            why=_("The devices are {names}.").format(names=", ".join(KINDS)),
            fix=_("Leave out --device; the best one is chosen."),
        )
    _check_usable(kind)
    watch_waiting()
    return {"cpu": _cpu, "cuda": _cuda, "npu": _npu}[kind]()


def _check_usable(kind: str) -> None:
    """Raise EnvironmentFault where a kind of device is not usable here."""
    if kind == "npu" and (trouble := npu_trouble()) is not None:
        raise EnvironmentFault(
            _("The device {kind} cannot be used.").format(kind=kind),
            why=trouble.reason,
            fix=trouble.fix,
        )
    if kind == "cuda" and not torch.cuda.is_available():
        raise _without_cards()


def _without_cards() -> EnvironmentFault:
    what = _("The device {kind} cannot be used.").format(kind="cuda")
    shown = cuda_cards()
    hidden = hidden_cards(os.environ, len(shown.cards) if shown is not None else 1)
    if hidden is not None and torch.version.cuda is not None:
        return EnvironmentFault(what, why=hidden, fix=SHOW_ALL_CARDS)
    return EnvironmentFault(
        what,
        why=_("torch {version} sees none (driver or matching torch build missing).").format(
            version=torch.__version__
        ),
        fix=_("See what is missing: {command}. Or use --device cpu").format(
            command=as_typed("danlu doctor")
        ),
    )


def passed_over() -> NpuTrouble | None:
    """Say why `auto` takes no NPU though one is expected here; None where nobody expects one."""
    trouble = npu_trouble()
    return trouble if trouble is not None and trouble.is_expected else None


def _best() -> str:
    if npu_trouble() is None:
        return "npu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def _cpu() -> Device:
    # oneDNN keeps the kernels of the last 1,024 shapes, megabytes each, and torch a description of
    # 0.26 MB for each shape of a bf16 product; packed batches come in many. Both read their limit
    # when they make their first one.
    set_unless_given({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"})
    flags, model = processor()
    has_bf16 = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    return Device(
        kind="cpu",
        prompt_chunk=256,
        description=model,
        memory_bytes=memory_bytes(),
        has_fast_bf16=has_bf16,
        has_two_units=multiplies_twice(flags),
        has_fast_fp16=False,  # aten converts to fp32 and back
        threads=torch.get_num_threads(),
    )


def num_devices(kind: str) -> int | None:
    """Count the devices of a kind that this process may use; None for the CPU, which all share.

    `auto`: of the best kind. Raises EnvironmentFault for one that is not usable here.
    """
    kind = _best() if kind == "auto" else kind
    _check_usable(kind)
    return None if kind == "cpu" else int(torch.get_device_module(kind).device_count())


def _own_index(kind: str) -> int:
    """Take the device that is this process's, by its place among those of this machine."""
    place = Place.own()
    if place.local_size == 1:
        return 0
    index, count = place.local_rank, num_devices(kind)
    if count is not None and index >= count:
        raise UsageError(
            _("There are more processes than devices."),
            why=_("This is process {number} of this machine, which has {count} of {kind}.").format(
                number=index + 1, count=count, kind=kind
            ),
            fix=f"--num_devices {count}",
        )
    torch.get_device_module(kind).set_device(index)
    return index


def _cuda() -> Device:
    index = _own_index("cuda")
    properties = torch.cuda.get_device_properties(index)
    card = CardProperties(
        name=properties.name,
        capability=(properties.major, properties.minor),
        multiprocessors=properties.multi_processor_count,
        # Not in every torch; in kHz and bits, two numbers a clock.
        clock_hz=1e3 * getattr(properties, "clock_rate", 0),
        bytes_per_s=2e3
        * getattr(properties, "memory_clock_rate", 0)
        * getattr(properties, "memory_bus_width", 0)
        / 8,
    )
    built_for = tuple(torch.cuda.get_arch_list())
    if not has_kernels(card.capability, built_for):
        raise _without_kernels(card, built_for)
    return Device(
        kind="cuda",
        description=properties.name,
        memory_bytes=properties.total_memory,
        has_fast_bf16=multiplies_bf16("cuda"),
        has_fast_fp16=has_tensor_cores(card.capability),
        threads=torch.get_num_threads(),
        card=card,
        index=index,
    )


def _without_kernels(card: CardProperties, built_for: tuple[str, ...]) -> EnvironmentFault:
    major, minor = card.capability
    is_too_new = is_newer_than(card.capability, built_for)
    words = "--upgrade torch" if is_too_new else f"--force-reinstall torch {_OLDER_CARDS}"
    return EnvironmentFault(
        _("The card {name} cannot be used.").format(name=card.name),
        why=_(
            "Its compute capability is {version}, and torch {torch} has kernels for {names}."
        ).format(version=f"{major}.{minor}", torch=torch.__version__, names=", ".join(built_for)),
        fix=_("Use --device cpu, or install a torch that has them: {command}").format(
            command=f"{own_pip()} install {words}"
        ),
    )


def multiplies_bf16(kind: str) -> bool:
    """Whether a kind of device multiplies bfloat16 itself; where torch emulates it, it does not."""
    if kind == "cpu":
        return True
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(getattr(torch, kind).is_bf16_supported())


def _npu() -> Device:
    index = _own_index("npu")
    properties = torch.npu.get_device_properties(index)  # type: ignore[attr-defined]
    chip = chip_named(properties.name)
    # torch_npu may have bound this thread to the chip's share of the processors.
    threads = min(torch.get_num_threads(), num_processors())
    if threads < torch.get_num_threads():
        torch.set_num_threads(threads)
    return Device(
        kind="npu",
        description=properties.name,
        memory_bytes=properties.total_memory,
        has_fast_bf16=multiplies_bf16("npu"),
        has_fast_fp16=True,
        threads=threads,
        no_training="" if chip is None or chip.can_train else no_training(properties.name),
        index=index,
    )
