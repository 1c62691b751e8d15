"""transformers + PEFT on the same rows and card: padded batches, fused AdamW, their best batch.

Without gradient checkpointing and with; in another process with Liger's kernels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from benchmarks.device_check.part import Report
from benchmarks.device_check.setup import emptied, peak, seconds_of
from benchmarks.device_check.shapes import LORA_ALPHA, LORA_RANK, SHAPES, CheckShape
from benchmarks.device_check.training import figures, measured_rows
from danlu.data.tokens.examples import Example
from danlu.device.detect import select
from danlu.device.memory import is_out_of_memory

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100
_Batch = dict[str, Tensor]


def run(settings: argparse.Namespace, report: Report) -> None:
    """Measure what danlu's training was measured on."""
    _measure(settings, report, liger=False)


def run_liger(settings: argparse.Namespace, report: Report) -> None:
    """Measure the same with Liger's kernels, which replace transformers' in the whole process."""
    if select(settings.device).kind == "cpu":
        report.put("part", None, "SKIPPED: Liger's kernels are for cards")
        return
    _measure(settings, report, liger=True)


def _measure(settings: argparse.Namespace, report: Report, *, liger: bool) -> None:
    shape, device = SHAPES[settings.shape], select(settings.device).torch_device
    model = _model(shape, device, liger=liger)
    found: dict[str, list[dict[str, Any]]] = {}
    for checkpoints in (False, True):
        way = f"checkpointing {'on' if checkpoints else 'off'}{', liger' if liger else ''}"
        if checkpoints:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        for name, rows in measured_rows(shape).items():
            emptied(device)
            with report.trying(f"{name}, {way}"):
                best = _best(model, device, rows, shape)
                words = None if best else "not even one row fits into the memory"
                report.put(f"{name}, {way}", best, words)
                if best is not None:  # told at once: time may end with any of them
                    found.setdefault(name, []).append({"way": way, **best})
                    _tell(name, max(found[name], key=lambda each: each["tokens_per_s"]), report)


def _tell(name: str, fastest: dict[str, Any], report: Report) -> None:
    speed, batch_rows, way = (fastest[key] for key in ("tokens_per_s", "batch_rows", "way"))
    report.put(name, fastest, f"{speed:,.0f} tokens/s, {batch_rows} rows, {way}")
    ours = report.found["parts"].get("training", {}).get(name, {}).get("tokens_per_s")
    if ours is not None:
        report.put(f"{name}, ratio", ours / speed, f"{ours / speed:.2f} x transformers + PEFT")


def transformers_model(shape: CheckShape, device: torch.device) -> Any:
    """Make transformers' model of random weights on the device, with sdpa attention."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    fields = {k: v for k, v in asdict(shape.config).items() if k not in ("dtype", "rope_theta")}
    rope = {"rope_type": "default", "rope_theta": shape.config.rope_theta}
    config = Qwen3Config(**fields, rope_parameters=rope)
    dtype = torch.bfloat16
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        dtype = torch.float16
    with device:
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    return model.to(device)


def _model(shape: CheckShape, device: torch.device, *, liger: bool) -> Any:
    from peft import LoraConfig, get_peft_model

    model = transformers_model(shape, device)
    if liger:
        from liger_kernel.transformers import apply_liger_kernel_to_qwen3

        apply_liger_kernel_to_qwen3(model=model)
    lora = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=TARGETS)
    model = get_peft_model(model, lora)
    model.config.use_cache = False
    return model.train()


def _best(
    model: Any, device: torch.device, rows: Sequence[Example], shape: CheckShape
) -> dict[str, Any] | None:
    """Return the figures of the fastest batch; None where not even one row fits."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=device.type == "cuda")
    found: list[dict[str, Any]] = []
    for batch_rows in (count for count in shape.peer_rows if count <= len(rows)):
        emptied(device)
        batches = _batches(rows, batch_rows, device)
        try:
            _step(model, optimizer, batches)
            times = [
                seconds_of(lambda now=batches: _step(model, optimizer, now), device)
                for _again in range(min(2, shape.steps))
            ]
        except Exception as problem:
            if not is_out_of_memory(problem):
                raise
            continue
        best = {"batch_rows": batch_rows, "peak_bytes": peak(device), **figures(rows, times)}
        found.append(best)
        # Smaller batches start more kernels; once they are slower they stay so.
        if len(found) > 1 and best["step_s"] > found[-2]["step_s"]:
            break
    return max(found, key=lambda each: each["tokens_per_s"], default=None)


def _step(model: Any, optimizer: torch.optim.Optimizer, batches: Sequence[_Batch]) -> None:
    targets = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)
    for batch in batches:
        model(**batch, num_items_in_batch=targets).loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _batches(rows: Sequence[Example], batch_rows: int, device: torch.device) -> list[_Batch]:
    """Pad rows of like lengths to batches: kinder than the order in which they come."""
    ordered = sorted(rows, key=lambda row: len(row.tokens))
    batches = []
    for first in range(0, len(ordered), batch_rows):
        members = ordered[first : first + batch_rows]
        size = (len(members), max(len(row.tokens) for row in members))
        ids, mask = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)
        labels = torch.full(size, IGNORED)
        for at, row in enumerate(members):
            count, tokens = len(row.tokens), torch.from_numpy(row.tokens).long()
            ids[at, :count], mask[at, :count] = tokens, 1
            labels[at, :count] = torch.where(torch.from_numpy(row.supervised), tokens, IGNORED)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        batches.append({key: value.to(device) for key, value in batch.items()})
    return batches
