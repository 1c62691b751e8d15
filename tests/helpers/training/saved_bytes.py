"""How many bytes the forward pass keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from danlu.ops import ops_table


@dataclass
class Saved:
    """Storages that were kept, by address, with their bytes."""

    storages: dict[int, int] = field(default_factory=dict)
    # Kept as well, so that no address is used twice while we count.
    tensors: list[Tensor] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        """Bytes of all storages together; views of one storage count once."""
        return sum(self.storages.values())


@contextmanager
def counting_saved(*, ignore: Iterable[Tensor]) -> Iterator[Saved]:
    """Count what is kept, without the storages of some tensors (weights are there anyway)."""
    ops_table(torch.device("cpu"))  # what its trials keep does not count
    saved = Saved()
    known = {tensor.untyped_storage().data_ptr() for tensor in ignore}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved.storages[storage.data_ptr()] = storage.nbytes()
            saved.tensors.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
