"""transformers' generate on the same shape and card: greedy, sdpa attention, its dynamic cache."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.device_check.part import Report
from benchmarks.device_check.peers.training_peer import transformers_model
from benchmarks.device_check.setup import emptied, seconds_of
from benchmarks.device_check.shapes import SHAPES, Streams
from danlu.device.detect import select

# Tokens whose time is taken: generate's time with so many more, less that without.
_TIMED = 24


def run(settings: argparse.Namespace, report: Report) -> None:
    """Measure the same streams, the danlu figure beside."""
    shape, device = SHAPES[settings.shape], select(settings.device).torch_device
    model = transformers_model(shape, device).eval()
    for streams in shape.streams:
        if report.left() < 10:
            report.put(streams.name, None, "SKIPPED: no time left")
            continue
        with report.trying(streams.name):
            speed = _speed(model, streams, shape.config.vocab_size, device)
            ours = report.found["parts"].get("decoding", {}).get(streams.name, {})
            ratio = ours.get("decode_tokens_per_s", 0.0) / speed
            found = {"decode_tokens_per_s": speed, "danlu_ratio": ratio}
            words = f"{speed:,.0f} tokens/s; danlu {ratio:.2f} x"
            report.put(streams.name, found, words)


def _speed(model: Any, streams: Streams, vocab: int, device: torch.device) -> float:
    emptied(device)
    generator = torch.Generator().manual_seed(4)
    size = (streams.count, streams.start)
    ids = torch.randint(0, vocab, size, generator=generator).to(device)

    def generate(answer: int) -> float:
        return seconds_of(
            lambda: model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=answer,
                max_new_tokens=answer,
                pad_token_id=0,
            ),
            device,
        )

    generate(2)
    short = generate(1)
    return streams.count * _TIMED / max(1e-9, generate(1 + _TIMED) - short)
