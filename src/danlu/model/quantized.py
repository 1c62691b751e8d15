"""Weights in int8, int4 or fp8: a module that multiplies replaces a projection's matrix.

int8 and int4 are for answers. fp8 is for training an adapter on top: it has a gradient of its
input, and the output matrix, whose loss is most sensitive, stays as it is. No weight has one of its
own. Matrices are read and quantised one at a time, so the peak of memory is hardly above what the
result takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from danlu.model.config import ModelConfig, WeightForm
from danlu.model.layout import (
    EXPERTS_MERGED,
    PROJECTIONS,
    Piece,
    layout,
    merged_shape,
    projection_shape,
)
from danlu.model.qwen3 import Qwen3, empty_weight, replace_weight
from danlu.ops import (
    FP8_MULTIPLE,
    INT4_GROUP,
    Fp8Matrix,
    QuantizedWeight,
    empty_fp8,
    fp8_input_gradient,
    fp8_linear,
    int8_bytes,
    keeps_experts,
    quantize_fp8,
)

# The embedding is looked up, not multiplied: it stays as it is.
_QUANTIZED: dict[WeightForm, tuple[str, ...]] = {
    "int8": (*PROJECTIONS, "lm_head"),
    "int4": (*PROJECTIONS, "lm_head"),
    "fp8": tuple(PROJECTIONS),
}


class Fp8Weight(nn.Module):
    """A frozen matrix [out, in] in fp8, for both directions, uninitialised until `fill`."""

    values: Tensor
    scales: Tensor
    columns: Tensor
    column_scales: Tensor

    def __init__(self, like: Tensor, device: torch.device) -> None:
        super().__init__()
        for name, part in empty_fp8(like, device)._asdict().items():
            self.register_buffer(name, part)

    @property
    def _matrix(self) -> Fp8Matrix:
        return Fp8Matrix(self.values, self.scales, self.columns, self.column_scales)

    def fill(self, weight: Tensor) -> None:
        """Quantise a matrix into the allocated buffers."""
        quantize_fp8(weight, out=self._matrix)

    def forward(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        return fp8_linear(x, self._matrix)

    def gradient(self, dy: Tensor) -> Tensor:  # [T, out] -> [T, in]
        """Return the gradient of x."""
        return fp8_input_gradient(dy, self._matrix)


def fits_fp8(config: ModelConfig) -> bool:
    """Return whether every matrix is a multiple of `FP8_MULTIPLE` wide and high."""
    widths = (config.hidden_size, config.q_size, config.kv_size, config.intermediate_size)
    return all(width % FP8_MULTIPLE == 0 for width in widths)


def fits_int4(config: ModelConfig) -> bool:
    """Return whether every product has a multiple of `INT4_GROUP` inputs."""
    inner = {
        projection_shape(config, "down_proj", layer)[1] for layer in range(config.num_hidden_layers)
    }
    return all(width % INT4_GROUP == 0 for width in (config.hidden_size, config.q_size, *inner))


def keeps_all_experts(config: ModelConfig, quantization: WeightForm, device: torch.device) -> bool:
    """Return whether a device has a form for what experts the model has."""
    if config.experts is None:
        return True
    if quantization == "fp8":
        return False
    return all(
        keeps_experts(quantization, device, merged_shape(config, name, layer)[0])
        for layer in range(config.num_hidden_layers)
        for name in EXPERTS_MERGED
        if config.experts_of(layer) is not None
    )


def quantized_bytes(
    config: ModelConfig,
    dtype: torch.dtype,
    quantization: WeightForm | None,
    kind: str = "cpu",
) -> int:
    """Count the bytes that weights take on a kind of device; None: all are kept in the dtype."""
    widths = {
        "int8": int8_bytes(kind),
        "int4": 0.5 + 2 * dtype.itemsize / INT4_GROUP,
        "fp8": 2.0,
    }
    quantized = _QUANTIZED[quantization] if quantization else ()
    width = widths[quantization] if quantization else 0.0
    total = 0.0
    for name, pieces in layout(config).items():
        is_quantized = name.rpartition(".")[2] in quantized
        total += _numbers(pieces) * (width if is_quantized else dtype.itemsize)
    if "lm_head" in quantized and config.tie_word_embeddings:
        total += config.vocab_size * config.hidden_size * width
    return int(total)


def quantized_model(
    config: ModelConfig,
    quantization: WeightForm,
    read_into: Callable[[str, Tensor], None],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Qwen3:
    """Build a model with quantised matrices.

    read_into(name, destination): fills the destination with a Hugging Face tensor. int4 needs a
    model that `fits_int4`, fp8 one that `fits_fp8`.
    """
    model = Qwen3(config, device=torch.device("meta"), dtype=dtype)
    fill = partial(_fill, model, quantization=quantization, read_into=read_into, device=device)
    table = layout(config)
    in_layers = {name: pieces for name, pieces in table.items() if name.startswith("layers.")}
    # The layers last: an output matrix of its own is read while little else is there.
    fill({name: pieces for name, pieces in table.items() if name not in in_layers})
    if config.tie_word_embeddings and "lm_head" not in _QUANTIZED[quantization]:
        replace_weight(model.head, "lm_head", model.embed_tokens)
    elif config.tie_word_embeddings:
        head = _make_room(model, "head.lm_head", quantization, device)
        if not isinstance(head, Tensor):
            head.fill(model.embed_tokens)
    fill(in_layers)
    return model


def _fill(
    model: Qwen3,
    tensors: dict[str, tuple[Piece, ...]],
    *,
    quantization: WeightForm,
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
    model: Qwen3, name: str, quantization: WeightForm, device: torch.device
) -> nn.Parameter | QuantizedWeight | Fp8Weight:
    """Replace a weight on the meta device by an uninitialised one on the device."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    like: Tensor = getattr(owner, leaf)
    room: nn.Parameter | QuantizedWeight | Fp8Weight
    if leaf not in _QUANTIZED[quantization]:
        room = empty_weight(*like.shape, device=device, dtype=like.dtype)
    elif quantization == "fp8":
        room = Fp8Weight(like, device)
    else:
        room = QuantizedWeight(like, quantization, device)
    replace_weight(owner, leaf, room)
    return room


def _read(
    pieces: tuple[Piece, ...], destination: Tensor, read_into: Callable[[str, Tensor], None]
) -> None:
    for piece in pieces:
        read_into(piece.hf_name, destination[piece.start : piece.start + piece.shape[0]])


def _numbers(pieces: tuple[Piece, ...]) -> int:
    return sum(torch.Size(piece.shape).numel() for piece in pieces)
