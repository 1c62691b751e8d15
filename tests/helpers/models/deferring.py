"""A card that does nothing until somebody waits for it, on the CPU: uploads, steps, copies back.

So whatever is started too early, read too early or overwritten too early gives other tokens. Steps
are "recorded" by keeping what they compute; as by a real recorder, a step is computed more than
once when it first comes up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.device.arriving import Arriving
from danlu.device.upload import UploadBuffer
from danlu.engine import engine as engine_module
from danlu.engine import step_in_flight, step_inputs
from danlu.engine.engine import Engine
from danlu.engine.graphs import DecodingGraphs
from danlu.engine.step_inputs import Step
from danlu.ops.cache.paged_store import CACHE, Paged
from danlu.ops.sampling.draw import DRAW
from tests.helpers.models.tiny_engine import model, tokenizer
from tests.helpers.models.variants import taken


class DeferringCard:
    """What is queued, and what happened: `start`, `read`, in order. fails: what a wait raises."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails: Exception | None = None
        self._queue: list[tuple[int, Callable[[], Any]]] = []
        self._number = 0
        self._is_working = False

    def put(self, work: Callable[[], Any]) -> int:
        """Queue work; return its number."""
        self._number += 1
        self._queue.append((self._number, work))
        return self._number

    def work_until(self, number: int | None = None) -> None:
        """Do what is queued up to a number, or all."""
        if self._is_working:
            return
        self._is_working = True
        try:
            with torch.inference_mode():
                while self._queue and (number is None or self._queue[0][0] <= number):
                    self._queue.pop(0)[1]()
        finally:
            self._is_working = False


class _Uploads(UploadBuffer):
    card: DeferringCard

    def __init__(self, size: int, device: torch.device, *, kept: int = 0) -> None:
        super().__init__(size, device, kept=kept)
        self.there = self.there.clone()
        self._last = 0

    def begin(self) -> None:
        self.card.work_until(self._last)

    def upload(self) -> None:
        part = slice(self._size)
        self._last = self.card.put(lambda: self.there[part].copy_(self._memory[part]))


class _Arrivals(Arriving):
    card: DeferringCard

    def __init__(self, tensor: Tensor) -> None:
        self._copy = torch.full_like(tensor, -12345)
        self._number = self.card.put(lambda: self._copy.copy_(tensor))
        self._is_read = False

    def wait(self) -> Tensor:
        self.card.work_until(self._number)
        if not self._is_read:
            self.card.log.append("read")
        self._is_read = True
        if self.card.fails is not None:
            problem, self.card.fails = self.card.fails, None
            raise problem
        return self._copy


class _Graphs(DecodingGraphs):
    def __init__(self, card: DeferringCard) -> None:
        super().__init__(None)
        self._card = card
        self._known: set[tuple[int, int]] = set()

    def run(
        self, step: Step, whose: object, compute: Callable[[], Tensor], *, may_record: bool
    ) -> Tensor | None:
        key = id(whose), len(step.tokens)
        if key not in self._known:
            if not may_record:
                return None
            self._known.add(key)
            self._card.put(compute)
        rows = len(step.tokens)
        logits = torch.full((rows, model().config.vocab_size), torch.nan)
        self._card.log.append(f"start {rows}")
        self._card.put(lambda: logits.copy_(compute()))
        return logits


@contextmanager
def deferring_card() -> Iterator[DeferringCard]:
    """Let engines that are made inside compute on such a card, with blocks of 16 tokens."""
    card = DeferringCard()
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        stack.enter_context(taken(CACHE, "paged"))
        stack.enter_context(taken(DRAW, "torch"))
        patch.setattr(Paged, "block_tokens", 16)
        uploads = type("Uploads", (_Uploads,), {"card": card})
        patch.setattr(step_inputs, "UploadBuffer", uploads)
        patch.setattr(engine_module, "Arriving", type("Arrivals", (_Arrivals,), {"card": card}))
        patch.setattr(engine_module, "DecodingGraphs", lambda _recorder: _Graphs(card))
        hidden, sample = Engine._hidden, step_in_flight.sample

        def computed(*arguments: Any) -> Tensor:
            card.work_until()  # what is started by single operations stands in the same queue
            return hidden(*arguments)

        def sampled(logits: Tensor, samplers: Sequence[Any]) -> Any:
            card.work_until()
            return sample(logits, samplers)

        patch.setattr(Engine, "_hidden", computed)
        patch.setattr(step_in_flight, "sample", sampled)
        yield card


def deferring_engine(**settings: int) -> Engine:
    """An engine on the card that there is."""
    return Engine(model(), tokenizer(), **settings)
