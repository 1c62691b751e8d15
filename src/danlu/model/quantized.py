"""Weights in fewer bits: a module that multiplies replaces a projection's matrix.

int8 and int4 are for answers, and with nf4 and fp8 for training an adapter on top: they have a
gradient of their input, none of their own. Below an adapter the output matrix, to which the loss is
most sensitive, stays as it is. Matrices are read and quantised one at a time, so the peak of memory
is hardly above what the result takes.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial

import torch
from torch import Tensor, nn

from danlu.device.weight_forms import INT4_GROUP, NF4_GROUP, matrix_bytes
from danlu.model.config import ModelConfig, WeightForm
from danlu.model.layout import PROJECTIONS, Piece, layout, num_experts, projection_shape
from danlu.model.qwen3 import Layer, Qwen3, empty_weight, replace_weight
from danlu.ops import (
    FP8_MULTIPLE,
    Fp8Matrix,
    QuantizedWeight,
    empty_fp8,
    fp8_input_gradient,
    fp8_linear,
    quantize_fp8,
)

# What the inputs of every product are a multiple of; in fp8 the outputs, too.
MULTIPLES: dict[WeightForm, int] = {
    "int8": 1,
    "int4": INT4_GROUP,
    "nf4": NF4_GROUP,
    "fp8": FP8_MULTIPLE,
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


_Room = nn.Parameter | QuantizedWeight | Fp8Weight


def fits(config: ModelConfig, form: WeightForm) -> bool:
    """Return whether every matrix of a model can be kept in a form; see `MULTIPLES`."""
    layers = range(config.num_hidden_layers)
    inner = {projection_shape(config, "down_proj", layer)[1] for layer in layers}
    widths = [config.hidden_size, config.q_size, *inner]
    if form == "fp8":
        widths.append(config.kv_size)
    return all(width % MULTIPLES[form] == 0 for width in widths)


def has_experts_in(config: ModelConfig, form: WeightForm) -> bool:
    """Return whether there is a form for what experts a model has."""
    return config.experts is None or form != "fp8"


def floats_bytes(model: Qwen3) -> int:
    """Return what floats take at most that a product of an answer makes of experts' matrices."""
    weights = (module for module in model.modules() if isinstance(module, QuantizedWeight))
    return max((weight.floats_bytes for weight in weights), default=0)


def quantized_bytes(
    config: ModelConfig,
    dtype: torch.dtype,
    quantization: WeightForm | None,
    kind: str = "cpu",
    *,
    keeps_head: bool = False,
) -> int:
    """Count the bytes that weights take on a kind of device; None: all are kept in the dtype.

    keeps_head: as in `quantized_model`.
    """
    shapes = {
        name: (_numbers(pieces) // pieces[0].shape[-1], pieces[0].shape[-1])
        for name, pieces in layout(config).items()
    }
    if quantization is None:
        return sum(out * inner for out, inner in shapes.values()) * dtype.itemsize
    quantized = _quantized(quantization, keeps_head)
    if config.tie_word_embeddings and "lm_head" in quantized:
        shapes["head.lm_head"] = (config.vocab_size, config.hidden_size)
    return sum(
        matrix_bytes(quantization, out, inner, kind=kind, number_bytes=dtype.itemsize)
        if name.rpartition(".")[2] in quantized
        else out * inner * dtype.itemsize
        for name, (out, inner) in shapes.items()
    )


def _quantized(form: WeightForm, keeps_head: bool) -> tuple[str, ...]:
    """Name what is quantised. The embedding is looked up, not multiplied: it stays as it is."""
    return tuple(PROJECTIONS) if keeps_head or form == "fp8" else (*PROJECTIONS, "lm_head")


def quantized_model(
    config: ModelConfig,
    quantization: WeightForm,
    read_into: Callable[[str, Tensor], None],
    *,
    device: torch.device,
    dtype: torch.dtype,
    keeps_head: bool = False,
) -> Qwen3:
    """Build a model with quantised matrices, in a form that it `fits`.

    read_into(name, destination): fills the destination with a Hugging Face tensor. keeps_head: the
    output matrix stays as it is, as below an adapter that is trained.
    """
    model = Qwen3(config, device=torch.device("meta"), dtype=dtype)
    quantized = _quantized(quantization, keeps_head)
    room = partial(_make_room, model, quantized, quantization, device)
    fill = partial(_fill, model, room, read_into=read_into, device=device)
    table = layout(config)
    in_layers = {name: pieces for name, pieces in table.items() if name.startswith("layers.")}
    # The layers last: an output matrix of its own is read while little else is there.
    fill({name: pieces for name, pieces in table.items() if name not in in_layers})
    if config.tie_word_embeddings and "lm_head" not in quantized:
        replace_weight(model.head, "lm_head", model.embed_tokens)
    elif config.tie_word_embeddings:
        head = room("head.lm_head")
        if not isinstance(head, Tensor):
            head.fill(model.embed_tokens)
    fill(in_layers)
    return model


def _fill(
    model: Qwen3,
    room: Callable[[str], _Room],
    tensors: dict[str, tuple[Piece, ...]],
    *,
    read_into: Callable[[str, Tensor], None],
    device: torch.device,
) -> None:
    """Read some of a model's tensors; all matrices to quantise pass through one buffer.

    Whatever stays is allocated before: allocations between others that are freed leave holes in
    the heap (up to 15 % of the result, from run to run).
    """
    weights = {name: room(name) for name in tensors}
    sizes = [_numbers(tensors[n]) for n, made in weights.items() if not isinstance(made, Tensor)]
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
    model: Qwen3, quantized: Container[str], form: WeightForm, device: torch.device, name: str
) -> _Room:
    """Replace a weight on the meta device by an uninitialised one on the device."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    like: Tensor = getattr(owner, leaf)
    room: _Room
    if leaf not in quantized:
        room = empty_weight(*like.shape, device=device, dtype=like.dtype)
    elif form == "fp8":
        room = Fp8Weight(like, device)
    else:
        # The output matrix is quantised for answers only.
        below_adapter = "lm_head" not in quantized
        experts = num_experts(model.config, leaf, owner.index) if isinstance(owner, Layer) else None
        room = QuantizedWeight(
            like, form, device, below_adapter=below_adapter, experts=experts or 1
        )
    replace_weight(owner, leaf, room)
    return room


def _read(
    pieces: tuple[Piece, ...], destination: Tensor, read_into: Callable[[str, Tensor], None]
) -> None:
    for piece in pieces:
        read_into(piece.hf_name, destination[piece.start : piece.start + piece.shape[0]])


def _numbers(pieces: tuple[Piece, ...]) -> int:
    return sum(torch.Size(piece.shape).numel() for piece in pieces)
