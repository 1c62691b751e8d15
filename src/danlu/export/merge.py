"""Merging an adapter into its base: W + scaling * B A, written shard by shard and verified.

One tensor is in memory at a time. Before the folder gets its name, the merged model is loaded
back from disk and its logits on a few prompts are compared with those of base and adapter; a merge
that answers differently is discarded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.device.detect import Device
from danlu.errors import DataError, UsageError
from danlu.files.committed import committed_folder
from danlu.files.os_errors import require_free
from danlu.hub.adapters import AdapterSource, attach_adapter
from danlu.hub.load import LoadedModel, load_model
from danlu.hub.names import model_folder
from danlu.hub.prompting import MERGE_REPORT, Prompting
from danlu.hub.save import write_folder
from danlu.language import _
from danlu.lora.adapter import Adapter
from danlu.lora.bank import AdapterBank
from danlu.lora.peft_files import load_adapter
from danlu.model.attention import PackedAttention
from danlu.model.config import load_config
from danlu.model.layout import projection_module
from danlu.model.qwen3 import Linear, plain_linear
from danlu.text.conversation import Conversation, Message
from danlu.text.render import render
from danlu.weights.safetensors import TORCH_DTYPES
from danlu.weights.sharded import TensorPlan, WeightFolder

VERIFICATION_PROMPTS = (
    "Who are you?",
    "你是谁？",
    "What is 17 + 25?",
    "请用一句话介绍你自己。",
    "Write a short poem about the sea.",
)
# Mean Kullback-Leibler divergence (nats per token) between base + adapter and merged: what remains
# of a right merge is the rounding of its weights. The demo's bf16 merge, compared in fp32, gives
# 5e-6; the wide margin is for adapters with large updates and for comparisons in bf16.
MAX_MEAN_KL = 0.02


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What was merged and how closely the result agrees. Logit differences are absolute."""

    base: str
    base_fingerprint: str
    base_is_proven: bool
    adapter: str
    template: str
    enable_thinking: bool | None
    dtype: str
    verified_in: str
    num_merged_tensors: int
    num_bytes: int
    num_probe_tokens: int
    max_logit_difference: float
    mean_kl: float
    top1_agreement: float


def merge(
    base_name: str,
    adapter: AdapterSource,
    export_dir: Path,
    *,
    device: Device,
    prompting: Prompting | None = None,
) -> MergeReport:
    """Merge, verify and commit to `export_dir`, which must be new or empty; return the report.

    prompting: how the merged model is to be prompted; None: as the adapter was trained. The chat
    template has it as its default, for other programs.
    Raises UsageError, CapacityError (before anything is written), or DataError where the merged
    model's logits differ.
    """
    _check_empty(export_dir)
    prompting = prompting or adapter.prompting(base_name)
    folder = model_folder(base_name)
    config = load_config(folder)
    weights = WeightFolder(folder)
    # The merged model is as large as its base; its companion files are small.
    require_free(export_dir, weights.num_bytes + 32 * 2**20)
    precision = _verification_dtype(weights, device)
    expected = _base_and_adapter(base_name, adapter, prompting, device, precision)
    low_rank = load_adapter(adapter.folder, config, device=torch.device("cpu"), dtype=torch.float32)
    changes = _changes(low_rank)
    plans = _copied(weights)

    def fetch(name: str) -> Tensor:
        tensor = weights.files[name].read(name)
        if name not in changes:
            return tensor
        a, b = changes[name]
        return (tensor.float() + low_rank.config.scaling * (b @ a)).to(tensor.dtype)

    with committed_folder(export_dir) as draft:
        write_folder(draft, plans, fetch, like=folder, at_once=prompting.answers_at_once)
        merged = load_model(str(draft.path), device=device, dtype=precision)
        logits = _prompt_logits(merged, plain_linear, expected.prompts)
        difference, mean_kl, top1 = _compare(expected.logits, logits)
        report = MergeReport(
            base=base_name,
            base_fingerprint=expected.fingerprint,
            base_is_proven=expected.is_proven,
            adapter=str(adapter.folder),
            template=prompting.template,
            enable_thinking=prompting.enable_thinking,
            dtype=str(plans[0].dtype).removeprefix("torch."),
            verified_in=str(precision).removeprefix("torch."),
            num_merged_tensors=len(changes),
            num_bytes=sum(plan.num_bytes for plan in plans),
            num_probe_tokens=len(expected.logits),
            max_logit_difference=difference,
            mean_kl=mean_kl,
            top1_agreement=top1,
        )
        if not report.mean_kl <= MAX_MEAN_KL:
            raise _differs(report)
        draft.write(MERGE_REPORT, json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n")
    return report


def _changes(adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    """Return by name the matrices A and B whose product is added to a tensor, if it is not 0."""
    return {
        f"{projection_module(layer, target)}.weight": (a, b)
        for layer, target, a, b in adapter.tensors()
        if b.any()
    }


def _copied(weights: WeightFolder) -> list[TensorPlan]:
    """Plan a folder with the same tensors."""
    return [
        TensorPlan(name=name, dtype=TORCH_DTYPES[stored.dtype], shape=stored.shape)
        for name, file in weights.files.items()
        for stored in (file.tensors[name],)
    ]


@dataclass(frozen=True, kw_only=True)
class _Expected:
    """What the merged model must answer. logits: [all prompt tokens, vocab] in fp32."""

    prompts: list[list[int]]
    logits: Tensor
    fingerprint: str
    is_proven: bool


def _base_and_adapter(
    base_name: str,
    source: AdapterSource,
    prompting: Prompting,
    device: Device,
    dtype: torch.dtype,
) -> _Expected:
    """Run base and adapter on the prompts; the model is freed before the merged one is loaded."""
    base = load_model(base_name, device=device, dtype=dtype)
    adapter, is_proven = attach_adapter(source, base)
    prompts = [
        base.tokenizer.encode_spans(
            render(
                Conversation(messages=(Message(role="user", content=text),)),
                template=prompting.template,
                enable_thinking=prompting.enable_thinking,
            )
        )
        for text in VERIFICATION_PROMPTS
    ]
    return _Expected(
        prompts=prompts,
        logits=_prompt_logits(base, AdapterBank.of_one(adapter), prompts),
        fingerprint=base.fingerprint,
        is_proven=is_proven,
    )


@torch.inference_mode()
def _prompt_logits(loaded: LoadedModel, linear: Linear, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return the logits of every prompt token, fp32 [tokens, vocab] on the CPU."""
    device = loaded.device.torch_device
    tokens = torch.tensor([token for ids in prompts for token in ids], device=device)
    positions = torch.tensor([p for ids in prompts for p in range(len(ids))], device=device)
    attend = PackedAttention(loaded.config, positions, [len(ids) for ids in prompts])
    hidden = loaded.model(tokens, attend, linear)
    logits: Tensor = linear(loaded.model.head, "lm_head", hidden).float().cpu()
    return logits


def _compare(expected: Tensor, logits: Tensor) -> tuple[float, float, float]:
    """Return the largest difference, the mean divergence and the share of equal top tokens."""
    before, after = F.log_softmax(expected, -1), F.log_softmax(logits, -1)
    kl = F.kl_div(after, before, log_target=True, reduction="none").sum(-1)
    same = (before.argmax(-1) == after.argmax(-1)).float()
    return float((expected - logits).abs().max()), float(kl.mean()), float(same.mean())


def _verification_dtype(weights: WeightFolder, device: Device) -> torch.dtype:
    """Compare in fp32 where the model fits twice as large, else in the device's own precision."""
    fits = weights.num_bytes * 2 < device.memory_bytes * 0.8
    return torch.float32 if fits else device.preferred_dtype


def _check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            _("The export folder {folder} is not empty.").format(folder=folder),
            why=_("A merge never overwrites what is there."),
            fix=_("Choose another --export_dir, or remove this one first."),
        )


def _differs(report: MergeReport) -> DataError:
    return DataError(
        _("The merged model does not answer like base and adapter; nothing was written."),
        why=_("Mean divergence on the probe prompts is {kl:.4f}, the limit is {limit}.").format(
            kl=report.mean_kl, limit=MAX_MEAN_KL
        ),
        fix=_("Check that the adapter belongs to this base; a float32 base loses nothing."),
    )
