"""Every operation against its readable twin: values and gradients, in fp32 and in bf16."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from danlu import ops
from danlu.ops import reference
from danlu.ops.rope import ROTATED_QKV
from tests.helpers.models.variants import taken

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


def angles(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of some positions."""
    table = ops.rotary_table(
        int(positions.max()) + 1, head_dim, 1e6, device=positions.device, dtype=dtype
    )
    cos, sin = (part[positions] for part in table)
    return cos, sin


@both_dtypes
@pytest.mark.parametrize("variant", ["as_one", "in_parts"])
@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "head_dim"), [(1, 1, 1, 2), (9, 4, 2, 32), (33, 3, 1, 128)]
)
def test_rotated_qkv(
    tokens: int, heads: int, kv_heads: int, head_dim: int, variant: str, dtype: torch.dtype
) -> None:
    qkv = random(tokens, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    norms = [random(head_dim, dtype=dtype, seed=n) for n in (1, 2)]
    cos, sin = angles(torch.arange(tokens) * 131, head_dim, dtype)  # far positions too

    def joined(rotated_qkv: Callable[..., Sequence[Tensor]]) -> Operation:
        return lambda *tensors: torch.cat(
            rotated_qkv(
                *tensors, 1e-6, cos.to(tensors[0].dtype), sin.to(tensors[0].dtype), kv_heads
            ),
            dim=1,
        )

    with taken(ROTATED_QKV, variant):
        check(joined(ops.rotated_qkv), joined(reference.rotated_qkv), [qkv, *norms])


def test_q_and_k_and_v_are_the_parts_of_the_projection() -> None:
    qkv = random(6, (4 + 2 + 2) * 32).detach()
    cos, sin = torch.ones(6, 16), torch.zeros(6, 16)
    q, k, v = ops.rotated_qkv(qkv, torch.ones(32), torch.ones(32), 0.0, cos, sin, 2)
    assert [tuple(part.shape) for part in (q, k, v)] == [(6, 4, 32), (6, 2, 32), (6, 2, 32)]
    heads = qkv.view(6, 8, 32)
    unit = heads / heads.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(torch.cat((q, k), dim=1), unit[:, :6])
    assert torch.equal(v, heads[:, 6:])


def test_the_rotary_table_is_made_once() -> None:
    first, second, other = (
        ops.rotary_table(n, 8, 1e6, device=torch.device("cpu"), dtype=torch.float32)
        for n in (5, 900, 5000)
    )
    assert first[0] is second[0]
    assert len(other[0]) >= 5000
    assert torch.equal(other[0][:900], second[0][:900])


def test_rotary_table_is_that_of_the_paper() -> None:
    table = ops.rotary_table(6, 4, 100.0, device=torch.device("cpu"), dtype=torch.float32)
    cos, sin = (part[[0, 5]] for part in table)
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
    segments = ops.Segments.of(lengths, "cpu")
    ours = lambda q, k, v: ops.segment_attention(q, k, v, segments)  # noqa: E731
    twin = lambda q, k, v: reference.segment_attention(q, k, v, segments.offsets)  # noqa: E731
    check(ours, twin, tensors)


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
    x, weight, qkv = torch.randn(3, 2, 8), torch.randn(8), torch.randn(3, 4 * 8)
    cos, sin = angles(torch.arange(3), 8, torch.float32)
    gate_up = torch.randn(3, 16)

    def computed() -> list[Tensor]:
        return [
            ops.rms_norm(x, weight, 1e-6),
            *ops.rotated_qkv(qkv, weight, weight, 1e-6, cos, sin, 1),
            ops.swiglu(gate_up),
        ]

    expected = computed()
    monkeypatch.setattr(
        torch.autograd.Function, "apply", classmethod(lambda *_given: pytest.fail("set up"))
    )
    with torch.no_grad():
        for value, same in zip(computed(), expected, strict=True):
            assert torch.equal(value, same)


@torch.no_grad()
def test_a_stream_is_the_sum_of_what_was_added() -> None:
    weight, *parts = (random(96), *(random(5, 96, seed=seed) for seed in range(4)))
    stream, total = ops.Stream(parts[0]), parts[0].clone()
    for part in parts[1:3]:
        expected = reference.rms_norm(total, weight, 1e-6)
        assert torch.allclose(stream.normed(weight, 1e-6), expected, atol=1e-5)
        stream.add(part.clone())
        total = total + part
    stream.add(parts[3].clone())  # no norm has read the sum before
    assert torch.allclose(stream.total(), total + parts[3], atol=1e-6)
