"""A model with experts on the card: decoding in 16 bits and in fewer, a training's step."""

from __future__ import annotations

import argparse

from benchmarks.device_check import decoding, training
from benchmarks.device_check.part import Report
from benchmarks.device_check.setup import random_model
from benchmarks.device_check.shapes import SHAPES
from danlu.device.detect import select
from danlu.model.config import Quantization


def run(settings: argparse.Namespace, report: Report) -> None:
    """Measure Qwen3-30B-A3B's shape, one form after the other: 61 GB in 16 bits."""
    shape, device = SHAPES[settings.shape], select(settings.device)
    alike = [each for each in shape.streams if each.prompt == shape.streams[0].prompt]
    forms: tuple[Quantization | None, ...] = (None, "int8", "int4")
    for form in forms:
        with report.trying(form or "16 bits"):
            base = random_model(shape.experts, device, form)
            for streams in alike:
                name = f"{streams.name}, {form or '16 bits'}"
                decoding.measure(base, streams, name, report, quantization=form)
            if form is None:
                rows = training.measured_rows(shape)["recipe"]
                training.measure(base, "training", rows, shape.steps, report)
            del base
