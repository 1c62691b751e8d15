"""Wrong calls of Ascend's fused kernels: on a card an error, or silently other numbers.

Each is the call that danlu makes, with one argument changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.ops.ascend.fusion_attention import compressed_mask
from tests.sim.record import unrecorded
from tests.sim.refusals import NotOnTheCard
from tests.sim.schemas import SCHEMAS, VERSIONS

SHARED = Path(__file__).resolve().parents[3] / "shared" / "reference"
BF16 = torch.bfloat16


def there(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.ones(*shape, dtype=dtype, device="npu")


def mask() -> Tensor:
    return compressed_mask(torch.device("npu", 0))


def attention(**changes: Any) -> Any:
    """Two packed segments of 2 and 3 tokens."""
    named = {
        "atten_mask": mask(), "scale": 0.25, "actual_seq_qlen": [2, 5],
        "actual_seq_kvlen": [2, 5], "sparse_mode": 3, **changes,
    }  # fmt: skip
    q, k, v = there(5, 4, 16), there(5, 2, 16), there(5, 2, 16)
    return torch.ops.npu.npu_fusion_attention(q, k, v, named.pop("heads", 4), "TND", **named)


def paged(**changes: Any) -> Any:
    """A request with 3 of 130 tokens, and one with 1 of 7."""
    named = {
        "atten_mask": mask(), "actual_seq_lengths": [3, 4], "actual_seq_lengths_kv": [130, 7],
        "block_table": torch.tensor([[0, 1], [2, 0]], dtype=torch.int32).to("npu"),
        "num_heads": 4, "num_key_value_heads": 2, "scale": 0.25, "input_layout": "TND",
        "sparse_mode": 3, "block_size": 128, **changes,
    }  # fmt: skip
    q, pages = named.pop("query", there(4, 4, 16)), there(3, 128, 32)
    return torch.ops.npu.npu_fused_infer_attention_score(q, pages, pages, **named)


def write(**changes: Any) -> Any:
    """Two tokens into three pages."""
    named = {"slots": torch.tensor([5, 200]).to("npu"), "cache_mode": "Norm", **changes}
    new, pages = named.pop("new", there(2, 2, 16)), there(3, 128, 2, 16)
    slots = named.pop("slots")
    return torch.ops.npu.npu_scatter_pa_kv_cache(new, new, pages, pages.clone(), slots, **named)


def norm(weight: Tensor) -> Any:
    return torch.ops.npu.npu_rms_norm(there(3, 16), weight, epsilon=1e-6)


def add_and_norm(x2: Tensor, weight: Tensor | None = None) -> Any:
    weight = there(16) if weight is None else weight
    return torch.ops.npu.npu_add_rms_norm(there(3, 16), x2, weight, epsilon=1e-6)


def rotate(*shape: int) -> Any:
    angles = there(*shape)
    return torch.ops.npu.npu_rotary_mul(there(1, 5, 2, 16), angles, angles)


def few_bits(outputs: int = 64, group: int = 32, dtype: torch.dtype = BF16) -> Any:
    """Two rows, 64 inputs, eight int4 numbers in each int32."""
    words = there(64, outputs // 8, dtype=torch.int32)
    scales = there(64 // group, outputs, dtype=dtype)
    return torch.ops.npu.npu_weight_quant_batchmatmul(
        there(2, 64), words, scales, antiquant_group_size=group
    )


def grouped(**changes: Any) -> Any:
    """Two rows for the first of two matrices, one for the second."""
    named = {
        "x": [there(3, 16)], "weight": [there(2, 16, 8)],
        "group_list": torch.tensor([2, 3]).to("npu"), "split_item": 3, "group_type": 0, **changes,
    }  # fmt: skip
    return torch.ops.npu.npu_grouped_matmul(named.pop("x"), named.pop("weight"), **named)


def filtered(**changes: Any) -> Any:
    """Two rows of ten logits."""
    named = {
        "p": torch.tensor([0.9, 1.0]).to("npu"),
        "k": torch.tensor([1, 10], dtype=torch.int32).to("npu"), **changes,
    }  # fmt: skip
    logits = named.pop("logits", there(2, 10, dtype=torch.float32))
    return torch.ops.npu.npu_top_k_top_p(logits, **named)


def upside_down() -> Tensor:
    return mask().logical_not()


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no mask": (lambda: attention(atten_mask=None), "ignores sparse_mode without a mask"),
    "a mask as torch has it": (lambda: attention(atten_mask=upside_down()), "above the diagonal"),
    "a mask of the batch's size": (lambda: attention(atten_mask=mask()[:5, :5]), "2048 x 2048"),
    "a mask that is added": (lambda: attention(atten_mask=mask().to(BF16)), "no mask of"),
    "lengths for sums": (lambda: attention(actual_seq_qlen=[3, 2]), "sums in `actual_seq_qlen`"),
    "sums that end too soon": (lambda: attention(actual_seq_kvlen=[2, 4]), "end at the 5 tokens"),
    "the scale left out": (lambda: attention(scale=1.0), "default scale"),
    "the heads of the keys": (lambda: attention(heads=2), "`head_num`"),
    "sums for lengths, with pages": (lambda: paged(actual_seq_lengths_kv=[130, 280]), "not sums"),
    "a block table of 64 bits": (
        lambda: paged(block_table=torch.zeros(2, 2).long().to("npu")), "block table int32",
    ),
    "small pages": (lambda: paged(block_size=16), "pages of 128"),
    "a query with gaps": (
        lambda: paged(query=there(4, 8, 16)[:, ::2]), "no `query` with gaps",
    ),
    "fp32": (lambda: paged(query=there(4, 4, 16, dtype=torch.float32)), "in one dtype"),
    "the default layout of the cache": (lambda: write(cache_mode="PA_NZ"), "cache_mode Norm"),
    "a slot that no page has": (
        lambda: write(slots=torch.tensor([5, 384]).to("npu")), "slots of the pages",
    ),
    "values with gaps": (lambda: write(new=there(2, 4, 16)[:, 2:]), "no `key` with gaps"),
    "a norm's weight in fp32": (lambda: norm(there(16, dtype=torch.float32)), "in the dtype"),
    "a row that is added to all": (lambda: add_and_norm(there(1, 16)), "of one shape"),
    "fp32 that is added": (
        lambda: add_and_norm(there(3, 16, dtype=torch.float32)), "x1, x2 in one dtype",
    ),
    "a sum's norm with a weight in fp32": (
        lambda: add_and_norm(there(3, 16), there(16, dtype=torch.float32)), "in the dtype",
    ),
    "a gradient of the sum's norm": (
        lambda: add_and_norm(there(3, 16).requires_grad_()), "has no gradient",
    ),
    "a matrix that is too wide": (lambda: few_bits(outputs=65544), "at most 65535"),
    "scales in fp32": (lambda: few_bits(dtype=torch.float32), "one 16-bit dtype"),
    "groups of 16": (lambda: few_bits(group=16), "a multiple of 32"),
    "counts of a group's rows": (
        lambda: grouped(group_list=torch.tensor([2, 1]).to("npu")), "sums in `group_list`",
    ),
    "rows behind the last group": (
        lambda: grouped(group_list=torch.tensor([1, 2]).to("npu")), "behind the last group",
    ),
    "groups in 32 bits": (
        lambda: grouped(group_list=torch.tensor([2, 3], dtype=torch.int32).to("npu")), "as int64",
    ),
    "a matrix for each group": (
        lambda: grouped(weight=[there(16, 8), there(16, 8)]), "one tensor each",
    ),
    "groups of nothing": (lambda: grouped(group_type=None), "for groups of rows"),
    "weights as torch has them": (lambda: grouped(weight=[there(2, 8, 16)]), "[groups, in, out]"),
    "shares of another dtype": (
        lambda: filtered(logits=there(2, 10)), "in the dtype of the logits",
    ),
    "one share for all rows": (lambda: filtered(p=torch.tensor([0.9]).to("npu")), "of each row"),
    "a share above 1": (lambda: filtered(p=torch.tensor([0.9, 1.5]).to("npu")), "from 0 to 1"),
    "a top-k of 0": (
        lambda: filtered(k=torch.tensor([0, 5], dtype=torch.int32).to("npu")), "from 1 to 10",
    ),
    "a top-k beyond the vocabulary": (
        lambda: filtered(k=torch.tensor([5, 11], dtype=torch.int32).to("npu")), "from 1 to 10",
    ),
    "a top-k of 64 bits": (lambda: filtered(k=torch.tensor([5, 5]).to("npu")), "as int32"),
    "angles of half a head": (lambda: rotate(1, 5, 1, 8), "angles for BSND"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "fault"), WRONG.values(), ids=WRONG)
def test_a_wrong_call_is_refused(call: Callable[[], Any], fault: str) -> None:
    with unrecorded(), pytest.raises(NotOnTheCard, match=re.escape(fault)):
        call()


@pytest.mark.parametrize(
    "call", [attention, few_bits, filtered, grouped, paged, write], ids=lambda call: call.__name__
)
def test_without_the_change_it_is_not(call: Callable[[], Any]) -> None:
    call()


@pytest.mark.parametrize(
    "call",
    [lambda: attention(mask=mask()), lambda: attention(sparse_mode="causal"),
     lambda: torch.ops.npu.npu_rms_norm(there(3, 16)),
     lambda: torch.ops.npu.npu_swiglu(there(3, 16), axis=1)],
    ids=["an unknown name", "a word for a number", "too few", "another tool's name"],
)  # fmt: skip
def test_what_the_schema_does_not_take_is_refused(call: Callable[[], Any]) -> None:
    with pytest.raises((RuntimeError, TypeError), match="npu::"):
        call()


def test_what_has_no_gradient_refuses_a_tensor_that_wants_one() -> None:
    with unrecorded(), pytest.raises(NotOnTheCard, match="has no gradient"):
        paged(query=there(4, 4, 16).requires_grad_())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_are_those_of_the_wheel(version: str) -> None:
    recorded = SHARED / f"torch_npu_{version}_schemas.txt"
    if not recorded.is_file():
        pytest.skip(f"no {recorded.name} beside the repository")
    lines = set(recorded.read_text(encoding="utf-8").splitlines())
    assert not set(SCHEMAS) - lines
