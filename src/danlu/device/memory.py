"""Where a tensor's memory lies."""

from __future__ import annotations

from torch import Tensor


def is_readable_in_place(tensor: Tensor) -> bool:
    """Tell whether a file can be read straight into the tensor: on the host, in one piece."""
    return tensor.device.type == "cpu" and tensor.is_contiguous()
