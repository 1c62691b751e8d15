"""The loss of each row, without gradients: what is compared before and after training.

Knows tensors and examples; must not know runs, files or time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.data.examples import Example
from danlu.data.pack import Batch, pack
from danlu.model.attention import PackedAttention
from danlu.model.qwen3 import Linear
from danlu.models.load import LoadedModel
from danlu.train.loss import CHUNK_ROWS


@dataclass(frozen=True, kw_only=True)
class RowLoss:
    """The summed loss (nats) of a row's supervised tokens, and how many there are."""

    total: float
    num_tokens: int


def row_losses(
    base: LoadedModel,
    linear: Linear,
    rows: Iterable[Sequence[Example]],
    *,
    micro_batch_tokens: int,
) -> Iterator[RowLoss]:
    """Yield the loss of each row in order, computing about `micro_batch_tokens` at a time.

    Nothing is computed before it is asked for, so a caller may stop where its time ends.
    """
    for group in _groups(rows, micro_batch_tokens):
        totals = [0.0] * len(group)
        counts = [0] * len(group)
        numbered = [
            Example(tokens=example.tokens, supervised=example.supervised, row=row, part=part)
            for row, examples in enumerate(group)
            for part, example in enumerate(examples)
        ]
        for batch in pack(numbered, micro_batch_tokens):
            owners = _owners(batch)
            for row, loss in zip(owners, _token_losses(base, linear, batch).tolist(), strict=True):
                totals[row] += loss
                counts[row] += 1
        for total, count in zip(totals, counts, strict=True):
            yield RowLoss(total=total, num_tokens=count)


def mean_per_token(losses: Sequence[RowLoss]) -> float:
    """Return the mean over all supervised tokens: the `eval_loss` of training."""
    return sum(loss.total for loss in losses) / sum(loss.num_tokens for loss in losses)


def mean_per_row(losses: Sequence[RowLoss]) -> float:
    """Return the mean of the rows' means: what LLaMA-Factory prints at eval batch size 1."""
    means = [loss.total / loss.num_tokens for loss in losses if loss.num_tokens]
    return sum(means) / len(means)


def _groups(
    rows: Iterable[Sequence[Example]], max_tokens: int
) -> Iterator[list[Sequence[Example]]]:
    """Take consecutive rows together while they fit; a longer row stands alone."""
    group: list[Sequence[Example]] = []
    tokens = 0
    for row in rows:
        length = sum(len(example.tokens) for example in row)
        if group and tokens + length > max_tokens:
            yield group
            group, tokens = [], 0
        group.append(row)
        tokens += length
    if group:
        yield group


def _owners(batch: Batch) -> list[int]:
    """Tell for each supervised token of a batch which row it belongs to."""
    owners: list[int] = []
    start = 0
    for key, length in zip(batch.segment_keys, batch.segment_lengths, strict=True):
        end = start + length
        inside = (batch.supervised_indices >= start) & (batch.supervised_indices < end)
        owners += [int(key.split(".")[0])] * int(inside.sum())
        start = end
    return owners


@torch.inference_mode()
def _token_losses(base: LoadedModel, linear: Linear, batch: Batch) -> Tensor:
    """Return the loss [N] of each supervised token, in fp32."""
    device = base.device.torch_device
    tokens, positions, indices, targets = (
        torch.from_numpy(array).to(device)
        for array in (batch.tokens, batch.positions, batch.supervised_indices, batch.targets)
    )
    attend = PackedAttention(base.config, positions, batch.segment_lengths)
    hidden = base.model(tokens, attend, linear).index_select(0, indices)  # [N, hidden]
    losses = []
    for chunk, wanted in zip(hidden.split(CHUNK_ROWS), targets.split(CHUNK_ROWS), strict=True):
        logits = linear(base.model.head, "lm_head", chunk).float()
        losses.append(logits.logsumexp(dim=-1) - logits.gather(1, wanted[:, None]).squeeze(1))
    return torch.cat(losses)
