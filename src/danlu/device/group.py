"""The processes that compute one training together, each on a device of its own.

A launcher has started them and said in their environment who is who (launcher.py). The first one
leads: it alone writes the run's folder, and tells the others what they must know. What
they say to each other goes through torch.distributed: NCCL (NVIDIA) or HCCL (Ascend) for numbers on
the devices, gloo for those on the host. A process by itself is a group of one, where nothing is
sent.
"""

from __future__ import annotations

import atexit
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from danlu.device.launcher import Place
from danlu.device.memory import is_out_of_memory
from danlu.environment import set_unless_given
from danlu.errors import EnvironmentFault
from danlu.language import _
from danlu.reasons import as_sentence, reason_of

# How long one process waits for another, which may be reading data or writing a checkpoint.
PATIENCE = timedelta(minutes=30)
# How long a process that was left lets the launcher see first which one has ended, and how.
_GIVE_WAY_S = 1.0
# So much of a divided tensor is on its way at a time.
_PIECE_BYTES = 64 * 2**20
_CARRIERS = {"cuda": "nccl", "npu": "hccl"}
# What stands in an error of theirs: their sources or classes, and Ascend's codes (EI: HCCL).
_OF_A_CARRIER = re.compile(r"gloo|nccl|hccl|\bEI\d{4}\b", re.IGNORECASE)


class GroupBroken(EnvironmentFault):
    """Another process of the group has ended."""


class Group:
    """One process's end of what all say to each other. Every process must say the same in turn.

    All methods raise GroupBroken where another process has ended.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_lead(self) -> bool:
        """Whether this process leads."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def sum(self, numbers: Tensor) -> None:
        """Add the tensors of all processes, each in place; the bits are the same everywhere."""
        self._reduce(numbers, dist.ReduceOp.SUM)

    def least(self, numbers: Tensor) -> None:
        """Take the least of all processes for each number, in place."""
        self._reduce(numbers, dist.ReduceOp.MIN)

    def take_over(self, numbers: Tensor) -> None:
        """Copy the lead's tensor into those of the others."""
        if not self.is_alone:
            with _together():
                dist.broadcast(numbers, src=0)

    def pieces(self, share: Tensor, rows: int, start: int, stop: int) -> Iterator[Tensor]:
        """Yield rows [start, stop) of a tensor [rows, ...] that is divided as torch.chunk does it.

        They come to the lead's host, in order and some at a time; to the others comes nothing,
        [0, ...]. Every process has to take all pieces.
        """
        first = self.rank * -(-rows // self.size)
        for owner, begin, end in self._spans(share, rows, start, stop):
            piece = share[begin - first : end - first] if owner == self.rank else None
            if owner:
                # Not from one to one: each pair that does so gets buffers of its own on its cards.
                piece = share.new_empty(end - begin, *share.shape[1:]) if piece is None else piece
                with _together():
                    dist.broadcast(piece, src=owner)
            yield share[:0] if piece is None or not self.is_lead else piece.cpu()

    def deal(self, read: Callable[[int, int], Tensor] | None, share: Tensor, rows: int) -> None:
        """Fill each process's share of a tensor [rows, ...], some rows at a time.

        read: gives rows [start, stop), at the lead.
        """
        first = self.rank * -(-rows // self.size)
        for owner, start, stop in self._spans(share, rows, 0, rows):
            buffer = share.new_empty(stop - start, *share.shape[1:])
            if read is not None:
                buffer.copy_(read(start, stop))
            if owner:
                self.take_over(buffer)
            if owner == self.rank:
                share[start - first : stop - first] = buffer

    def _spans(
        self, share: Tensor, rows: int, start: int, stop: int
    ) -> Iterator[tuple[int, int, int]]:
        """Divide rows [start, stop) into pieces of one process each: its rank, and which rows."""
        each = -(-rows // self.size)
        most = max(1, _PIECE_BYTES // (share.itemsize * math.prod(share.shape[1:])))
        while start < stop:
            owner = start // each
            end = min(stop, (owner + 1) * each, start + most)
            yield owner, start, end
            start = end

    def told(self, value: Any = None) -> Any:
        """Return what the lead says: its `value`, anything that JSON has."""
        if self.is_alone:
            return value
        text = json.dumps(value).encode() if self.is_lead else b""
        size = torch.tensor([len(text)])
        self.take_over(size)
        told = torch.frombuffer(bytearray(text.ljust(int(size))), dtype=torch.uint8)
        self.take_over(told)
        return json.loads(bytes(told.tolist()))

    def wait(self) -> None:
        """Return once every process has come here."""
        self.sum(torch.zeros(1))

    @contextmanager
    def one_after_another(self) -> Iterator[None]:
        """Let the lead do what is inside first, and then the others together."""
        if not self.is_lead:
            self.wait()
        yield
        if self.is_lead:
            self.wait()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute with weights that the group has divided, which torch gathers by itself.

        Raises GroupBroken where that fails because another process has ended.
        """
        try:
            yield
        except RuntimeError as fault:
            if self.is_alone or is_out_of_memory(fault) or not _OF_A_CARRIER.search(str(fault)):
                raise
            raise _broken(fault) from fault

    def _reduce(self, numbers: Tensor, operation: Any) -> None:
        if not self.is_alone:
            with _together():
                dist.all_reduce(numbers, op=operation)


ALONE = Group()


def join(kind: str) -> Group:
    """Meet the other processes, if there are any. kind: of the device that this one computes on.

    Raises EnvironmentFault where they do not come.
    """
    place = Place.own()
    if place.size == 1:
        return ALONE
    if place.local_size == place.size:
        # Else gloo asks which address the machine's name has, which containers often do not know.
        set_unless_given({"GLOO_SOCKET_IFNAME": "lo"})
    carriers = ["cpu:gloo", *(f"{name}:{_CARRIERS[name]}" for name in _CARRIERS if name == kind)]
    try:
        dist.init_process_group(",".join(carriers), timeout=PATIENCE)
    except (RuntimeError, ValueError) as fault:
        raise EnvironmentFault(
            _("The {count} processes of this training do not find each other.").format(
                count=place.size
            ),
            why=as_sentence(reason_of(fault)),
            fix=_("Start them with: danlu train --num_devices {count}").format(
                count=place.local_size
            ),
        ) from fault
    atexit.register(_leave)
    group = Group(place.rank, place.size)
    group.wait()  # one that fails at once would leave others that have not met it yet
    return group


def is_divided(tensor: Tensor) -> bool:
    """Whether a group has divided a tensor: then it is torch's DTensor."""
    return hasattr(tensor, "to_local")


def own_share(tensor: Tensor) -> Tensor:
    """Return this process's share of a tensor that is divided; another one whole."""
    share: Tensor = tensor.to_local() if is_divided(tensor) else tensor  # type: ignore[attr-defined]
    return share.detach()


def take_all(pieces: Iterator[Tensor]) -> None:
    """Take pieces for the sake of the other processes, which take or give them, too."""
    for _piece in pieces:
        pass


def _leave() -> None:
    with suppress(RuntimeError, ValueError):
        dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as fault:
        if is_out_of_memory(fault):
            raise
        raise _broken(fault) from fault


def _broken(fault: RuntimeError) -> GroupBroken:
    time.sleep(_GIVE_WAY_S)
    return GroupBroken(
        _("The training cannot go on: another of its processes has ended."),
        why=as_sentence(_first_sentence(reason_of(fault))),
        fix=_(
            "See what that one said. The same command with --resume_from_checkpoint true goes "
            "on from the last checkpoint."
        ),
    )


def _first_sentence(reason: str) -> str:
    """Leave out where in its source a library failed, and what it advises."""
    return re.sub(r"^\[[^\]]*\] ", "", reason).partition(". ")[0]
