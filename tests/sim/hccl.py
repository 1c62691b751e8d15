"""HCCL between simulated NPUs: what is on the device goes through gloo by way of the host.

Only what stands on the device arrives there, as in the real one: a tensor of the host is carried by
gloo alone. `register` comes before processes meet.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import _create_work_from_future
from torch.futures import Future


class Hccl(dist.ProcessGroup):
    """A process group of torch's, in Python. log: gets a line for each tensor of a device."""

    log: ClassVar[Path]

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(store, rank, size, timeout)

    def allreduce(self, tensors: Any, options: Any = None) -> Any:
        return self._by_gloo("allreduce", tensors, options)

    def broadcast(self, tensors: Any, options: Any = None) -> Any:
        return self._by_gloo("broadcast", tensors, options)

    def _by_gloo(self, name: str, tensors: list[Tensor], options: Any) -> Any:
        hosts = [tensor if tensor.device.type == "cpu" else tensor.cpu() for tensor in tensors]
        getattr(self._gloo, name)(hosts, options).wait()
        for tensor, host in zip(tensors, hosts, strict=True):
            if tensor.device.type != "cpu":
                with self.log.open("a", encoding="ascii") as log:
                    log.write(f"{name} {tensor.numel()}\n")
                tensor.copy_(host)
        future: Future[list[Tensor]] = Future()
        future.set_result(tensors)
        return _create_work_from_future(future)

    def getBackendName(self) -> str:
        return "hccl"


def register(log: Path) -> None:
    """Let this process's NPU find others."""
    Hccl.log = log
    dist.Backend.register_backend("hccl", Hccl, devices=["npu"])
