"""What the forward pass keeps for the backward pass. No torch here.

Five policies, each keeping less than the one before. Numbers and gradients are the same with all:
what is not kept is computed a second time, as the first time.

    none       everything, the inputs of the projections behind norm and swiglu too
    selective  what enters each projection, before its norm or swiglu; these, QK-norm, RoPE and
               attention run again
    gate_up    the same without the output of gate_up_proj, by far the widest tensor of a layer
    block      only what enters each layer
    offload    the same, kept in the host's memory

`Layer.forward` says which part of a layer each policy repeats, `again` how a part is repeated.
"""

from __future__ import annotations

from typing import Literal, get_args

Recompute = Literal["none", "selective", "gate_up", "block", "offload"]
POLICIES: tuple[Recompute, ...] = get_args(Recompute)


def helpful_policies(*, has_host: bool) -> tuple[Recompute, ...]:
    """List the policies of a device, weakest first: without a host there is nowhere to offload."""
    return POLICIES if has_host else POLICIES[:-1]
