"""Every operation against its readable twin: values and gradients, in fp32 and in bf16."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from danlu import ops
from danlu.ops import reference

# Largest error allowed, as a share of the largest value (or of 1, the size of the inputs).
# In fp32 only the order of sums differs.
# A bf16 number carries 8 bits: half a step is 2^-9 = 0.2 %, and a few roundings follow each other.
SHARE = {torch.float32: 2e-6, torch.bfloat16: 0.02}
both_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"]
)

Operation = Callable[..., Tensor]


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(dtype).requires_grad_()


def values_and_gradients(
    operation: Operation, tensors: list[Tensor], *rest: object
) -> list[Tensor]:
    """The result, then the gradient of every tensor under a fixed random upstream gradient."""
    result = operation(*tensors, *rest)
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(7))
    return [result.detach(), *torch.autograd.grad(result, tensors, upstream.to(result.dtype))]


def check(ours: Operation, twin: Operation, tensors: list[Tensor], *rest: object) -> None:
    """Compare in the dtype of the tensors with the twin computed in fp32 from the same numbers."""
    dtype = tensors[0].dtype
    wide = [t.detach().float().requires_grad_() for t in tensors]
    got = values_and_gradients(ours, tensors, *rest)
    expected = values_and_gradients(twin, wide, *rest)
    for index, (g, e) in enumerate(zip(got, expected, strict=True)):
        if index:
            assert g.dtype == dtype
        error = (g.float() - e).abs().max().item()
        assert error <= SHARE[dtype] * max(e.abs().max().item(), 1.0), f"output {index}: {error}"


@both_dtypes
@pytest.mark.parametrize("shape", [(1, 64), (5, 3, 32), (0, 64), (257, 128)])
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = random(*shape, dtype=dtype), random(shape[-1], dtype=dtype)
    if not x.numel():
        assert ops.rms_norm(x, weight, 1e-6).shape == shape
        return
    check(ops.rms_norm, reference.rms_norm, [x, weight], 1e-6)


def test_rms_norm_of_zeros_is_zero_with_a_finite_gradient() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    ops.rms_norm(x, torch.ones(8), 1e-6).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_rms_norm_in_bf16_rounds_like_the_published_model() -> None:
    """The twin rounds where Hugging Face's model does; only the order of sums may differ."""
    x, weight = random(64, 128, dtype=torch.bfloat16), random(128, dtype=torch.bfloat16)
    ours, twin = (f(x, weight, 1e-6) for f in (ops.rms_norm, reference.rms_norm))
    assert (ours != twin).float().mean().item() < 1e-3


@both_dtypes
@pytest.mark.parametrize("shape", [(1, 2), (7, 64), (130, 192)])
def test_swiglu(shape: tuple[int, int], dtype: torch.dtype) -> None:
    check(ops.swiglu, reference.swiglu, [random(*shape, dtype=dtype)])


def test_swiglu_far_from_zero() -> None:
    gate_up = torch.tensor([[-200.0, 200.0, 3.0, 3.0]], requires_grad=True)
    check(ops.swiglu, reference.swiglu, [gate_up])


@both_dtypes
@pytest.mark.parametrize(("tokens", "heads", "head_dim"), [(1, 1, 2), (9, 4, 32), (33, 3, 128)])
def test_norm_rotate(tokens: int, heads: int, head_dim: int, dtype: torch.dtype) -> None:
    x, weight = random(tokens, heads, head_dim, dtype=dtype), random(head_dim, dtype=dtype)
    positions = torch.arange(tokens) * 131  # far positions too
    cos, sin = ops.rotary_table(positions, head_dim, 1e6)
    check(ops.norm_rotate, reference.norm_rotate, [x, weight], 1e-6, cos, sin)


def test_norm_rotate_of_a_slice_of_the_merged_projection() -> None:
    """q and k are views of one wide tensor: not contiguous."""
    wide = random(6, 3 * 64)
    q = wide[:, 64:128].view(6, 2, 32)
    cos, sin = ops.rotary_table(torch.arange(6), 32, 1e4)
    weight = random(32)
    expected = reference.norm_rotate(q, weight, 1e-6, cos, sin)
    torch.testing.assert_close(ops.norm_rotate(q, weight, 1e-6, cos, sin), expected)


def test_rotary_table_is_that_of_the_paper() -> None:
    cos, sin = ops.rotary_table(torch.tensor([0, 5]), 4, 100.0)
    angles = torch.tensor([[0.0, 0.0], [5.0, 0.5]])
    torch.testing.assert_close(cos, angles.cos())
    torch.testing.assert_close(sin, angles.sin())


@both_dtypes
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("lengths", [[1], [12], [1, 5, 1, 9], [3, 3, 3]])
def test_segment_attention(
    heads: int, kv_heads: int, lengths: list[int], dtype: torch.dtype
) -> None:
    tokens = sum(lengths)
    tensors = [
        random(tokens, n, 16, dtype=dtype, seed=i)
        for i, n in enumerate((heads, kv_heads, kv_heads))
    ]
    ours = lambda q, k, v: ops.segment_attention(q, k, v, lengths)  # noqa: E731
    twin = lambda q, k, v: reference.segment_attention(q, k, v, lengths)  # noqa: E731
    check(ours, twin, tensors)


@both_dtypes
@pytest.mark.parametrize(
    "spans", [[(0, 9)], [(30, 39)], [(20, 24), (3, 8)], [(5, 6), (9, 16), (1, 2)]]
)
@pytest.mark.parametrize("queries", [1, 2, 9])
def test_cached_attention_is_the_end_of_the_full_pass(
    queries: int, spans: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    q, k, v = (random(9, heads, 16, seed=heads, dtype=dtype).detach() for heads in (4, 2, 2))
    keys, values = (torch.full((2, 40, 16), torch.nan, dtype=dtype) for _ in range(2))
    slots = [slot for start, end in spans for slot in range(start, end)]
    keys[:, slots], values[:, slots] = k.transpose(0, 1), v.transpose(0, 1)
    ours = ops.cached_attention(q[9 - queries :], keys, values, spans)
    twin = reference.segment_attention(q.float(), k.float(), v.float(), [9])
    torch.testing.assert_close(
        ours.float(), twin[9 - queries :], atol=SHARE[dtype], rtol=SHARE[dtype]
    )


@both_dtypes
@pytest.mark.parametrize(("rows", "vocab"), [(1, 2), (5, 300)])
def test_cross_entropy(rows: int, vocab: int, dtype: torch.dtype) -> None:
    targets = torch.arange(rows) % vocab
    check(
        ops.cross_entropy_sum,
        reference.cross_entropy_sum,
        [random(rows, vocab, dtype=dtype)],
        targets,
    )


def test_cross_entropy_leaves_its_input_alone() -> None:
    logits = random(3, 8)
    before = logits.detach().clone()
    ops.cross_entropy_sum(logits, torch.tensor([1, 2, 3])).backward()
    assert torch.equal(logits, before)


def test_cross_entropy_of_huge_logits_is_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    check(ops.cross_entropy_sum, reference.cross_entropy_sum, [logits], torch.tensor([2]))


def test_frozen_weights_cost_no_gradient() -> None:
    """Norm weights stay frozen with LoRA: their gradient is not even computed."""
    x, weight = random(4, 8), torch.ones(8)
    ops.rms_norm(x, weight, 1e-6).sum().backward()
    assert weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 5), (1025, 1031)])  # within one piece, and beyond
def test_accumulate_adds_as_torch_does(shape: tuple[int, int], dtype: torch.dtype) -> None:
    total, addend = random(*shape).detach(), random(*shape, seed=1).detach().to(dtype)
    expected = total + addend
    ops.accumulate(total, addend)
    assert torch.equal(total, expected)


def test_without_gradients_no_backward_pass_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(3, 2, 8), torch.randn(8)
    cos, sin = ops.rotary_table(torch.arange(3), 8, 1e4)
    gate_up = torch.randn(3, 16)

    def computed() -> list[Tensor]:
        return [
            ops.rms_norm(x, weight, 1e-6),
            ops.norm_rotate(x, weight, 1e-6, cos, sin),
            ops.swiglu(gate_up),
        ]

    expected = computed()
    monkeypatch.setattr(
        torch.autograd.Function, "apply", classmethod(lambda *_given: pytest.fail("set up"))
    )
    with torch.no_grad():
        for value, same in zip(computed(), expected, strict=True):
            assert torch.equal(value, same)
