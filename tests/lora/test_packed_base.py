"""An adapter over matrices that are packed for both directions: outputs, gradients, a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.lora.adapter import Adapter, LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.packed import pack_base
from danlu.model.qwen3 import Qwen3
from danlu.model.recompute import POLICIES, Recompute
from danlu.ops import base_packing_for
from danlu.plan import choose
from danlu.runs.manifest import read_manifest, write_manifest
from danlu.train.events import StepDone
from danlu.train.job import finetune
from danlu.train.job.finetune import Finetune
from danlu.train.job.setup import prepare_run
from danlu.train.loop.loss import loss_backward
from danlu.train.loop.trainer import Interrupted
from danlu.train.settings import TrainSettings
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.models.packed import packed_attention, random_adapter, random_tokens
from tests.helpers.models.tiny_model import tiny_model
from tests.helpers.program import write_rows

CPU = torch.device("cpu")
LENGTHS = [9, 1, 14]
pytestmark = pytest.mark.skipif(
    base_packing_for(torch.bfloat16, CPU) is None,
    reason="this processor has no bf16 products of its own",
)


def gradients(model: Qwen3, adapter: Adapter, recompute: Recompute) -> tuple[float, list[Tensor]]:
    """The loss behind the output matrix, in chunks, and what it is to each matrix."""
    tokens = random_tokens(model.config, sum(LENGTHS))
    linear = AdapterLinear(adapter, keeps_normed=recompute not in ("selective", "gate_up"))
    parameters = [parameter for _name, parameter in adapter.parameters()]
    for parameter in parameters:
        parameter.grad = None
    hidden = model(tokens, packed_attention(model.config, LENGTHS), linear, recompute)
    loss = loss_backward(model, linear, hidden, tokens.long(), divisor=1.0, chunk_rows=10)
    return loss.item(), [p.grad.clone() for p in parameters if p.grad is not None]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("targets", [LoraConfig(r=4).target_modules, ("q_proj", "up_proj")])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_loss_and_gradients_are_as_near_to_the_exact_ones_as_over_plain_matrices(
    policy: Recompute, targets: tuple[str, ...], tied: bool
) -> None:
    shape: dict[str, Any] = {"tie_word_embeddings": tied}
    config, exact = tiny_model(**shape)
    adapter = random_adapter(LoraConfig(r=4, target_modules=targets), config)
    wanted, of_exact = gradients(exact, adapter, policy)
    plain = exact.to(torch.bfloat16)
    usual, of_plain = gradients(plain, adapter, policy)
    assert pack_base(plain)
    found, of_packed = gradients(plain, adapter, policy)
    assert abs(found - wanted) <= 1.2 * abs(usual - wanted) + 1e-3 * wanted
    assert len(of_packed) == len(of_exact) == len(list(adapter.parameters()))
    for ours, theirs, right in zip(of_packed, of_plain, of_exact, strict=True):
        assert (ours - right).norm() <= 1.2 * (theirs - right).norm() + 1e-3 * right.norm()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainSettings:
    """Of a run whose plan packs: a model as small as this gains too little from it."""
    monkeypatch.setattr(choose, "EQUALLY_FAST", 1.0)
    return TrainSettings(
        model_name_or_path=str(write_model_folder(tmp_path / "model")),
        dataset=str(write_rows(tmp_path / "rows.jsonl", 8)),
        output_dir=str(tmp_path / "whole"),
        max_steps=4,
        save_steps=2,
        dtype="bfloat16",
        device="cpu",
    )


def losses(settings: TrainSettings) -> list[float]:
    events = Finetune(prepare_run(settings)).run()
    return [event.loss for event in events if isinstance(event, StepDone)]


def test_a_run_packs_says_so_and_goes_on_to_the_same_bits(
    settings: TrainSettings, tmp_path: Path
) -> None:
    whole = losses(settings)
    half = settings.model_copy(update={"output_dir": str(tmp_path / "half")})
    job = Finetune(prepare_run(half))
    events = job.run()
    while not (isinstance(event := next(events), StepDone) and event.step == 2):
        pass
    job.request_stop()
    with pytest.raises(Interrupted):
        list(events)
    going_on = half.model_copy(update={"resume_from_checkpoint": True})
    assert losses(going_on) == whole[2:]
    for run in ("whole", "half"):
        assert read_manifest(tmp_path / run).arithmetic.packs_base
    ours, theirs = (
        (tmp_path / run / "final" / "adapter_model.safetensors").read_bytes()
        for run in ("whole", "half")
    )
    assert ours == theirs


def test_what_an_older_danlu_began_goes_on_unpacked(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses(settings)
    manifest = read_manifest(tmp_path / "whole")
    recorded = manifest.arithmetic.model_dump(exclude={"packs_base"})
    write_manifest(tmp_path / "whole", manifest.changed(arithmetic=recorded))
    monkeypatch.setattr(finetune, "pack_base", lambda _model: pytest.fail("packed"))
    losses(settings.model_copy(update={"resume_from_checkpoint": True}))
