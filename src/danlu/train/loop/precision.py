"""Which precision a run computes in, and the loss scale that float16 needs.

float16 ends at 65,504 and at 6e-8: small gradients vanish unless the loss is multiplied first. The
scale halves when a gradient overflows, and doubles after many steps that went well (Micikevicius et
al. 2018; the numbers are those of torch's GradScaler).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from danlu.device.detect import DTYPES, Device
from danlu.errors import EnvironmentFault, UsageError
from danlu.language import _, joined
from danlu.ops import multiplies_fp8, ops_table
from danlu.train.settings import TrainSettings

FIRST_SCALE = 65536.0
LEAST_SCALE = 2.0  # 1 is none, and grows no more
GROWTH_STEPS = 2000


@dataclass(frozen=True, kw_only=True)
class LossScale:
    """The factor on the loss of one step. good_steps: steps since it last changed."""

    value: float = 1.0
    good_steps: int = 0

    @classmethod
    def first_for(cls, dtype: torch.dtype) -> LossScale:
        """Return the scale of a run's first step: 1 unless it computes in float16."""
        return cls(value=FIRST_SCALE if dtype == torch.float16 else 1.0)

    def halved(self) -> LossScale | None:
        """Return the scale to try after an overflow; None where there is nothing left to halve."""
        return LossScale(value=self.value / 2) if self.value > LEAST_SCALE else None

    def after_good_step(self) -> LossScale:
        """Return the scale of the next step."""
        if self.value == 1.0:
            return self
        if self.good_steps + 1 >= GROWTH_STEPS:
            return LossScale(value=self.value * 2)
        return LossScale(value=self.value, good_steps=self.good_steps + 1)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The dtype of a run's weights; note: a sentence where it is not what was asked for."""

    dtype: torch.dtype
    note: str = ""

    @property
    def name(self) -> str:
        """The dtype's name: bfloat16."""
        return str(self.dtype).removeprefix("torch.")


def choose_precision(settings: TrainSettings, device: Device) -> Precision:
    """Choose the dtype: `dtype` decides; else `bf16`, `fp16`, else what the device prefers.

    Both flags ask for 16 bits, not for one of the two: bfloat16 needs no loss scale and cannot
    overflow, so it is taken wherever the device has it, and float16 on cards that would only
    emulate it. Raises UsageError for fp16 with bf16.
    """
    if settings.fp16 and settings.bf16:
        raise UsageError(
            _("--fp16 and --bf16 exclude each other."),
            why=_("A run has one precision."),
            fix=_("Keep --bf16; on cards without bfloat16 keep --fp16."),
        )
    asked, preferred = DTYPES[settings.dtype], device.preferred_dtype
    if asked is not None:
        return Precision(dtype=asked)
    if preferred == torch.float16 and not settings.fp16:
        note = _(
            "{device} has no bfloat16: computing in float16, with a loss scale against overflow "
            "(--dtype float32 is slower and takes twice the memory)"
        )
        return Precision(dtype=preferred, note=note.format(device=device.description))
    if settings.bf16:
        return Precision(dtype=torch.bfloat16)
    if not settings.fp16:
        return Precision(dtype=preferred)
    note = ""
    if preferred == torch.bfloat16:
        note = _(
            "--fp16: computing in bfloat16, as fast and without overflow (--dtype float16 forces)"
        )
    elif preferred == torch.float32:
        note = _("--fp16: this device has no fast 16-bit arithmetic; computing in float32")
    return Precision(dtype=preferred, note=note)


def check_fp8(device: Device) -> None:
    """Raise EnvironmentFault where a device does not multiply in fp8, and no twin is asked for.

    The twin computes the same numbers on any device, slower than without (DANLU_OPS).
    """
    place = device.torch_device
    if not multiplies_fp8(place):
        off = [text for text in ops_table(place).off if text.startswith("fp8_linear")]
        raise without_fp8(device.description, *off)


def without_fp8(description: str, *off: str) -> EnvironmentFault:
    """Say that a device does not multiply in fp8, and which do. off: variants that fail there."""
    return EnvironmentFault(
        _("{device} does not multiply in fp8.").format(device=description),
        why=joined(
            _(
                "NVIDIA cards of compute capability 8.9 and newer do: RTX 40 and 50, L4, L20, L40, "
                "H20, H100, H200, H800, B200."
            ),
            *off,
        ),
        fix="--fp8 false",
    )
