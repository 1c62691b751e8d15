"""The plain loop with gradient checkpointing: less memory for a second forward pass."""

from __future__ import annotations

from functools import partial

from benchmarks.train import loop_side

train = partial(loop_side.train, checkpointing=True)
