"""What a model's name means, and loading it: weights into the model's merged layout.

A name is `starter` (the built-in model) or a folder in Hugging Face's format.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

import danlu
from danlu.device.detect import Device
from danlu.errors import CapacityError
from danlu.language import _
from danlu.model.config import ModelConfig, load_config
from danlu.model.qwen3 import Qwen3
from danlu.models.fingerprint import fingerprint
from danlu.text.tokenizer import Tokenizer
from danlu.weights.folder import WeightFolder

STARTER = "starter"
# With tied embeddings some tools store the output matrix too; it must equal the embedding.
_TIED_ALIASES = {"lm_head.weight": "model.embed_tokens.weight"}


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to compute, with everything that belongs to it."""

    name: str
    folder: Path
    config: ModelConfig
    model: Qwen3
    tokenizer: Tokenizer
    fingerprint: str
    device: Device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights in memory."""
        return self.model.embed_tokens.dtype


def model_folder(name: str) -> Path:
    """Return the absolute folder a model's name stands for; loading tells whether it is one."""
    if name == STARTER:
        return Path(danlu.__file__).parent / "starter"
    return Path(name).expanduser().absolute()


def load_model(name: str, *, device: Device, dtype: torch.dtype | None = None) -> LoadedModel:
    """Load a model onto a device; dtype None means the device's preferred one.

    Raises UsageError for a missing or unsupported model, DataError for files that are damaged or
    do not belong together, CapacityError where the weights cannot fit.
    """
    folder = model_folder(name)
    config = load_config(folder)
    tokenizer = Tokenizer.load(folder)
    tokenizer.check_fits(config.vocab_size)
    weights = WeightFolder(folder)
    dtype = dtype or device.preferred_dtype
    aliases = _TIED_ALIASES if config.tie_word_embeddings else {}
    # Shapes first, without memory: a wrong config.json must not end in a failed allocation.
    outline = Qwen3(config, device=torch.device("meta"), dtype=dtype)
    weights.check(dict(outline.hf_tensors()), aliases=aliases)
    _check_memory(weights, device, dtype)
    model = Qwen3(config, device=device.torch_device, dtype=dtype)
    weights.load(dict(model.hf_tensors()), aliases=aliases)
    return LoadedModel(
        name=name,
        folder=folder,
        config=config,
        model=model,
        tokenizer=tokenizer,
        fingerprint=fingerprint(config, weights),
        device=device,
    )


def _check_memory(weights: WeightFolder, device: Device, dtype: torch.dtype) -> None:
    """Refuse what cannot fit before gigabytes are read. A stored number has 2 bytes or 4."""
    needed = sum(
        (file.tensors[name].stop - file.tensors[name].start)
        * dtype.itemsize
        // (4 if file.tensors[name].dtype == "F32" else 2)
        for name, file in weights.files.items()
    )
    if needed > device.memory_bytes:
        raise CapacityError(
            _("The model in {folder} does not fit into memory.").format(folder=weights.folder),
            why=_("Its weights need {needed:.1f} GB, {device} has {total:.1f} GB.").format(
                needed=needed / 1e9, device=device.description, total=device.memory_bytes / 1e9
            ),
            fix=_("Use a smaller model, or --dtype bfloat16 where that is not set."),
        )
