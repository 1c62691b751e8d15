"""Loading a model by its name: weights into the model's merged layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from danlu.device.detect import Device
from danlu.device.group import ALONE, Group
from danlu.errors import CapacityError, UsageError
from danlu.hub.fingerprint import fingerprint
from danlu.hub.names import model_folder
from danlu.language import _
from danlu.model.config import ModelConfig, WeightForm, load_config
from danlu.model.layout import merged_tensors
from danlu.model.packed import pack_model
from danlu.model.quantized import (
    MULTIPLES,
    fits,
    has_experts_in,
    quantized_bytes,
    quantized_model,
)
from danlu.model.qwen3 import Qwen3
from danlu.moving_line import Progress, no_progress
from danlu.text.tokenizer import Tokenizer
from danlu.units import readable_bytes
from danlu.weights.sharded import WeightFolder

# With tied embeddings some tools store the output matrix too; it must equal the embedding.
_TIED_ALIASES = {"lm_head.weight": "model.embed_tokens.weight"}


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to compute, with its config, tokenizer and device.

    With packed or quantised weights it can answer, but neither be trained nor saved; on quantised
    ones an adapter can be trained. merged_adapter: the folder of the one that the weights hold.
    shared_by: the group whose processes each hold a share of the weights.
    """

    name: str
    folder: Path
    config: ModelConfig
    model: Qwen3
    tokenizer: Tokenizer
    fingerprint: str
    device: Device
    quantization: WeightForm | None = None
    is_packed: bool = False
    merged_adapter: Path | None = None
    shared_by: Group = ALONE

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that is computed in, and that weights have which are not quantised."""
        return self.model.dtype

    @property
    def token_multiple(self) -> int:
        """What the number of tokens in a batch is a multiple of; see `Device.token_multiple`."""
        return self.device.token_multiple if self.dtype.itemsize == 2 else 1


@dataclass(frozen=True, kw_only=True)
class CheckedModel:
    """A model's files, found to belong together; no weights have been read."""

    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer
    weights: WeightFolder


def check_model(name: str) -> CheckedModel:
    """Read a model's config, tokenizer and weight headers and compare them, without memory.

    Raises UsageError for a missing or unsupported model, DataError for files that are damaged or
    do not belong together.
    """
    folder = model_folder(name)
    config = load_config(folder)
    tokenizer = Tokenizer.load(folder)
    tokenizer.check_fits(config.vocab_size)
    weights = weights_of(folder, config)
    # On the meta device: a wrong config.json must not end in a failed allocation.
    outline = Qwen3(config, device=torch.device("meta"), dtype=torch.float32)
    weights.check(dict(outline.hf_tensors()))
    return CheckedModel(folder=folder, config=config, tokenizer=tokenizer, weights=weights)


def weights_of(folder: Path, config: ModelConfig) -> WeightFolder:
    """Open a model's weight files; experts have each their tensors, however they are stored.

    Raises UsageError where there are none, DataError for files that are damaged.
    """
    weights = WeightFolder(folder, _TIED_ALIASES if config.tie_word_embeddings else None)
    for merged in merged_tensors(config):
        parts = [(piece.hf_name, piece.shape) for piece in merged.pieces]
        weights.divide(merged.hf_name, merged.shape, parts)
    return weights


def load_for_answers(
    name: str,
    *,
    device: Device,
    dtype: torch.dtype | None,
    quantization: WeightForm | None,
    progress: Progress = no_progress,
) -> LoadedModel:
    """Load a model as `load_model` does, its weights packed where the device has a form for it."""
    loaded = load_model(
        name, device=device, dtype=dtype, quantization=quantization, progress=progress
    )
    return packed(loaded, progress)


def packed(loaded: LoadedModel, progress: Progress) -> LoadedModel:
    """Pack a loaded model's weights for answers, where they are not quantised."""
    if loaded.quantization is not None:
        return loaded
    progress(_("Packing the weights for this processor"), 0, 0)
    return replace(loaded, is_packed=pack_model(loaded.model))


def load_model(
    name: str,
    *,
    device: Device,
    dtype: torch.dtype | None = None,
    quantization: WeightForm | None = None,
    shared_by: Group = ALONE,
    keeps_head: bool = False,
    progress: Progress = no_progress,
) -> LoadedModel:
    """Load a model onto a device; dtype None means the device's preferred one.

    shared_by: each process of the group holds its share of the weights, which stay as they are.
    keeps_head: do not quantise the output matrix, as below an adapter that is trained. progress:
    told how many bytes of the weights have been read.

    Raises what `check_model` raises, UsageError for a model that has not got the wanted form, and
    CapacityError where the weights cannot fit.
    """
    checked = check_model(name)
    dtype = dtype or device.preferred_dtype
    _check_form(checked, device, quantization, keeps_head=keeps_head)
    needed = quantized_bytes(
        checked.config, dtype, quantization, device.kind, keeps_head=keeps_head
    )
    _check_memory(checked, device, needed // shared_by.size)
    reading = partial(progress, _("Loading {name}").format(name=Path(name).name))
    if not shared_by.is_alone:
        from danlu.model.divided import divided_model

        weights, torch_device = checked.weights, device.torch_device
        rows = weights.row_reader(reading, -(-weights.num_bytes // shared_by.size))
        model = divided_model(
            checked.config, rows, group=shared_by, device=torch_device, dtype=dtype
        )
    elif quantization is None:
        model = Qwen3(checked.config, device=device.torch_device, dtype=dtype)
        checked.weights.load(dict(model.hf_tensors()), reading)
    else:
        model = quantized_model(
            checked.config,
            quantization,
            checked.weights.reader(reading),
            device=device.torch_device,
            dtype=dtype,
            keeps_head=keeps_head,
        )
    return LoadedModel(
        name=name,
        folder=checked.folder,
        config=checked.config,
        model=model,
        tokenizer=checked.tokenizer,
        fingerprint=fingerprint(checked.config, checked.weights),
        device=device,
        quantization=quantization,
        shared_by=shared_by,
    )


def _check_form(
    checked: CheckedModel, device: Device, quantization: WeightForm | None, *, keeps_head: bool
) -> None:
    """Refuse a form that a model's matrices have none of."""
    if quantization is not None and not has_experts_in(checked.config, quantization):
        raise UsageError(
            _("The experts of {folder} cannot be kept in {form}.").format(
                folder=checked.folder, form=quantization
            ),
            why=_("{device} has no products with such matrices of many experts.").format(
                device=device.description
            ),
            fix="--fp8 false",
        )
    if quantization is not None and not fits(checked.config, quantization):
        others = "--quantization_bit 8" if keeps_head else "--quantization int8"
        raise UsageError(
            _("The model in {folder} cannot be kept in {form}.").format(
                folder=checked.folder, form=quantization
            ),
            why=_("Its widths are not multiples of {group}.").format(group=MULTIPLES[quantization]),
            fix="--fp8 false" if quantization == "fp8" else others,
        )


def _check_memory(checked: CheckedModel, device: Device, needed: int) -> None:
    """Refuse what cannot fit before gigabytes are read. needed: bytes of the weights."""
    if needed > device.memory_bytes:
        raise CapacityError(
            _("The model in {folder} does not fit into memory.").format(folder=checked.folder),
            why=_("Its weights need {needed}, {device} has {total}.").format(
                needed=readable_bytes(needed),
                device=device.description,
                total=readable_bytes(device.memory_bytes),
            ),
            fix=_("Use a smaller model, or --dtype bfloat16 where that is not set."),
        )
