"""Weights in int8 or int4: a module that multiplies replaces a projection's matrix.

Only for inference: there is no gradient. Matrices are read and quantised one at a time, so the peak
of memory is hardly above what the result takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from danlu.model.config import ModelConfig, Quantization
from danlu.model.layout import PROJECTIONS, Piece, layout
from danlu.model.qwen3 import Qwen3, empty_weight, replace_weight
from danlu.ops import (
    INT4_GROUP,
    empty_int4,
    empty_int8,
    int4_linear,
    int8_linear,
    quantize_int4,
    quantize_int8,
)

# The embedding is looked up, not multiplied: it stays as it is.
_QUANTIZED = (*PROJECTIONS, "lm_head")


# How each form is allocated, filled and multiplied.
_FORMS = {
    "int8": (empty_int8, quantize_int8, int8_linear),
    "int4": (empty_int4, quantize_int4, int4_linear),
}


class QuantizedWeight(nn.Module):
    """A matrix [out, in] in int8 or int4, uninitialised until `fill`.

    like: a tensor of the matrix's shape and dtype, on any device.
    """

    values: Tensor
    scales: Tensor  # int4: and zeros

    def __init__(self, like: Tensor, quantization: Quantization, device: torch.device) -> None:
        super().__init__()
        self.num_outputs = len(like)
        empty, self._quantize, self._linear = _FORMS[quantization]
        values, scales = empty(like, device)
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)

    def fill(self, weight: Tensor) -> None:
        """Quantise a matrix into the allocated buffers."""
        self._quantize(weight, out=(self.values, self.scales))

    def forward(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        y = self._linear(x, self.values, self.scales)
        # int4's last tile of outputs may be longer than the matrix.
        return y if y.shape[1] == self.num_outputs else y[:, : self.num_outputs]


def fits_int4(config: ModelConfig) -> bool:
    """Return whether every product has a multiple of `INT4_GROUP` inputs."""
    widths = (config.hidden_size, config.q_size, config.intermediate_size)
    return all(width % INT4_GROUP == 0 for width in widths)


def quantized_bytes(
    config: ModelConfig, dtype: torch.dtype, quantization: Quantization | None
) -> int:
    """Count the bytes that the weights take in memory; None: all are kept in the dtype."""
    width = float(dtype.itemsize)
    if quantization is not None:
        width = 1.0 if quantization == "int8" else 0.5 + 2 * dtype.itemsize / INT4_GROUP
    total = 0.0
    for name, pieces in layout(config).items():
        is_quantized = name.rpartition(".")[2] in _QUANTIZED
        total += _numbers(pieces) * (width if is_quantized else dtype.itemsize)
    if quantization is not None and config.tie_word_embeddings:
        total += config.vocab_size * config.hidden_size * width
    return int(total)


def quantized_model(
    config: ModelConfig,
    quantization: Quantization,
    read_into: Callable[[str, Tensor], None],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Qwen3:
    """Build a model with quantised matrices.

    read_into(name, destination): fills the destination with a Hugging Face tensor. int4 needs a
    model that `fits_int4`.
    """
    model = Qwen3(config, device=torch.device("meta"), dtype=dtype)
    fill = partial(_fill, model, quantization=quantization, read_into=read_into, device=device)
    table = layout(config)
    in_layers = {name: pieces for name, pieces in table.items() if name.startswith("layers.")}
    # The layers last: an output matrix of its own is read while little else is there.
    fill({name: pieces for name, pieces in table.items() if name not in in_layers})
    if config.tie_word_embeddings:
        head = _make_room(model, "head.lm_head", quantization, device)
        if not isinstance(head, Tensor):
            head.fill(model.embed_tokens)
    fill(in_layers)
    return model


def _fill(
    model: Qwen3,
    tensors: dict[str, tuple[Piece, ...]],
    *,
    quantization: Quantization,
    read_into: Callable[[str, Tensor], None],
    device: torch.device,
) -> None:
    """Read some of a model's tensors; all matrices to quantise pass through one buffer.

    Whatever stays is allocated before: allocations between others that are freed leave holes in
    the heap (up to 15 % of the result, from run to run).
    """
    weights = {name: _make_room(model, name, quantization, device) for name in tensors}
    sizes = [_numbers(tensors[n]) for n, room in weights.items() if not isinstance(room, Tensor)]
    place = torch.empty(max(sizes, default=0), dtype=model.embed_tokens.dtype, device=device)
    for name, pieces in tensors.items():
        weight = weights[name]
        if isinstance(weight, Tensor):
            _read(pieces, weight, read_into)
        else:
            whole = place[: _numbers(pieces)].view(-1, *pieces[0].shape[1:])
            _read(pieces, whole, read_into)
            weight.fill(whole)


def _make_room(
    model: Qwen3, name: str, quantization: Quantization, device: torch.device
) -> nn.Parameter | QuantizedWeight:
    """Replace a weight on the meta device by an uninitialised one on the device."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    like: Tensor = getattr(owner, leaf)
    room: nn.Parameter | QuantizedWeight
    if leaf in _QUANTIZED:
        room = QuantizedWeight(like, quantization, device)
    else:
        room = empty_weight(*like.shape, device=device, dtype=like.dtype)
    replace_weight(owner, leaf, room)
    return room


def _read(
    pieces: tuple[Piece, ...], destination: Tensor, read_into: Callable[[str, Tensor], None]
) -> None:
    for piece in pieces:
        read_into(piece.hf_name, destination[piece.start : piece.start + piece.shape[0]])


def _numbers(pieces: tuple[Piece, ...]) -> int:
    return sum(torch.Size(piece.shape).numel() for piece in pieces)
