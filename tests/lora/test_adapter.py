"""Adapters: settings, start values, and several of them in one batch."""

from __future__ import annotations

import pytest
import torch

from danlu.errors import UsageError
from danlu.lora.adapter import ALL_TARGETS, Adapter, LoraConfig, target_list
from danlu.lora.bank import AdapterBank
from danlu.lora.linear import AdapterLinear
from danlu.model.qwen3 import plain_linear
from tests.helpers.models import tiny_engine
from tests.helpers.models.logits import logits
from tests.helpers.models.packed import packed_logits, random_adapter, random_tokens
from tests.helpers.models.tiny_model import tiny_model

CPU = torch.device("cpu")


def new_adapter(seed: int, targets: tuple[str, ...] = ALL_TARGETS) -> Adapter:
    config = LoraConfig(r=4, target_modules=targets)
    adapter = Adapter(config, tiny_model()[0], device=CPU, dtype=torch.float32)
    adapter.initialise(seed)
    return adapter


def test_a_new_adapter_changes_nothing() -> None:
    config, model = tiny_model()
    tokens = random_tokens(config, 8)
    with torch.no_grad():
        with_adapter = packed_logits(model, tokens, [8], AdapterLinear(new_adapter(0)))
        assert torch.equal(with_adapter, packed_logits(model, tokens, [8]))


def test_start_values_follow_the_seed_and_not_the_other_targets() -> None:
    first = {(layer, name): a for layer, name, a, _b in new_adapter(1).tensors()}
    fewer = new_adapter(1, ("v_proj", "up_proj"))
    for layer, name, a, b in fewer.tensors():
        assert torch.equal(a, first[layer, name])
        assert not b.any()
    assert not torch.equal(first[0, "q_proj"], first[1, "q_proj"])
    assert not torch.equal(next(iter(new_adapter(2).tensors()))[2], first[0, "q_proj"])


def test_a_is_uniform_within_the_bound_of_peft() -> None:
    for _layer, _name, a, _b in new_adapter(0).tensors():
        bound = a.shape[1] ** -0.5
        assert 0.9 * bound < a.abs().max().item() <= bound


def test_counts_its_trainable_numbers() -> None:
    config = tiny_model()[0]
    adapter = new_adapter(0, ("q_proj", "down_proj"))
    per_layer = 4 * (config.hidden_size + config.q_size)
    per_layer += 4 * (config.intermediate_size + config.hidden_size)
    assert adapter.num_parameters() == config.num_hidden_layers * per_layer


@pytest.mark.parametrize("rslora", [True, False])
def test_scaling(rslora: bool) -> None:
    assert LoraConfig(r=16, lora_alpha=32, use_rslora=rslora).scaling == (8.0 if rslora else 2.0)


def test_targets_are_read_in_any_order() -> None:
    assert target_list("all") == ALL_TARGETS
    assert target_list("v_proj, q_proj,v_proj") == ("q_proj", "v_proj")
    assert target_list(["up_proj"]) == ("up_proj",)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": target_list("q_proj,w_proj")},
        {"target_modules": ()},
        {"r": 0},
        {"lora_dropout": 1.0},
        {"lora_dropout": -0.1},
    ],
    ids=str,
)
def test_settings_that_cannot_be_used(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        LoraConfig(**settings)  # type: ignore[arg-type]
    if "w_proj" in str(settings):
        assert "w_proj" in caught.value.what


def test_a_bank_gives_each_run_of_tokens_its_own_adapter() -> None:
    config, model = tiny_model()
    adapters = [
        random_adapter(LoraConfig(r=4), config, seed=1),
        None,
        random_adapter(LoraConfig(r=2, target_modules=("v_proj", "down_proj")), config, seed=2),
    ]
    lengths = [5, 3, 7]
    tokens = random_tokens(config, sum(lengths))
    bank = AdapterBank(list(zip(adapters, lengths, strict=True)))
    with torch.no_grad():
        together = packed_logits(model, tokens, lengths, bank).split(lengths)
        for part, adapter, got in zip(tokens.split(lengths), adapters, together, strict=True):
            linear = plain_linear if adapter is None else AdapterLinear(adapter)
            expected = packed_logits(model, part, [len(part)], linear)
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_strength_goes_from_the_base_over_the_adapter_to_twice_of_it() -> None:
    _config, model = tiny_model()
    tokens = list(range(5, 13))
    adapter = tiny_engine.random_adapter(1, model)
    twice = tiny_engine.random_adapter(1, model)
    for _layer, _name, _a, b in twice.tensors():
        b.mul_(2)
    as_trained = logits(model, tokens, adapter)
    assert not torch.equal(as_trained, logits(model, tokens))
    assert torch.equal(logits(model, tokens, adapter.scaled(0.0)), logits(model, tokens))
    assert torch.equal(logits(model, tokens, adapter.scaled(1.0)), as_trained)
    torch.testing.assert_close(
        logits(model, tokens, adapter.scaled(2.0)), logits(model, tokens, twice)
    )
    # The adapter itself is as it was: others answer with it meanwhile.
    assert torch.equal(logits(model, tokens, adapter), as_trained)
