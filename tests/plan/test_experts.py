"""Plans for models with experts: what is kept and trained, and what a token is computed with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from danlu.device.datasheets import CATALOGUE, cpu_facts
from danlu.errors import UsageError
from danlu.hub.catalogue.needs import needs
from danlu.lora.adapter import ALL_TARGETS, Adapter, LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.config import ModelConfig, WeightForm
from danlu.model.quantized import quantized_bytes
from danlu.model.qwen3 import Linear, Qwen3, plain_linear
from danlu.model.recompute import POLICIES, Recompute
from danlu.model.sizes import num_active_parameters, num_parameters, published_config
from danlu.plan.choose import Plan, choose
from danlu.plan.job import BatchShape, Job
from danlu.plan.memory import kept_per_token, piece_bytes
from danlu.plan.speed import useful_flops
from danlu.plan.workload import ExampleShape, Workload
from tests.helpers.models.packed import packed_attention, random_adapter, random_tokens
from tests.helpers.models.tiny_model import EXPERTS, TINY, tiny_model
from tests.helpers.training.saved_bytes import counting_saved

CPU = cpu_facts(description="cpu", memory_bytes=2**34, threads=2, has_fast_bf16=True)
ALL = LoraConfig(r=4)
SOME = LoraConfig(r=4, target_modules=("q_proj", "v_proj", "up_proj"))
LENGTHS = [60, 30, 70]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lora", [ALL, SOME, None], ids=["lora", "some", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("dense", [(), (1, 2)], ids=["everywhere", "in half of the layers"])
def test_what_is_kept_is_what_was_predicted(
    policy: Recompute, lora: LoraConfig | None, dtype: torch.dtype, dense: tuple[int, ...]
) -> None:
    experts = replace(EXPERTS, norm_topk_prob=True, mlp_only_layers=dense)
    config, model = tiny_model(num_hidden_layers=4, experts=experts)
    model.to(dtype)
    linear: Linear = plain_linear
    known = list(model.parameters())
    if lora is None:
        model.requires_grad_(True)
    else:
        adapter = random_adapter(lora, config)
        known += [parameter for _name, parameter in adapter.parameters()]
        keeps = policy not in ("selective", "gate_up")
        linear = AdapterLinear(adapter, keeps_normed=keeps)
    with counting_saved(ignore=known) as saved:
        model(
            random_tokens(config, sum(LENGTHS)),
            packed_attention(config, LENGTHS),
            linear,
            policy,
        )
    ranks = None if lora is None else dict.fromkeys(lora.target_modules, lora.r)
    job = Job(config=config, number_bytes=dtype.itemsize, ranks=ranks)
    tokens = sum(LENGTHS)
    shape = BatchShape(tokens=tokens, targets=tokens // 2, squares=0, segments=len(LENGTHS))
    predicted = 4 * kept_per_token(job, policy, CPU, shape) * tokens
    # Which rows belong to which expert is kept beside what autograd keeps, which is counted here.
    rows = (4 - len(dense)) * 4 * 8 * experts.num_experts_per_tok * tokens
    # The rotation's table and the token ids are kept once; the plan has them elsewhere.
    once = tokens * (config.head_dim * 4 + 8)
    assert predicted - rows <= saved.num_bytes <= predicted + once


def test_what_is_trained_is_counted() -> None:
    for experts in (EXPERTS, replace(EXPERTS, mlp_only_layers=())):
        config = replace(TINY, num_hidden_layers=3, experts=experts)
        for targets in (ALL_TARGETS, ("q_proj", "down_proj")):
            lora = LoraConfig(r=4, target_modules=targets)
            adapter = Adapter(lora, config, device=torch.device("meta"), dtype=torch.float32)
            job = Job(config=config, number_bytes=2, ranks=dict.fromkeys(targets, 4))
            assert job.num_trained == adapter.num_parameters()
        whole = Qwen3(config, device=torch.device("meta"), dtype=torch.float32)
        numbers = sum(parameter.numel() for parameter in whole.parameters())
        assert num_parameters(config) == numbers
        job = Job(config=config, number_bytes=2, ranks=None)
        assert job.num_trained == numbers


def test_a_token_is_computed_with_its_own_experts() -> None:
    """Of 8 experts a token has 2: the rest costs memory, but no operations."""
    config = replace(TINY, experts=replace(EXPERTS, mlp_only_layers=()))
    more = replace(config, experts=replace(EXPERTS, mlp_only_layers=(), num_experts=32))
    shape = BatchShape(tokens=64, targets=0, squares=0, segments=1)
    flops = [
        useful_flops(Job(config=one, number_bytes=2, ranks=dict.fromkeys(ALL_TARGETS, 4)), shape)
        for one in (config, more)
    ]
    assert flops[0] == flops[1]
    router = config.num_hidden_layers * 24 * config.hidden_size
    assert num_active_parameters(more) == num_active_parameters(config) + router
    assert num_parameters(more) > 2 * num_parameters(config)


def published(name: str) -> ModelConfig:
    config = published_config(name)
    assert config is not None
    return config


def test_adapters_on_all_experts_of_the_published_models() -> None:
    job = Job(
        config=published("Qwen3-30B-A3B"), number_bytes=2, ranks=dict.fromkeys(ALL_TARGETS, 8)
    )
    of_experts = 48 * 128 * 8 * 3 * (2048 + 768)
    of_attention = 48 * 8 * (2 * (2048 + 4096) + 2 * (2048 + 512))
    assert job.num_trained == of_experts + of_attention
    assert job.num_trained_active == of_experts // 16 + of_attention


@pytest.mark.parametrize(("form", "fits"), [(None, False), ("int8", True), ("int4", True)])
def test_thirty_billion_learn_on_one_card_of_64_gb_in_few_bits(
    form: WeightForm | None, fits: bool
) -> None:
    """Of all experts of a layer the 16-bit numbers are counted, for the time of a product."""
    config, card = published("Qwen3-30B-A3B"), CATALOGUE["ascend-910b-64g"]
    row = ExampleShape(tokens=1024, targets=340)
    work = Workload(steps=[[row] * 16], evaluation=[], total_steps=10, num_evaluations=0)
    job = Job(config=config, number_bytes=2, ranks=dict.fromkeys(ALL_TARGETS, 8), base_form=form)
    found = choose(job, work, card, budget_bytes=card.memory_bytes)
    assert isinstance(found, Plan) == fits
    if form is not None:
        assert piece_bytes(job, card) > 128 * 2 * 768 * 2048 * 2


def test_experts_have_no_fp8() -> None:
    config = replace(TINY, experts=EXPERTS)
    with pytest.raises(UsageError, match="fp8") as caught:
        Job(config=config, number_bytes=2, ranks=dict.fromkeys(ALL_TARGETS, 4), base_form="fp8")
    assert caught.value.fix == "--fp8 false"


def test_experts_in_few_bits_take_a_share_of_the_memory() -> None:
    config = published("Qwen3-30B-A3B")
    sizes = [quantized_bytes(config, torch.bfloat16, form) for form in (None, "int8", "int4")]
    assert sizes[0] == 61_064_245_248
    assert 0.5 < sizes[1] / sizes[0] < 0.55
    assert 0.28 < sizes[2] / sizes[0] < 0.34


@pytest.mark.parametrize(("device", "fits"), [("h200-141g", True), ("ascend-910b-64g", False)])
def test_lora_on_the_smaller_one_by_card(device: str, fits: bool) -> None:
    """Weights of 57 GiB, and 7 for an adapter on all experts with what AdamW keeps of it."""
    card = CATALOGUE[device]
    found = needs(published("Qwen3-30B-A3B"), card, card.memory_bytes)["lora"]
    assert found.fits == fits
    assert 60 << 30 < found.num_bytes < 75 << 30


@pytest.mark.parametrize(
    ("device", "form", "fits"),
    [
        ("ascend-910b-64g", "int8", True),
        ("rtx-4090-24g", "int4", True),
        ("rtx-4090-24g", "int8", False),
    ],
)
def test_answers_in_few_bits_by_card(device: str, form: str, fits: bool) -> None:
    """A card multiplies with experts' weights as they are stored: no floats are there beside."""
    card = CATALOGUE[device]
    found = needs(published("Qwen3-30B-A3B"), card, card.memory_bytes)[f"chat_{form}"]
    assert found.fits == fits
