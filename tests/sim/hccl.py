"""HCCL between simulated NPUs: what is on the device goes through gloo by way of the host.

Only what stands on the device arrives there, as in the real one: a tensor of the host is carried by
gloo alone. `register` comes before processes meet.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import _create_work_from_future
from torch.futures import Future

from danlu.model import checkpointing


class Hccl(dist.ProcessGroup):
    """A process group of torch's, in Python. log: gets a line for each tensor of a device."""

    log: ClassVar[Path]

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(store, rank, size, timeout)

    def allreduce(self, tensors: list[Tensor], options: Any = None) -> Any:
        hosts = [_on_host(tensor) for tensor in tensors]
        self._gloo.allreduce(hosts, options).wait()
        return self._arrived("allreduce", tensors, hosts)

    def broadcast(self, tensors: list[Tensor], options: Any = None) -> Any:
        hosts = [_on_host(tensor) for tensor in tensors]
        self._gloo.broadcast(hosts, options).wait()
        return self._arrived("broadcast", tensors, hosts)

    def all_gather_single(self, whole: Tensor, share: Tensor, options: Any = None) -> Any:
        host = torch.empty(whole.shape, dtype=whole.dtype)
        self._gloo._allgather_base(host, _on_host(share)).wait()
        return self._arrived("all_gather", [whole], [host])

    def reduce_scatter_single(self, share: Tensor, whole: Tensor, options: Any = None) -> Any:
        host = torch.empty(share.shape, dtype=share.dtype)
        self._gloo._reduce_scatter_base(host, _on_host(whole), options).wait()
        return self._arrived("reduce_scatter", [share], [host])

    # As torch called them until 2.12.
    _allgather_base = all_gather_single
    _reduce_scatter_base = reduce_scatter_single

    def _arrived(self, name: str, tensors: list[Tensor], hosts: list[Tensor]) -> Any:
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

    # A group in Python has no backends, and torch's own keep the name at these.
    def _set_group_name(self, name: str) -> None:
        self._name = name

    @property
    def group_name(self) -> str:
        return self._name


def register(log: Path) -> None:
    """Let this process's NPU find others, and let go of what it has gathered from them."""
    Hccl.log = log
    # A device written in Python has no allocator for pinned memory.
    checkpointing.to_host = lambda tensor: tensor.to("cpu")  # type: ignore[attr-defined]
    dist.Backend.register_backend("hccl", Hccl, devices=["npu"])
    usual_resize, usual_size = torch.UntypedStorage.resize_, torch.UntypedStorage.size

    def resize_(storage: torch.UntypedStorage, size: int) -> Any:
        if storage.device.type != "npu":
            return usual_resize(storage, size)
        storage.block.resize(size)  # type: ignore[attr-defined]
        return storage

    def size(storage: torch.UntypedStorage) -> int:
        if storage.device.type == "npu" and storage.block.is_let_go:  # type: ignore[attr-defined]
            return 0
        return usual_size(storage)

    torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign]
    torch.UntypedStorage.size = size  # type: ignore[method-assign]


def _on_host(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type == "cpu" else tensor.cpu()
