"""danlu with Ascend's fused kernels: what the probe takes, and what it computes with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from danlu.device.variants import ASCEND, REFERENCE
from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request
from danlu.lora.adapter import LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.qwen3 import plain_linear
from danlu.model.recompute import POLICIES, Recompute
from danlu.ops import Segments, ops_table
from danlu.ops.attention import ATTENTION
from danlu.ops.choice import _OPERATIONS
from danlu.train.events import StepDone
from tests.helpers.models import packed
from tests.helpers.models.few_bits import OPERATIONS, product, quantized
from tests.helpers.models.tiny_engine import (
    GREEDY,
    random_adapter,
    random_prompt,
    run_all,
    tokenizer,
    tokens_of,
    varied_model,
)
from tests.helpers.models.tiny_model import tiny_model
from tests.helpers.models.variants import taken
from tests.helpers.training.trainers import RECIPE, STEP_PLAN, trainer
from tests.sim import formulas
from tests.sim.record import recording

FUSED = [one for one in _OPERATIONS.values() if ASCEND in one.variants]


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the probe choose, as in a user's process."""
    monkeypatch.delenv("DANLU_OPS")
    for operation in _OPERATIONS.values():
        monkeypatch.setattr(operation, "_chosen", {})
        monkeypatch.setattr(operation, "off", {})


def test_the_probe_takes_every_fused_kernel(untried: None) -> None:
    table = ops_table(torch.device("npu"))
    assert not table.off
    assert {name for name, variant in table.chosen.items() if variant == ASCEND} == {
        operation.name for operation in FUSED
    }


@pytest.mark.parametrize(
    ("kernel", "operation"),
    [("npu_rms_norm_backward", "rms_norm"), ("npu_add_rms_norm", "add_norm"),
     ("npu_swiglu", "swiglu"),
     ("npu_rotary_mul", "rotated_qkv"), ("npu_fusion_attention", "attention"),
     ("npu_fusion_attention_grad", "attention"), ("npu_scatter_pa_kv_cache", "cache"),
     ("npu_fused_infer_attention_score", "cache"), ("npu_grouped_matmul", "grouped_linear"),
     ("npu_top_k_top_p", "draw")],
)  # fmt: skip
@pytest.mark.parametrize("fault", ["wrong numbers", "an error"])
def test_a_kernel_that_fails_on_a_card_is_switched_off_and_named(
    kernel: str, operation: str, fault: str, untried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(formulas, kernel)

    def wrong(*args: object, **named: object) -> object:
        if fault == "an error":
            raise RuntimeError("EZ9999: Inner Error!")
        if kernel == "npu_scatter_pa_kv_cache":
            args[0].mul_(1.5)  # type: ignore[attr-defined]
            return right(*args, **named)
        found = right(*args, **named)
        return (found[0] * 1.5, *found[1:]) if isinstance(found, tuple) else found * 1.5

    monkeypatch.setitem(formulas.COMPUTES, kernel, wrong)
    table = ops_table(torch.device("npu"))
    (off,) = [text for text in table.off if text.startswith(f"{operation}={ASCEND}: ")]
    assert ("EZ9999" in off) == (fault == "an error")
    assert table.chosen[operation] != ASCEND


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_training_gives_the_losses_of_the_cpu(
    policy: Recompute, full: bool, tmp_path: Path, fused: None
) -> None:
    recipe, way = replace(RECIPE, total_steps=4), replace(STEP_PLAN, recompute=policy)

    def losses(device: str) -> list[float]:
        run = trainer(tmp_path / device, recipe, full=full, device=device, step_plan=way)
        return [event.loss for event in run.run() if isinstance(event, StepDone)]

    with recording() as record:
        on_npu = losses("npu")
    assert record.operations["npu::npu_fusion_attention_grad"]
    assert on_npu == pytest.approx(losses("cpu"), rel=2e-5)


def answers(device: str, *, with_adapters: bool) -> list[list[Output]]:
    """Prompts of more pages than one, read in chunks beside requests that decode."""
    model = varied_model(device=device).to(torch.bfloat16)
    adapters = [random_adapter(n, model) if n and with_adapters else None for n in range(3)]
    wanted = replace(GREEDY, logprobs=1, max_tokens=6)
    requests = [
        Request(
            prompt=random_prompt(number, length),
            sampling=wanted,
            adapter=adapter,
            prompt_logprobs=1,
        )
        for number, (adapter, length) in enumerate(zip(adapters, (3, 300, 70), strict=True))
    ]
    return run_all(Engine(model, tokenizer(), prompt_tokens_per_step=50), requests)


@pytest.mark.parametrize("with_adapters", [False, True], ids=["plain", "adapters"])
def test_answers_are_those_of_the_cpu(with_adapters: bool, fused: None) -> None:
    with recording() as record:
        on_npu = answers("npu", with_adapters=with_adapters)
    assert record.operations["npu::npu_fused_infer_attention_score"]
    assert not record.operations["aten::_softmax"]
    on_cpu = answers("cpu", with_adapters=with_adapters)
    for there, here in zip(on_npu, on_cpu, strict=True):
        # bf16 rounds at other places, and a token that is chosen otherwise changes what follows.
        prompts = [
            [one.logprob for out in outs for one in out.prompt_logprobs] for outs in (there, here)
        ]
        assert prompts[0] == pytest.approx(prompts[1], abs=0.1)
        firsts = [next(one for out in outs for one in out.logprobs) for outs in (there, here)]
        assert firsts[0].logprob == pytest.approx(firsts[1].logprob, abs=0.1)
        assert tokens_of(there)


@pytest.mark.parametrize("with_adapter", [False, True], ids=["plain", "adapter"])
def test_without_gradients_norms_add_and_the_numbers_are_those_of_training(
    with_adapter: bool, fused: None
) -> None:
    config, model = tiny_model(device="npu", num_hidden_layers=3)
    adapter = packed.random_adapter(LoraConfig(r=4), config, device="npu")
    linear = AdapterLinear(adapter) if with_adapter else plain_linear
    tokens = packed.random_tokens(config, 12).to("npu")
    attend = packed.packed_attention(config, [5, 7], "npu")
    learned = model(tokens, attend, linear)
    with torch.no_grad(), recording() as record:
        answered = model(tokens, attend, linear)
    assert record.operations["npu::npu_add_rms_norm"] == 5
    assert torch.allclose(answered.cpu(), learned.detach().cpu(), rtol=1e-5, atol=1e-5)


def test_more_segments_than_a_kernel_takes_are_attended_to_in_groups(fused: None) -> None:
    lengths = [1 + n % 2 for n in range(1500)]
    q, k, v = (torch.randn(sum(lengths), heads, 16).to("npu") for heads in (4, 2, 2))
    there = ATTENTION.on(torch.device("npu"))(q, k, v, Segments.of(lengths, "npu"))
    here = [part.cpu() for part in (q, k, v)]
    expected = ATTENTION.variants["reference"](*here, Segments.of(lengths, "cpu"))
    assert torch.allclose(there.cpu(), expected, atol=1e-5)


def test_an_older_torch_npu_without_a_kernel_computes_without_it(
    untried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_args: object, **_named: object) -> Tensor:
        raise AttributeError("'_OpNamespace' 'npu' object has no attribute 'npu_rms_norm'")

    monkeypatch.setattr(torch.ops.npu, "npu_rms_norm", absent)
    table = ops_table(torch.device("npu"))
    assert table.chosen["rms_norm"] == "torch"
    assert any("no attribute 'npu_rms_norm'" in text for text in table.off)
    assert table.chosen["swiglu"] == ASCEND


def test_a_process_that_trains_records_nothing_and_nobody_is_alarmed(
    untried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASK_QUEUE_ENABLE", "2")
    table = ops_table(torch.device("npu"))
    assert table.chosen["graph"] == "reference"
    assert not table.off


def test_a_chip_without_bfloat16_is_tried_in_float16(
    untried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.npu, "is_bf16_supported", lambda: False)
    with recording() as record:
        table = ops_table(torch.device("npu"))
    assert not table.off
    assert table.chosen["attention"] == ASCEND
    assert torch.float16 in record.dtypes
    assert torch.bfloat16 not in record.dtypes


@pytest.mark.parametrize("bits", [8, 4])
def test_a_matrix_with_more_outputs_than_the_kernel_takes(bits: int, fused: None) -> None:
    """As Qwen3's output matrix; its rows are stored in pieces that lie across two matrices."""
    weight = torch.randn(70_000, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(2)).bfloat16()
    with recording() as record, torch.no_grad():
        there = product(bits, x.to("npu"), quantized(bits, weight.to("npu"))).cpu()
        with taken(OPERATIONS[bits], REFERENCE):  # the CPU's own finds other levels
            here = product(bits, x, quantized(bits, weight))
    assert record.operations["npu::npu_weight_quant_batchmatmul"] == 2
    error = (there[:, :70_000] - here[:, :70_000]).float().abs().max()
    assert error <= 0.02 * here.float().abs().max()
    assert not there[:, 70_000:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_int4_has_the_gradient_of_its_floats(dtype: torch.dtype, fused: None) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, x, upstream = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((200, 96), (7, 96), (7, 256))
    )
    weight[3] = 0.5  # a row whose weights are all alike
    gradients = []
    for device in ("npu", "cpu"):
        leaf = x.to(device).requires_grad_()
        with taken(OPERATIONS[4], REFERENCE):  # on the CPU: scales in fp32, as there
            y = product(4, leaf, quantized(4, weight.to(device)))
        (gradient,) = torch.autograd.grad(y, leaf, upstream.to(device)[:, : y.shape[1]])
        gradients.append((y.detach().cpu()[:, :200], gradient.cpu()))
    for there, here in zip(*gradients, strict=True):
        assert (there - here).float().abs().max() <= 0.02 * here.float().abs().max()
