"""NPUGraph on the simulated device: operations are noted while they run, and run again in order.

As on a card a recorded operation reads and writes the same memory each time, keeps every number
that the host gave it, and nothing inside may wait for the device or come from the host's memory.
`update` gives the paged attention other lengths, which is what the real one does for operations of
`auto_dispatch_capture`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.sim import arrivals
from tests.sim.record import note_operation, place

# Operations whose arguments `update` can change.
_DISPATCHED = {"npu::npu_fused_infer_attention_score"}
# Named on op-plugin's page as not for graphs.
_REFUSED = {"npu::npu_fusion_attention", "npu::npu_fusion_attention_grad"}


class NotInAGraph(RuntimeError):
    """What a recording cannot hold."""


@dataclass
class _Noted:
    name: str
    again: Callable[[dict[str, Any]], None]
    named: dict[str, Any] = field(default_factory=dict)


class NPUGraph:
    """A recording; see torch_npu.npu.NPUGraph."""

    def __init__(self) -> None:
        self._noted: list[_Noted] = []
        self._dispatches = False
        self._started = 0

    def replay(self) -> None:
        note_operation("npu::graph_replay", ())
        self._started = arrivals.start()
        for one in self._noted:
            one.again(one.named)

    def update(self, cpu_update_input: Sequence[dict[str, Any]]) -> None:
        if not self._dispatches:
            raise NotInAGraph("update: recorded without auto_dispatch_capture")
        if not arrivals.has_ended(self._started):
            raise NotInAGraph("update: the graph still runs, and would read the new lengths")
        (changes,) = cpu_update_input  # for all of them alike
        for one in self._noted:
            if one.name in _DISPATCHED:
                note_operation("npu::graph_update", ())
                assert one.named.keys() >= changes.keys()
                one.named.update(changes)


_recording: list[NPUGraph] = []


@contextmanager
def graph(npu_graph: NPUGraph, *, auto_dispatch_capture: bool = False) -> Iterator[None]:
    """Record what runs inside."""
    npu_graph._dispatches = auto_dispatch_capture
    _recording.append(npu_graph)
    try:
        yield
    finally:
        _recording.remove(npu_graph)


def is_recording() -> bool:
    return bool(_recording)


def note(name: str, named: dict[str, Any], again: Callable[[dict[str, Any]], None]) -> None:
    """Note an operation that has run: how to run it again into the same memory."""
    if name in _REFUSED:
        raise NotInAGraph(f"{name} is not for graphs: {place()}")
    for one in _recording:
        one._noted.append(_Noted(name, again, dict(named)))


def refuse(what: str) -> None:
    """Refuse what needs the host, while something is recorded."""
    if _recording:
        raise NotInAGraph(f"{what} while a graph is recorded: {place()}")
