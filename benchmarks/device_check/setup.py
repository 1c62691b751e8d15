"""The device, and a model of random weights that is made on it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danlu.data.tokens.examples import Example
from danlu.device.detect import Device
from danlu.hub.load import LoadedModel
from danlu.hub.names import STARTER, model_folder
from danlu.model.config import ModelConfig, WeightForm
from danlu.model.quantized import quantized_model
from danlu.model.qwen3 import Qwen3
from danlu.text.tokenizer import Tokenizer


def random_model(
    config: ModelConfig, device: Device, form: WeightForm | None = None
) -> LoadedModel:
    """Make a model on the device, of its preferred dtype, with the starter's tokenizer.

    form: that its matrices are kept in; None: as they are.
    """
    dtype = device.preferred_dtype
    generator = torch.Generator(device.torch_device).manual_seed(0)

    def fill(_name: str, weight: Tensor) -> None:
        if weight.dim() > 1:
            weight.normal_(std=0.02, generator=generator)
        else:
            weight.fill_(1.0)

    with torch.no_grad():
        if form is None:
            model = Qwen3(config, device=device.torch_device, dtype=dtype)
            for name, parameter in model.named_parameters():
                fill(name, parameter)
        else:
            model = quantized_model(config, form, fill, device=device.torch_device, dtype=dtype)
    folder = model_folder(STARTER)
    return LoadedModel(
        name="random",
        folder=folder,
        config=config,
        model=model,
        tokenizer=Tokenizer.load(folder),
        fingerprint="random",
        device=device,
        quantization=form,
    )


def rows_of(count: int, tokens: int, vocab: int, *, varied: bool) -> list[Example]:
    """Make rows of random tokens, half to one and a half times as long where varied.

    Of a varied row the last three quarters are learned, of another all.
    """
    generator = np.random.default_rng(0)
    rows = []
    for row in range(count):
        length = int(generator.integers(tokens // 2, tokens * 3 // 2)) if varied else tokens
        ids = generator.integers(0, vocab, length).astype(np.int32)
        supervised = np.arange(length) >= (length // 4 if varied else 0)
        rows.append(Example(tokens=ids, supervised=supervised, row=row, part=0))
    return rows


def waited(device: torch.device) -> None:
    """Wait for all work on a device."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Time a call, the device's work included."""
    waited(device)
    begun = time.perf_counter()
    work()
    waited(device)
    return time.perf_counter() - begun


def emptied(device: torch.device) -> None:
    """Free what nothing refers to, and count the peak of memory anew."""
    gc.collect()
    if device.type != "cpu":
        module = torch.get_device_module(device)
        module.empty_cache()
        module.reset_peak_memory_stats()


def peak(device: torch.device) -> int | None:
    """Return the most bytes that tensors took since `emptied`; None on the CPU."""
    if device.type == "cpu":
        return None
    return int(torch.get_device_module(device).max_memory_allocated())
