"""The simulated device itself: what the other tests of this folder rely on."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F

from danlu.device.detect import select
from tests.sim.memory import MEMORY
from tests.sim.record import recording
from tests.sim.torch_npu import DESCRIPTION


def test_danlu_finds_it_and_prefers_it() -> None:
    found = select("auto")
    assert (found.kind, found.description) == ("npu", DESCRIPTION)
    assert found.torch_device == torch.device("npu:0")
    assert found.preferred_dtype == torch.bfloat16


def test_a_tensor_on_the_wrong_device_fails() -> None:
    here, there = torch.ones(2), torch.ones(2, device="npu")
    for mixed in (
        lambda: here + there,
        lambda: F.embedding(here.long(), there[:, None]),
        lambda: torch.cat([there, here]),
        lambda: there.index_select(0, here.long()),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    assert (there + torch.tensor(1.0)).tolist() == [2, 2]  # a single number may stay on the host


def test_views_share_their_memory() -> None:
    whole = torch.zeros(3, 4, device="npu")
    whole[1].fill_(5)
    whole.t()[0].add_(1)
    whole.view(-1)[-1] = 7
    torch.add(whole[0], 2, out=whole[2])
    assert whole.tolist() == [[1, 0, 0, 0], [6, 5, 5, 5], [3, 2, 2, 2]]


def test_generators_give_the_numbers_of_the_cpu_and_cannot_be_mixed_up() -> None:
    drawn = torch.rand(5, generator=torch.Generator(device="npu").manual_seed(3), device="npu")
    host = torch.Generator().manual_seed(3)
    assert drawn.tolist() == torch.rand(5, generator=host).tolist()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(5, generator=host, device="npu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_cpu(dtype: torch.dtype) -> None:
    start = [torch.randn(6, 6, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    gradients = []
    for device in ("cpu", "npu"):
        x, w = (t.to(device, dtype, copy=True).requires_grad_() for t in start)
        ((x @ w.t()).exp() * x).sum().backward()
        gradients.append([t.grad.cpu() for t in (x, w)])
    assert all(map(torch.equal, *gradients))


def test_autocast_multiplies_in_the_lower_precision() -> None:
    x = torch.ones(2, 2, device="npu", requires_grad=True)
    with torch.autocast("npu", dtype=torch.bfloat16):
        product = x @ x
    assert product.dtype == torch.bfloat16
    product.sum().backward()
    assert x.grad.dtype == torch.float32


def test_only_pinned_memory_is_uploaded_without_a_wait() -> None:
    there = torch.empty(3, device="npu")
    with recording() as record:
        there.copy_(torch.ones(6).pin_memory()[3:], non_blocking=True)
        assert not record.pageable
        there.copy_(torch.zeros(3), non_blocking=True)
        assert record.pageable.total() == 1
    assert record.uploads.total() == 2
    assert there.tolist() == [0, 0, 0]


def test_memory_is_counted_and_freed() -> None:
    gc.collect()
    before = torch.npu.memory_allocated()
    torch.npu.reset_peak_memory_stats()
    block = torch.ones(1000, device="npu")
    view = block[10:]
    del block
    assert torch.npu.memory_allocated() == before + 4000
    del view
    assert torch.npu.memory_allocated() == before
    assert torch.npu.max_memory_allocated() == before + 4000


def test_memory_runs_out_at_its_budget() -> None:
    with MEMORY.limited_to(torch.npu.memory_allocated() + 4000):
        assert torch.npu.mem_get_info()[0] == 4000
        kept = torch.ones(900, device="npu")
        with pytest.raises(torch.OutOfMemoryError, match="NPU out of memory"):
            kept + 1
    assert (kept + 1).sum().item() == 1800


def test_waits_of_the_host_are_counted() -> None:
    x = torch.arange(4.0, device="npu")
    with recording() as record:
        y = (x * 2).softmax(0)[1:].sum()
        torch.where(x > 1, x, y).masked_fill_(x > 1, 0.0)
    assert not record.waits
    assert {"aten::mul", "aten::_softmax", "aten::sum"} <= record.operations.keys()
    assert record.dtypes == {torch.float32, torch.bool}
    for wait in (
        lambda: x.sum().item(),
        lambda: x.tolist(),
        lambda: x.cpu(),
        lambda: bool(x[0] > 0),
        lambda: x[x > 1],
        lambda: x.nonzero(),
        lambda: torch.equal(x, x),
        lambda: x.index_put_((x > 1,), torch.zeros((), device="npu")),
    ):
        with recording() as record:
            wait()
        assert record.waits.total() == 1
    with recording() as record:
        torch.tensor([1, 2], device="npu")
    assert record.uploads.total() == 1


def test_a_number_of_python_is_no_float64() -> None:
    assert torch.ones(2, device="npu").mul(0.1).dtype == torch.float32


def test_a_number_stays_one_where_torch_wants_a_tensor() -> None:
    x = torch.tensor([200, 7], dtype=torch.uint8, device="npu")
    for computed in (x & 15, x >> 4, x | 1):
        assert computed.dtype == torch.uint8
    assert (x & 15).tolist() == [8, 7]
