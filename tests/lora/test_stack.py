"""Several adapters side by side: each token gets its own, whichever came, went or came again."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from danlu.lora.adapter import ALL_TARGETS, Adapter, LoraConfig
from danlu.lora.bank import AdapterBank
from danlu.lora.stack import MOST_STACKED, AdapterStack, StackedLinear
from tests.helpers.models.packed import packed_logits, random_adapter, random_tokens
from tests.helpers.models.tiny_model import EXPERTS, tiny_model

CONFIG, MODEL = tiny_model()
SOME = ("v_proj", "down_proj")


def adapter(seed: int, r: int = 4, targets: tuple[str, ...] = ALL_TARGETS) -> Adapter:
    return random_adapter(LoraConfig(r=r, target_modules=targets), CONFIG, seed=seed)


def stack() -> AdapterStack:
    return AdapterStack(CONFIG, device=torch.device("cpu"), dtype=torch.float32)


def by_stack(held: AdapterStack, adapters: Sequence[Adapter | None]) -> list[Tensor]:
    """Logits of three tokens by each adapter, in the order given."""
    assert held.hold([one for one in adapters if one is not None])
    order = sorted(range(len(adapters)), key=lambda n: held.places([adapters[n]]))
    counts = torch.zeros(held.matrices.num_places, dtype=torch.int64)
    for place in held.places(adapters):
        counts[place] += 3
    lengths = [3] * len(adapters)
    linear = StackedLinear(held.matrices, counts.cumsum(0))
    with torch.no_grad():
        found = packed_logits(MODEL, tokens(len(adapters)), lengths, linear).split(lengths)
    return [found[order.index(n)] for n in range(len(adapters))]


def tokens(count: int) -> Tensor:
    """The same three tokens for each."""
    return random_tokens(CONFIG, 3).repeat(count)


def one_by_one(adapters: Sequence[Adapter | None]) -> list[Tensor]:
    with torch.no_grad():
        return [packed_logits(MODEL, tokens(1), [3], AdapterBank.of_one(one)) for one in adapters]


def check(held: AdapterStack, adapters: Sequence[Adapter | None]) -> None:
    for got, expected in zip(by_stack(held, adapters), one_by_one(adapters), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_each_token_gets_its_adapter_or_none() -> None:
    check(stack(), [adapter(1), None, adapter(2, r=2, targets=SOME), adapter(3, r=8), None])


def test_without_an_adapter_of_a_request_the_numbers_are_the_plain_ones() -> None:
    held = stack()
    held.hold([adapter(1)])
    (got,) = by_stack(held, [None])
    assert torch.equal(got, one_by_one([None])[0])


def test_what_is_recorded_stays_right_while_adapters_of_the_same_size_change_places() -> None:
    held, adapters = stack(), [adapter(n) for n in range(MOST_STACKED)]
    check(held, adapters)
    there = held.matrices
    newcomer = adapter(99, r=2, targets=SOME)  # leaves nothing of what stood there
    held.hold(adapters[1:])
    check(held, [newcomer, adapters[7]])
    assert held.matrices is there
    check(held, [adapters[0], newcomer, None])  # comes back to another place
    assert held.matrices is there


@pytest.mark.parametrize("bigger", [adapter(5, r=16), adapter(6)], ids=["rank", "targets"])
def test_a_bigger_adapter_gets_a_stack_that_holds_it(bigger: Adapter) -> None:
    held, small = stack(), adapter(1, r=2, targets=SOME)
    check(held, [small])
    there = held.matrices
    check(held, [small, bigger])
    assert held.matrices is not there


def test_more_than_a_step_can_have_are_refused_and_the_others_stay() -> None:
    held, adapters = stack(), [adapter(n, targets=SOME) for n in range(MOST_STACKED + 1)]
    check(held, adapters[:2])
    assert not held.hold(adapters)
    check(held, adapters[:2])


def test_nobody_keeps_an_adapter_that_has_gone() -> None:
    held, adapters = stack(), [adapter(1), adapter(2)]
    check(held, adapters)
    held.forget(adapters[0])
    check(held, adapters[1:])
    held.forget(adapters[1])
    assert not held.matrices.pairs
    check(held, [adapter(3)])
    gc.collect()
    check(held, [adapter(4)])
    assert held.matrices.num_places == 2


def test_where_memory_does_not_suffice_it_holds_nothing_and_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held, adapters = stack(), [adapter(1), adapter(2)]
    check(held, adapters[:1])

    def full(*_shape: object, **_named: object) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", full)
        with pytest.raises(torch.OutOfMemoryError):
            held.hold(adapters)
    assert not held.matrices.pairs
    check(held, adapters)


def test_an_adapter_that_cannot_be_brought_in_keeps_no_other_out() -> None:
    held, one = stack(), adapter(1)
    foreign = random_adapter(LoraConfig(), tiny_model(hidden_size=32)[0], seed=2)
    with pytest.raises(RuntimeError):
        held.hold([one, foreign])
    check(held, [one, None])


def test_rows_of_experts_get_the_adapter_of_their_token() -> None:
    config, model = tiny_model(num_hidden_layers=3, experts=EXPERTS)
    few = LoraConfig(r=2, target_modules=("up_proj", "down_proj"))
    made = [
        random_adapter(one, config, seed) for seed, one in enumerate([LoraConfig(r=4), few, few])
    ]
    held = AdapterStack(config, device=torch.device("cpu"), dtype=torch.float32)
    lengths = [5, 9, 1, 6]
    tokens = random_tokens(config, sum(lengths))
    for two in (made[:2], made[1:]):  # the last takes the first one's place, or another
        assert held.hold(two)
        adapters = sorted([None, *two], key=lambda one: held.places([one]))
        adapters.append(adapters[-1])
        counts = torch.zeros(held.matrices.num_places, dtype=torch.int64)
        for place, length in zip(held.places(adapters), lengths, strict=True):
            counts[place] += length
        with torch.no_grad():
            linear = StackedLinear(held.matrices, counts.cumsum(0))
            found = packed_logits(model, tokens, lengths, linear)
            bank = AdapterBank(list(zip(adapters, lengths, strict=True)))
            expected = packed_logits(model, tokens, lengths, bank)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_of_many_experts_fewer_adapters_stand_side_by_side() -> None:
    config = replace(CONFIG, experts=replace(EXPERTS, num_experts=128))
    held = AdapterStack(config, device=torch.device("cpu"), dtype=torch.float32)
    assert not held.hold([adapter(1)] * MOST_STACKED)
