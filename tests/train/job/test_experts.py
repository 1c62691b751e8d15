"""Training models with experts: LoRA and full, stopped and gone on with, answered with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from danlu.device.detect import select
from danlu.errors import UsageError
from danlu.hub.adapters import attach_adapter, find_adapter
from danlu.hub.load import load_model
from danlu.runs.manifest import read_manifest
from danlu.train.events import StepDone
from danlu.train.job.finetune import Finetune
from danlu.train.job.setup import prepare_run
from danlu.train.settings import TrainSettings
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.models.tiny_model import EXPERTS
from tests.helpers.program import write_rows

SHAPE = {"num_hidden_layers": 3, "experts": EXPERTS}


def settings_of(tmp_path: Path, name: str, **changes: object) -> TrainSettings:
    model, rows = tmp_path / "model", tmp_path / "rows.jsonl"
    return TrainSettings(
        model_name_or_path=str(model if model.is_dir() else write_model_folder(model, **SHAPE)),
        dataset=str(rows if rows.is_file() else write_rows(rows, 8)),
        output_dir=str(tmp_path / name),
        learning_rate=5e-3,
        device="cpu",
        report=False,
        **{"max_steps": 4, "save_steps": 2, **changes},
    )


def losses(settings: TrainSettings) -> list[float]:
    events = Finetune(prepare_run(settings)).run()
    return [event.loss for event in events if isinstance(event, StepDone)]


@pytest.mark.parametrize(("kind", "dtype"), [("lora", "bfloat16"), ("full", "float32")])
def test_a_run_learns_and_goes_on_with_the_same_bytes(
    kind: str, dtype: str, tmp_path: Path
) -> None:
    changes = {"finetuning_type": kind, "dtype": dtype}
    whole = losses(settings_of(tmp_path, "whole", **changes))
    assert whole[-1] < whole[0] - 0.1
    settings = settings_of(tmp_path, "halved", **changes)
    run = Finetune(prepare_run(settings)).run()
    for event in run:
        if isinstance(event, StepDone) and event.step == 3:
            break
    run.close()
    again = settings.model_copy(update={"resume_from_checkpoint": True})
    assert losses(again) == whole[2:]
    file = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    results = [(tmp_path / name / "final" / file).read_bytes() for name in ("whole", "halved")]
    assert results[0] == results[1]


@pytest.mark.parametrize("bits", [pytest.param(8, marks=pytest.mark.soak), 4])
def test_an_adapter_learns_on_experts_in_few_bits(tmp_path: Path, bits: int) -> None:
    plain = losses(settings_of(tmp_path, "plain", dtype="bfloat16"))
    found = losses(settings_of(tmp_path, "few", dtype="bfloat16", quantization_bit=bits))
    assert found[-1] < found[0] - 0.1
    assert found == pytest.approx(plain, rel=0.02)
    form = read_manifest(tmp_path / "few").arithmetic.base_form
    assert form == f"int{bits}"


def test_a_loss_that_evens_out_shares_is_asked_for_or_stands_in_config_json(tmp_path: Path) -> None:
    few = {"max_steps": 2, "finetuning_type": "full", "dtype": "float32"}
    plain = losses(settings_of(tmp_path, "plain", **few))
    asked = losses(settings_of(tmp_path, "asked", moe_aux_loss_coef=5.0, **few))
    assert asked[0] == plain[0]  # what is told is the loss of the rows
    assert asked[1] != plain[1]
    config = tmp_path / "model" / "config.json"
    fields = json.loads(config.read_text(encoding="utf-8"))
    fields |= {"output_router_logits": True, "router_aux_loss_coef": 5.0}
    config.write_text(json.dumps(fields), encoding="utf-8")
    assert losses(settings_of(tmp_path, "by config", **few)) == asked
    assert losses(settings_of(tmp_path, "without", moe_aux_loss_coef=0.0, **few)) == plain


def test_a_dense_model_has_no_shares_to_even_out(tmp_path: Path) -> None:
    write_model_folder(tmp_path / "model")
    with pytest.raises(UsageError, match="no experts"):
        losses(settings_of(tmp_path, "run", moe_aux_loss_coef=0.01))


def test_the_default_trains_attention_and_experts_but_not_the_router(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "run", max_steps=1, lora_dropout=0.1)
    losses(settings)
    assert read_manifest(tmp_path / "run").state == "finished"
    base = load_model(str(tmp_path / "model"), device=select("cpu"), dtype=torch.float32)
    adapter, is_proven = attach_adapter(find_adapter(str(tmp_path / "run")), base)
    assert is_proven
    names = {name.rpartition(".")[2] for _layer, name, _a, _b in adapter.tensors()}
    assert names == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    }
    trained = sum(b.any() for _layer, name, _a, b in adapter.tensors() if "experts" in name)
    assert trained > 24  # one step does not reach every expert
