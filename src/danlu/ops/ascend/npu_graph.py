"""Recorded work on Ascend: NPUGraph, whose attention gets its lengths anew before each start.

`auto_dispatch_capture` notes the calls that take lengths from the host; `update` gives them others
on a stream of its own (torch_npu/npu/graphs.py and its test of updates, August 2026).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from danlu.ops.cache.graph import Replay
from danlu.ops.choice import NotHere

# What the attention's lengths are called; see `pages.py`.
_LENGTHS = "actual_seq_lengths_kv"


def record(compute: Callable[[], Tensor], device: torch.device) -> Replay:
    """Record work that calls the paged attention."""
    if os.environ.get("TASK_QUEUE_ENABLE") == "2":  # as a process that trains has it
        raise NotHere("torch_npu records nothing with TASK_QUEUE_ENABLE=2")
    npu = torch.get_device_module(device)
    compute()  # what is made at the first use must not be made inside
    npu.synchronize()
    graph = npu.NPUGraph()
    with npu.graph(graph, auto_dispatch_capture=True):
        result = compute()

    ended = npu.Event()

    def replay(ends: Sequence[int]) -> Tensor:
        # The lengths are given on another stream: they must not overtake a start that still runs.
        ended.synchronize()
        graph.update(cpu_update_input=[{_LENGTHS: list(ends)}])
        graph.replay()
        ended.record()
        return result

    return replay
