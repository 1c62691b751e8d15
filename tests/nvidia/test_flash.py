"""One call for a whole packed batch: what is asked of kernels that are not here.

FlashAttention 3 and 4 are played by modules that compute with the readable twin, for 16 bits and
heads of 64 and 128 as they do, and that take their arguments by the names that both have.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu import ops
from danlu.device.variants import FLASH, FLASH3, FLASH4, attention_facts, preferred_variants
from danlu.errors import EnvironmentFault
from danlu.ops import Segments, choice, reference, take_variants
from danlu.ops.attention import ATTENTION, each_segment
from danlu.ops.nvidia.flash import _function
from tests.helpers.models.counting import Counting

LENGTHS = (5, 1, 18)
CPU = torch.device("cpu")
MODULES = {FLASH3: "flash_attn_interface", FLASH4: "flash_attn.cute"}


def packed(device: str, dtype: torch.dtype = torch.bfloat16) -> list[Any]:
    q, merged = (
        torch.ones(sum(LENGTHS), heads, 16, device=device, dtype=dtype, requires_grad=True)
        for heads in (4, 8)
    )
    offsets = torch.tensor([0, 5, 6, 24], dtype=torch.int32, device=device)
    return [q, merged[:, 4:6], merged[:, 6:], Segments(lengths=LENGTHS, offsets=offsets)]


def test_all_segments_are_one_call_each_way() -> None:
    q, k, v, segments = packed("meta")
    with Counting() as counting:
        out = ATTENTION.variants[FLASH](q, k, v, segments)
        assert out.shape == (24, 64)
        gradients = torch.autograd.grad(out, [q, k, v], torch.empty_like(out))
    assert [part.shape for part in gradients] == [q.shape, k.shape, v.shape]
    attention = {name: n for name, n in counting.started.items() if "attention" in name}
    assert attention == {"_flash_attention_forward": 1, "_flash_attention_backward": 1}
    assert counting.started.total() == 2


def test_it_is_causal_without_dropout_from_where_segments_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, k, v, segments = packed("cpu")
    schema = torch.ops.aten._flash_attention_forward.default._schema
    seen = []

    def kernel(*arguments: Any, **named: Any) -> list[Any]:
        seen.append({a.name: b for a, b in zip(schema.arguments, arguments, strict=False)} | named)
        return [arguments[0]]

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", kernel)
    ATTENTION.variants[FLASH](q, k, v, segments)
    (asked,) = seen
    assert asked["query"] is q
    assert asked["cum_seq_q"] is asked["cum_seq_k"] is segments.offsets
    assert (asked["max_q"], asked["max_k"], asked["scale"]) == (18, 18, 0.25)
    assert (asked["dropout_p"], asked["is_causal"]) == (0.0, True)


def test_fp32_is_attended_to_without_it() -> None:
    arguments = packed("cpu", torch.float32)
    expected = ATTENTION.variants["sdpa"](*arguments)
    assert torch.equal(ATTENTION.variants[FLASH](*arguments), expected)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    """Choose attention on the CPU as on a card, a Hopper at first; no package is here."""
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    ops.ops_table(CPU)  # the other operations
    suiting = {**preferred_variants("cpu"), "attention": preferred_variants("cuda")["attention"]}
    monkeypatch.setattr(choice, "preferred_variants", lambda _kind: suiting)
    for name in ("_chosen", "off", "not_built"):
        monkeypatch.setattr(ATTENTION, name, {})
    monkeypatch.setitem(ATTENTION.variants, FLASH, each_segment)  # which runs nowhere else
    for name in ("flash_attn_interface", "flash_attn", "flash_attn.cute"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def put_in(*capability: int) -> None:
        _function.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)

    put_in(9, 0)
    yield put_in
    _function.cache_clear()


def attends(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    causal: bool,
) -> Tensor:
    if q.dtype not in (torch.float16, torch.bfloat16) or q.shape[2] not in (64, 128):
        raise RuntimeError(f"no kernel for {q.dtype} and heads of {q.shape[2]}")
    assert cu_seqlens_q is cu_seqlens_k
    assert cu_seqlens_q.dtype == torch.int32
    assert type(max_seqlen_q) is type(max_seqlen_k) is int
    assert max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
    assert softmax_scale == q.shape[2] ** -0.5
    assert causal
    return reference.segment_attention(q, k, v, cu_seqlens_q).view_as(q)


def wrong_gradient(q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> Tensor:
    return attends(q, k, v, **rest) + 0.1 * (k - k.detach()).sum()


def installed(monkeypatch: pytest.MonkeyPatch, variant: str, function: Callable[..., Any]) -> None:
    """Let a package be here, whose function this is."""
    *parents, name = [
        ".".join(MODULES[variant].split(".")[: n + 1])
        for n in range(MODULES[variant].count(".") + 1)
    ]
    for each in (*parents, name):
        monkeypatch.setitem(sys.modules, each, ModuleType(each))
    sys.modules[name].flash_attn_varlen_func = function  # type: ignore[attr-defined]


def asked(monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    monkeypatch.setenv(choice.VARIABLE, f"attention={variant}")


@pytest.mark.usefixtures("card")
def test_flash_attention_3_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def function(q: Tensor, *rest: Tensor, **named: Any) -> Tensor:
        calls.append(q.dtype)
        return attends(q, *rest, **named)

    installed(monkeypatch, FLASH3, function)
    table = ops.ops_table(CPU)
    assert "attention=flash3" in table.as_text
    assert table.off == ()
    assert set(calls) == {torch.bfloat16}  # fp32 is attended to without it
    q, k, v = (torch.randn(24, heads, 64, requires_grad=True) for heads in (4, 2, 2))
    segments = Segments.of(LENGTHS, CPU)
    halves = [part.bfloat16() for part in (q, k, v)]
    out = ops.segment_attention(*halves, segments)
    torch.testing.assert_close(out.float(), each_segment(q, k, v, segments), atol=0.03, rtol=0.03)
    assert all(each.any() for each in torch.autograd.grad(out.float().sum(), (k, v)))


@pytest.mark.usefixtures("card")
def test_one_whose_gradient_is_wrong_is_refused_and_torchs_own_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(monkeypatch, FLASH3, wrong_gradient)
    table = ops.ops_table(CPU)
    assert table.chosen["attention"] == FLASH
    assert len(table.off) == 1
    assert table.off[0].startswith("attention=flash3: its numbers are off by ")
    assert table.off[0].endswith("in bfloat16")


@pytest.mark.usefixtures("card")
def test_one_that_cannot_be_imported_is_named_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = tmp_path / "tried"
    text = f"with open({str(tried)!r}, 'a') as file:\n    file.write('.')\nimport flash_attn_3._C\n"
    (tmp_path / "flash_attn_interface.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for _again in range(2):
        table = ops.ops_table(CPU)
        assert table.chosen["attention"] == FLASH
        words = "attention=flash3: ModuleNotFoundError: No module named 'flash_attn_3'"
        assert table.off == (words,)
    assert tried.read_text(encoding="utf-8") == "."


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(
    ("variant", "package"), [(FLASH3, "flash-attn-3"), (FLASH4, "flash-attn-4")]
)
def test_where_none_is_installed_nothing_is_said_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, variant: str, package: str
) -> None:
    table = ops.ops_table(CPU)
    assert (table.chosen["attention"], table.off, table.not_built) == (FLASH, (), ())
    asked(monkeypatch, variant)
    ATTENTION._chosen.clear()
    with pytest.raises(EnvironmentFault) as fault:
        ops.ops_table(CPU)
    assert f"{package} is not installed" in str(fault.value.why)


@pytest.mark.parametrize(
    ("variant", "capability", "cards"), [(FLASH3, (8, 0), "9.x"), (FLASH4, (12, 0), "9.x, 10.x")]
)
def test_a_card_that_it_is_not_for_does_without_it(
    monkeypatch: pytest.MonkeyPatch,
    card: Callable[..., None],
    variant: str,
    capability: tuple[int, int],
    cards: str,
) -> None:
    installed(monkeypatch, variant, attends)
    card(*capability)
    assert (ATTENTION.name_on(CPU), ATTENTION.off["cpu"]) == (FLASH, [])
    asked(monkeypatch, variant)
    ATTENTION._chosen.clear()
    with pytest.raises(EnvironmentFault) as fault:
        ops.ops_table(CPU)
    assert f"for cards of compute capability {cards}." in str(fault.value.why)


@pytest.mark.parametrize("capability", [(9, 0), (10, 0)])
def test_flash_attention_4_is_taken_only_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, card: Callable[..., None], capability: tuple[int, int]
) -> None:
    card(*capability)
    installed(monkeypatch, FLASH4, lambda *tensors, **named: (attends(*tensors, **named), None))
    assert ATTENTION.name_on(CPU) == FLASH
    asked(monkeypatch, FLASH4)
    ATTENTION._chosen.clear()
    assert "attention=flash4" in ops.ops_table(CPU).as_text


@pytest.mark.usefixtures("card")
def test_a_resumed_run_attends_as_it_did_where_that_is_still_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert take_variants(CPU, {"attention": FLASH3}) == ("attention: flash3 -> flash",)
    ATTENTION._chosen.clear()
    installed(monkeypatch, FLASH3, attends)
    assert ATTENTION.name_on(CPU) == FLASH3
    assert take_variants(CPU, {"attention": FLASH}) == ()
    assert ATTENTION.name_on(CPU) == FLASH


@pytest.mark.parametrize("variant", [None, FLASH, FLASH3, FLASH4])
def test_the_plan_knows_that_it_is_one_call(variant: str | None) -> None:
    assert not attention_facts("cuda", variant).by_segment
    assert attention_facts("cuda", "sdpa").by_segment
