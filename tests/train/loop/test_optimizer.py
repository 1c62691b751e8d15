"""One flat AdamW does what torch's does on separate tensors, or nothing at all.

Each variant: the fused kernel, plain operations for devices without one, and the twin.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from danlu.ops.adamw import ADAMW
from danlu.train.loop.optimizer import Optimizer
from tests.helpers.models.variants import taken

YES, NO = torch.tensor(True), torch.tensor(False)


@pytest.fixture(params=["fused", "unfused", "reference"])
def _each_variant(request: pytest.FixtureRequest) -> Iterator[None]:
    with taken(ADAMW, request.param):
        yield


each_variant = pytest.mark.usefixtures("_each_variant")


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"w": (5, 3), "norm": (7,), "v": (2, 4)}
    return {n: nn.Parameter(torch.randn(s, generator=generator)) for n, s in shapes.items()}


@each_variant
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.95)])
def test_equals_torch_adamw_with_clipping(betas: tuple[float, float]) -> None:
    """Also where a step in between, even the first, is not applied."""
    ours, theirs = parameters(), parameters()
    flat = Optimizer(list(ours.values()), weight_decay=0.1, betas=betas)
    groups = [
        {"params": [theirs["w"], theirs["v"]], "weight_decay": 0.1},
        {"params": [theirs["norm"]], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=betas)
    for step in range(12):
        if step % 3 == 0:
            (sum(p.sum() for p in ours.values()) * float("nan")).backward()
            flat.step(0.01, applied=NO)
            flat.zero_grad()
        for named in (ours, theirs):
            sum((p.sin() * p).sum() * 3 for p in named.values()).backward()
        norm = flat.clip(1.0)
        expected = nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        assert norm == pytest.approx(float(expected), rel=1e-6)
        flat.step(0.01, applied=YES)
        reference.step()
        flat.zero_grad()
        reference.zero_grad()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], atol=2e-7, rtol=1e-6)
    assert flat.num_updates() == 12


@each_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38, 1.0])
def test_a_step_that_is_not_applied_changes_no_number(dtype: torch.dtype, value: float) -> None:
    named = {name: nn.Parameter(p.to(dtype)) for name, p in parameters().items()}
    flat = Optimizer(list(named.values()), weight_decay=0.1)
    for step in range(3):
        before = [tensor.clone() for tensor in flat.pieces()]
        working = {name: parameter.detach().clone() for name, parameter in named.items()}
        sum(p.sum() * value for p in named.values()).backward()
        flat.clip(1.0)
        flat.step(0.01, applied=NO)
        assert flat.num_updates() == step
        assert all(map(torch.equal, before, flat.pieces()))
        assert all(torch.equal(working[name], named[name]) for name in named)
        flat.zero_grad()
        sum(p.sum() for p in named.values()).backward()
        flat.step(0.01, applied=YES)
        flat.zero_grad()
        assert not any(map(torch.equal, before, flat.pieces()))


@each_variant
def test_bf16_tensors_keep_fp32_masters() -> None:
    """Updates smaller than a bf16 step add up instead of vanishing."""
    weight = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    flat = Optimizer([weight], weight_decay=0.0)
    for _step in range(20):
        weight.sum().backward()
        flat.step(1e-3, applied=YES)
        flat.zero_grad()
    assert weight[0, 0].item() == pytest.approx(0.98, abs=4e-3)


@each_variant
def test_a_scaled_gradient_gives_the_same_update() -> None:
    plain, scaled = parameters(), parameters()
    optimizers = [Optimizer(list(n.values()), weight_decay=0.0) for n in (plain, scaled)]
    for named, optimizer, scale in ((plain, optimizers[0], 1.0), (scaled, optimizers[1], 1024.0)):
        (sum((p.sin() * p).sum() for p in named.values()) * scale).backward()
        optimizer.clip(1.0, scale=scale)
        optimizer.step(0.01, applied=YES)
    for name in plain:
        torch.testing.assert_close(plain[name], scaled[name])


def test_what_a_failed_backward_pass_left_behind_is_cleared() -> None:
    """In bf16 the gradient comes beside its tensor first; memory may run out right then."""
    tensor = nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))
    flat = Optimizer([tensor], weight_decay=0.0)
    tensor.grad = torch.full_like(tensor, 100.0)
    flat.zero_grad()
    tensor.sum().backward()
    assert float(flat.clip(0.0)) == 2.0
