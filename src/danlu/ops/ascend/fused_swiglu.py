"""SwiGLU on the merged projection as it lies, one kernel each way."""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.swiglu import SwigluPasses


def _forward(gate_up: Tensor) -> Tensor:
    out: Tensor = torch.ops.npu.npu_swiglu(gate_up, dim=-1)
    return out


def _backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    out: Tensor = torch.ops.npu.npu_swiglu_backward(grad, gate_up, dim=-1)
    return out


SWIGLU_PASSES = SwigluPasses(_forward, _backward)
