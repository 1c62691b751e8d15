"""Attention of a packed batch by one call of a FlashAttention each way.

torch has FlashAttention 2. Its own function for variable lengths stands behind
`torch.nn.attention.varlen`, whose arguments still change from release to release; the operation
below it takes the same from 2.10 to 2.13, and keys and values with fewer heads than the queries,
strided ones too.

FlashAttention 3 and 4 are packages of their own. torch can put their kernels into its operation's
place (`torch.nn.attention.activate_flash_attention_impl`), but for all that a process computes, and
up to 2.13 it fails on what flash-attn-4 returns since 4.0.0b19 (pytorch/pytorch, issue 190212). So
they are called by the function that they offer themselves, which is the same in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

import torch
from torch import Tensor

from danlu.device.nvidia_cards import AMPERE
from danlu.language import _
from danlu.ops.attention import Segments, each_segment
from danlu.ops.choice import NotHere
from danlu.ops.nvidia.late_import import is_older_than


def flash(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Attend inside each segment; see `danlu.ops.segment_attention`. The kernel is for 16 bits.

    Raises NotHere on cards that torch has it not for, where nothing is wrong.
    """
    if is_older_than(AMPERE):
        raise NotHere("torch's FlashAttention is for cards from Ampere on")
    if q.dtype == torch.float32:
        return each_segment(q, k, v, segments)
    longest = max(segments.lengths)
    out: Tensor = torch.ops.aten._flash_attention_forward(
        *(q, k, v, segments.offsets, segments.offsets, longest, longest),
        *(0.0, True, False),  # no dropout, causal, no mask of the dropout to look at
        scale=q.shape[2] ** -0.5,
    )[0]
    return out.flatten(1)


@dataclass(frozen=True, kw_only=True)
class FlashPackage:
    """Attention by a package, where it is installed and the card is one of its kernels'.

    package: as pip knows it. module: what is imported of it, when it is first called.
    capabilities: the first number of its cards' compute capability.
    """

    package: str
    module: str
    capabilities: tuple[int, ...]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        """Attend inside each segment, as `flash` does. Raises NotHere."""
        attend = _function(self)
        if q.dtype == torch.float32:
            return each_segment(q, k, v, segments)
        # Numbers of the host: of a tensor flash-attn-4 made a kernel anew in every call.
        longest = max(segments.lengths)
        found = attend(
            q,
            k,
            v,
            cu_seqlens_q=segments.offsets,
            cu_seqlens_k=segments.offsets,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            softmax_scale=q.shape[2] ** -0.5,
            causal=True,
        )
        # Some releases return each row's log of a sum besides.
        out: Tensor = found[0] if isinstance(found, tuple) else found
        return out.flatten(1)


# What runs on Hopper only, and what on Blackwell in data centres too: FlashAttention 4 computes
# wrongly or crashes on other Blackwell cards (Dao-AILab/flash-attention, 2553 and 2860).
FLASH_3 = FlashPackage(package="flash-attn-3", module="flash_attn_interface", capabilities=(9,))
FLASH_4 = FlashPackage(package="flash-attn-4", module="flash_attn.cute", capabilities=(9, 10))


@lru_cache(maxsize=8)
def _function(flash_package: FlashPackage) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """Import a package's function. Raises NotHere; what else a broken package raises."""
    package, module = flash_package.package, flash_package.module
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)
    if capability[0] not in flash_package.capabilities:
        cards = ", ".join(f"{number}.x" for number in flash_package.capabilities)
        raise NotHere(
            _("{package} is for cards of compute capability {cards}.").format(
                package=package, cards=cards
            )
        )
    try:
        found = import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name not in (module, module.partition(".")[0]):
            raise
        raise NotHere(
            _("{package} is not installed; docs/installation.md says how that is done.").format(
                package=package
            )
        ) from missing
    function: Callable[..., Tensor | tuple[Tensor, ...]] = found.flash_attn_varlen_func
    return function
