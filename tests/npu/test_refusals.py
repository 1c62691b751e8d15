"""What the simulated card refuses, as a real one would."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from danlu.ops import reference
from tests.sim.record import recording, unrecorded
from tests.sim.refusals import NotOnTheCard


def fused_update(x: Tensor, found_inf: Tensor) -> None:
    adamw(
        params=[x],
        grads=[x],
        exp_avgs=[x],
        exp_avg_sqs=[x],
        max_exp_avg_sqs=[],
        state_steps=[x.sum()],
        fused=True,
        found_inf=found_inf,
        amsgrad=False,
        maximize=False,
        beta1=0.9,
        beta2=0.99,
        lr=0.1,
        weight_decay=0.0,
        eps=1e-8,
    )


Asked = Callable[[Tensor], object]
# x is fp32, 4 x 4.
REFUSED: dict[str, tuple[Asked, str]] = {
    "an operation": (lambda x: x.atan(), "atan has no kernel"),
    "an operation in place": (lambda x: x.erfinv_(), "erfinv has no kernel"),
    "float64": (lambda x: x.double(), "copy has no float64"),
    "float64 as a result": (lambda x: x.sum(dtype=torch.float64), "sum has no float64"),
    "an upload of float64": (lambda x: torch.ones(2).double().to(x.device), "copy has no float64"),
    "a dtype": (
        lambda x: torch.nn.functional.silu(x.long()),
        "silu has no int64 as `self`",
    ),
    "a dtype in place": (
        lambda x: x.to(torch.uint8).masked_fill_(x > 0, 1),
        "masked_fill has no uint8 as `self`",
    ),
    "a dtype of an index": (
        lambda x: x.index_select(0, x[0].to(torch.uint8)),
        "index_select has no uint8 as `index`",
    ),
    "nine dimensions": (lambda x: x[(None,) * 7] + 1, "add has no more than 8 dimensions"),
    "writing along another dimension": (
        lambda x: x.index_copy_(1, torch.arange(4, device=x.device), torch.ones_like(x)),
        "index_copy along another dimension than the first copies the whole tensor",
    ),
    "an update that numbers which are not finite should stop": (
        lambda x: fused_update(x, found_inf=x.sum()),
        "_fused_adamw does not read `found_inf`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_card_refuses_is_refused_by_name(name: str) -> None:
    asked, sentence = REFUSED[name]
    with unrecorded(), pytest.raises(NotOnTheCard, match=sentence):
        asked(torch.ones(4, 4, device="npu"))


def test_the_place_in_danlus_source_is_named() -> None:
    x = torch.ones(2, 4, dtype=torch.int64, device="npu")
    sentence = "silu has no int64 as `self`: ops/reference.py:swiglu"
    with unrecorded(), pytest.raises(NotOnTheCard, match=sentence):
        reference.swiglu(x)


def test_a_refusal_that_a_program_catches_is_recorded() -> None:
    with unrecorded(), recording() as record:
        with suppress(RuntimeError):
            torch.ones(1, device="npu").atan()
        assert ["atan" in sentence for sentence in record.refused] == [True]


def test_views_compute_nothing_so_any_dtype_will_do() -> None:
    x = torch.zeros(2, 4, dtype=torch.int8, device="npu")
    assert x.t().flatten().view(torch.uint8)[1:].unsqueeze(0).shape == (1, 7)


def test_a_tensor_can_be_printed() -> None:
    assert repr(torch.ones(2, device="npu")) == "tensor([1., 1.], device='npu:0')"
