"""Products of groups of rows by npu_grouped_matmul, which reads on the device where groups end."""

from __future__ import annotations

import torch
from torch import Tensor


def grouped_linear(
    x: Tensor, matrices: Tensor, ends: Tensor, total: Tensor | None = None
) -> Tensor:
    """See `ops.grouped_linear`; split_item 3 is one tensor of results, group_type 0 groups rows."""
    results: list[Tensor] = torch.ops.npu.npu_grouped_matmul(
        [x], [matrices], group_list=ends, split_item=3, group_type=0, group_list_type=0
    )
    return results[0] if total is None else total.add_(results[0])
