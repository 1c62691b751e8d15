"""One flat AdamW does what torch's does on separate tensors; decay leaves norm weights alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from danlu.train.optimizer import Optimizer


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"w": (5, 3), "norm": (7,), "v": (2, 4)}
    return {n: nn.Parameter(torch.randn(s, generator=generator)) for n, s in shapes.items()}


def test_equals_torch_adamw_with_clipping() -> None:
    ours, theirs = parameters(), parameters()
    flat = Optimizer(ours.items(), weight_decay=0.1, fused=False)
    groups = [
        {"params": [theirs["w"], theirs["v"]], "weight_decay": 0.1},
        {"params": [theirs["norm"]], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.01)
    for _step in range(4):
        for named in (ours, theirs):
            sum((p.sin() * p).sum() * 3 for p in named.values()).backward()
        norm = flat.clip(1.0)
        expected = nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        assert norm == pytest.approx(float(expected), rel=1e-6)
        flat.step(0.01)
        reference.step()
        flat.zero_grad()
        reference.zero_grad()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], atol=1e-7, rtol=1e-6)


def test_bf16_tensors_keep_fp32_masters() -> None:
    """Updates smaller than a bf16 step add up instead of vanishing."""
    weight = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    flat = Optimizer([("w", weight)], weight_decay=0.0, fused=False)
    for _step in range(20):
        weight.sum().backward()
        flat.step(1e-3)
        flat.zero_grad()
    assert weight[0, 0].item() == pytest.approx(0.98, abs=4e-3)


def test_a_scaled_gradient_gives_the_same_update() -> None:
    plain, scaled = parameters(), parameters()
    optimizers = [Optimizer(n.items(), weight_decay=0.0, fused=False) for n in (plain, scaled)]
    for named, optimizer, scale in ((plain, optimizers[0], 1.0), (scaled, optimizers[1], 1024.0)):
        (sum((p.sin() * p).sum() for p in named.values()) * scale).backward()
        optimizer.clip(1.0, scale=scale)
        optimizer.step(0.01)
    for name in plain:
        torch.testing.assert_close(plain[name], scaled[name])
