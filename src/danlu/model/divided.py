"""A base that is too large for one device: each process of a group holds a share of every weight.

torch's fully_shard (FSDP2) does it: a layer's weights are gathered before it computes, and let go
behind it; those outside the layers stay from the forward pass to the end of the backward pass. An
adapter stands beside it, whole on every device. Where the weights themselves are trained, their
gradients are averaged over the processes behind each microstep, in fp32, and each keeps its share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from danlu.device.group import Group, own_share
from danlu.model.config import ModelConfig
from danlu.model.layout import Piece, layout
from danlu.model.qwen3 import Qwen3, replace_weight

# Gives rows [start, stop) of a Hugging Face tensor.
Rows = Callable[[str, int, int], Tensor]


def divided_model(
    config: ModelConfig, rows: Rows, *, group: Group, device: torch.device, dtype: torch.dtype
) -> Qwen3:
    """Build a model of which this process reads and holds its share."""
    model = Qwen3(config, device=torch.device("meta"), dtype=dtype)
    mesh = init_device_mesh(device.type, (group.size,))
    precision = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for part in (*model.layers, model):
        fully_shard(part, mesh=mesh, mp_policy=precision)
    model.to_empty(device=device)
    if config.tie_word_embeddings:
        replace_weight(model.head, "lm_head", model.embed_tokens)
    for name, pieces in layout(config).items():
        _fill(model.get_parameter(name), pieces, rows, group)
    return model


def pieces(model: Qwen3, group: Group) -> Iterator[Tensor]:
    """Yield Hugging Face's tensors, in the order of `hf_tensors`, as `Group.pieces` does."""
    let_go(model)
    for name, parts in layout(model.config).items():
        parameter = model.get_parameter(name)
        for part in parts:
            stop = part.start + part.shape[0]
            yield from group.pieces(own_share(parameter), len(parameter), part.start, stop)


def let_go(model: Qwen3) -> None:
    """Let go of what a forward pass has gathered and no backward pass followed: an evaluation."""
    assert isinstance(model, FSDPModule)
    model.reshard()


def _fill(parameter: nn.Parameter, pieces: tuple[Piece, ...], rows: Rows, group: Group) -> None:
    """Read this process's rows: a share is as many as torch.chunk gives."""
    share = own_share(parameter)
    first = min(group.rank * -(-len(parameter) // group.size), len(parameter))
    for piece in pieces:
        start = max(piece.start, first)
        stop = min(piece.start + piece.shape[0], first + len(share))
        if start < stop:
            there = rows(piece.hf_name, start - piece.start, stop - piece.start)
            share[start - first : stop - first].copy_(there)
