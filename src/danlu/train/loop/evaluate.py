"""The loss on rows that are not trained on: packed like training, without gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from danlu.data.tokens.examples import Example
from danlu.data.tokens.pack import Batch
from danlu.device.group import ALONE, Group
from danlu.hub.load import LoadedModel
from danlu.model.qwen3 import Linear
from danlu.train.loop.batches import share_packed, stage
from danlu.train.loop.loss import CHUNK_ROWS, supervised_hidden, token_losses


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Losses in nats per token.

    loss: the mean over all supervised tokens. loss_per_sample: the mean over rows of each row's own
    mean, which is what LLaMA-Factory prints at an evaluation batch size of 1.
    """

    loss: float
    loss_per_sample: float
    num_rows: int
    num_tokens: int


@torch.no_grad()
def evaluate(
    base: LoadedModel,
    linear: Linear,
    rows: Sequence[Sequence[Example]],
    *,
    micro_batch_tokens: int,
    chunk_rows: int = CHUNK_ROWS,
    between: Callable[[], None] = lambda: None,
    group: Group = ALONE,
    in_step: bool = False,
) -> Evaluation:
    """Compute the losses of rows; `between` is called before each microstep and may raise.

    group: its processes share the rows, and each returns what they found together. in_step: each
    computes as many batches as the others. Raises ValueError where nothing is supervised.
    """
    examples = [example for row in rows for example in row]
    index_of = {example.key: index for index, row in enumerate(rows) for example in row}
    sums, counts = np.zeros(len(rows)), np.zeros(len(rows))
    computed: list[tuple[Batch, torch.Tensor]] = []
    for packed in share_packed(examples, micro_batch_tokens, group, in_step=in_step):
        between()
        staged = stage(packed, base.device.torch_device, multiple=base.token_multiple)
        hidden, targets = supervised_hidden(base, linear, staged)
        each = token_losses(base.model, linear, hidden, targets, chunk_rows=chunk_rows)
        if not staged.is_idle:
            computed.append((packed, each))
    # The host's one wait, once everything has been queued.
    none = torch.zeros(0, device=base.device.torch_device)
    losses = torch.cat([none, *(losses for _batch, losses in computed)]).cpu().double().numpy()
    ends = np.cumsum([len(losses) for _batch, losses in computed])
    for (batch, _), part in zip(computed, np.split(losses, ends), strict=False):
        stops = np.cumsum(batch.segment_lengths)
        segments = np.searchsorted(stops, batch.supervised_indices, side="right")
        row_of = np.asarray([index_of[key] for key in batch.segment_keys])[segments]
        sums += np.bincount(row_of, part, len(rows))
        counts += np.bincount(row_of, minlength=len(rows))
    together = torch.from_numpy(np.stack([sums, counts]))
    group.sum(together)
    sums, counts = together.numpy()
    if not counts.sum():
        raise ValueError("nothing is supervised in these rows")
    learned = counts > 0
    return Evaluation(
        loss=float(sums.sum() / counts.sum()),
        loss_per_sample=float((sums[learned] / counts[learned]).mean()),
        num_rows=int(learned.sum()),
        num_tokens=int(counts.sum()),
    )
