"""Whether fp8 products are right at a model's shapes, and what they cost a training's loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from benchmarks.device_check.part import Report
from danlu.device.variants import REFERENCE
from danlu.doctor.selftest import _own_home
from danlu.hub.adapters import attach_adapter, find_adapter
from danlu.hub.load import load_model
from danlu.hub.names import STARTER
from danlu.lora.linear import AdapterLinear
from danlu.model.config import ModelConfig
from danlu.model.layout import PROJECTIONS, merged_shape
from danlu.ops import fp8_input_gradient, fp8_linear, multiplies_fp8, quantize_fp8
from danlu.ops.frozen.fp8 import FP8_LINEAR
from danlu.train.events import StepDone
from danlu.train.job.finetune import Finetune
from danlu.train.job.setup import prepare_run
from danlu.train.loop.evaluate import evaluate
from danlu.train.settings import TrainSettings
from danlu.workflows.demo import DATA, Demo

# How far a product may be off the twin's, which rounds the same operands, and off the exact one.
NEAR_TWIN, NEAR_EXACT = 0.01, 0.06
# What fp8 may cost after 100 steps.
GATE = 0.01


def try_fp8(
    config: ModelConfig, tokens: int, device: torch.device, steps: int, report: Report
) -> None:
    """Compare products with the twin's and the exact ones, and two trainings with each other."""
    if not multiplies_fp8(device):
        report.put("fp8", None, "SKIPPED: this device does not multiply in fp8")
        return
    found = dict(_errors(config, tokens, device))
    twin, exact = (max(each[n] for each in found.values()) for n in (0, 1))
    is_right = twin <= NEAR_TWIN and exact <= NEAR_EXACT
    words = f"off the twin's by {twin:.2%} at most, off the exact ones by {exact:.2%}"
    report.put("fp8 products", found, words if is_right else f"FAILED: {words}")
    plain, in_fp8 = (trained(device.type, steps, {"fp8": fp8}) for fp8 in (False, True))
    off = in_fp8[1] / plain[1] - 1
    words = f"held-out loss after {steps} steps {plain[1]:.4f}, in fp8 {in_fp8[1]:.4f} ({off:+.2%})"
    report.put("fp8 loss", [plain, in_fp8], words if off <= GATE else f"FAILED: {words}")


def _errors(
    config: ModelConfig, tokens: int, device: torch.device
) -> Iterator[tuple[str, tuple[float, float]]]:
    twin = FP8_LINEAR.variants[REFERENCE]
    for name in PROJECTIONS:
        out, inner = merged_shape(config, name, 0)
        weight = _numbers(out, inner, device) * 0.02
        matrix = quantize_fp8(weight)
        x, dy = (_numbers(tokens, n, device) for n in (inner, out))
        with torch.no_grad():
            yield (
                name,
                _off(fp8_linear(x, matrix), twin(x, matrix.values, matrix.scales), x @ weight.t()),
            )
            dx = fp8_input_gradient(dy, matrix)
            again = twin(dy, matrix.columns, matrix.column_scales)
            yield f"{name}, gradient", _off(dx, again, dy @ weight)


def _numbers(rows: int, size: int, device: torch.device) -> Tensor:
    generator = torch.Generator(device).manual_seed(rows + size)
    return torch.randn(rows, size, device=device, generator=generator).bfloat16()


def _off(found: Tensor, *expected: Tensor) -> tuple[float, float]:
    twin, exact = (float((found - e).float().norm() / e.float().norm()) for e in expected)
    return twin, exact


def trained(
    kind: str, steps: int, base: Mapping[str, object], *, rows: int = 8
) -> tuple[list[float], float]:
    """Train the starter on the demo's rows; return each step's loss, and that of held-out rows.

    The latter with the adapter on the plain weights, where it is used. base: the settings that say
    in which form the weights below the adapter are kept. rows: of a step.
    """
    with _own_home() as home:
        folder = Demo(home).run_folder
        settings = TrainSettings(
            dataset=str(DATA / "rows.json"),
            output_dir=str(folder),
            device=kind,  # type: ignore[arg-type]
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=1,
            max_steps=steps,
            learning_rate=3e-4,
            warmup_steps=5,
            lora_rank=16,
            val_size=0.2,
            eval_strategy="no",
            save_strategy="no",
            plot_loss=False,
            report=False,
            seed=7,
            **base,
        )
        run = prepare_run(settings)
        losses = [event.loss for event in Finetune(run).run() if isinstance(event, StepDone)]
        plain = load_model(STARTER, device=run.device, dtype=run.precision.dtype)
        adapter, _is_proven = attach_adapter(find_adapter(str(folder)), plain, dtype=torch.float32)
        linear, held_out = AdapterLinear(adapter), run.task.data.held_out
        return losses, evaluate(plain, linear, held_out, micro_batch_tokens=2048).loss
