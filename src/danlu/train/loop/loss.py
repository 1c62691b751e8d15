"""The output head and the loss on supervised rows only, in chunks, forward and backward together.

Logits of a whole batch never exist: one chunk of rows is multiplied with the output matrix,
turned into loss and gradient, and freed. The gradient of the hidden rows is collected and sent
through the layers once at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.hub.load import LoadedModel
from danlu.model.attention import PackedAttention
from danlu.model.qwen3 import Linear, Qwen3
from danlu.model.recompute import Recompute
from danlu.ops import cross_entropy_rows, cross_entropy_sum
from danlu.train.loop.batches import StagedBatch

# Rows of logits at a time where no plan says how many. Larger chunks read the output matrix less
# often; at Qwen3's vocabulary of 151,936 a chunk of 256 rows holds 156 MB of fp32 logits.
CHUNK_ROWS = 256


def supervised_hidden(
    base: LoadedModel, linear: Linear, staged: StagedBatch, recompute: Recompute = "none"
) -> tuple[Tensor, Tensor]:
    """Run the model; return the hidden rows [N, hidden] before supervised tokens, and these [N].

    recompute: what the backward pass is to compute again.
    """
    batch = staged.upload(base.device.torch_device)
    attend = PackedAttention(base.config, batch.positions, batch.segments)
    hidden = base.model(batch.tokens, attend, linear, recompute)
    return hidden.index_select(0, batch.indices), batch.targets


def loss_backward(
    model: Qwen3,
    linear: Linear,
    hidden: Tensor,
    targets: Tensor,
    *,
    divisor: float,
    chunk_rows: int = CHUNK_ROWS,
) -> Tensor:
    """Add the gradients of sum(loss) / divisor to the leaves; return the loss sum, undivided.

    hidden: [rows, hidden_size], the rows before a supervised token, with their graph; targets:
    [rows] token ids. `divisor` is the number of supervised tokens in the whole optimizer step,
    divided by the loss scale where there is one.
    """
    rows = hidden.detach().requires_grad_(True)
    total = torch.zeros((), device=hidden.device)
    for rows_chunk, targets_chunk in zip(
        rows.split(chunk_rows), targets.split(chunk_rows), strict=True
    ):
        loss = cross_entropy_sum(linear(model.head, "lm_head", rows_chunk), targets_chunk)
        (loss / divisor).backward()
        total += loss.detach()
    hidden.backward(rows.grad)
    return total


@torch.no_grad()
def token_losses(
    model: Qwen3, linear: Linear, hidden: Tensor, targets: Tensor, *, chunk_rows: int = CHUNK_ROWS
) -> Tensor:
    """Return the loss of every target, fp32 [rows], of hidden rows [rows, hidden_size]."""
    chunks = zip(hidden.split(chunk_rows), targets.split(chunk_rows), strict=True)
    return torch.cat(
        [cross_entropy_rows(linear(model.head, "lm_head", rows), wanted) for rows, wanted in chunks]
    )
