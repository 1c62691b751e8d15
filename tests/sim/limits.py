"""What the pages of Ascend's fused operations forbid: each fault would be an error on a card, or,
worse, other numbers.

Source: op-plugin, docs/context/torch_npu-npu_*.md as of August 2026, for Atlas A2; where the page
of the inference attention is older than what vllm-ascend calls on 910B (TND with pages), the
latter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]
_HALVES = (torch.float16, torch.bfloat16)
_LARGEST_SIDE = 65535  # of an int8 or int4 matrix
_MOST_GROUPS = 1024


def host_of(tensor: Tensor) -> Tensor:
    """Return a device tensor's bytes on the host; nothing is counted."""
    if tensor.device.type != "npu":
        return tensor
    host = tensor.untyped_storage().block.host  # type: ignore[attr-defined]
    view = torch.empty(0, dtype=tensor.dtype)
    return view.set_(host, tensor.storage_offset(), tensor.size(), tensor.stride())


def _same_dtypes(arguments: Arguments, *names: str) -> Iterator[str]:
    if len({arguments[name].dtype for name in names}) > 1:
        yield f"takes {', '.join(names)} in one dtype"


def _contiguous(arguments: Arguments, *names: str) -> Iterator[str]:
    for name in names:
        if not arguments[name].is_contiguous():
            yield f"takes no `{name}` with gaps"


def _mask(arguments: Arguments, dtypes: Sequence[torch.dtype]) -> Iterator[str]:
    """The compressed mask: true above the diagonal, where nothing is seen."""
    mode, mask = arguments["sparse_mode"], arguments["atten_mask"]
    if mask is None:
        if mode:
            yield "ignores sparse_mode without a mask: every token would see its whole segment"
        return
    if mask.dtype not in dtypes:
        yield f"takes no mask of {mask.dtype}"
    elif mode in (2, 3, 4) and mask.shape[-2:] != (2048, 2048):
        yield f"takes a mask of 2048 x 2048 in sparse_mode {mode}, not {tuple(mask.shape)}"
    elif mode in (2, 3):
        corner = host_of(mask)[..., :3, :3].bool()
        if not torch.equal(corner, torch.ones_like(corner).triu(1)):
            yield "takes a mask that is true where nothing is seen, above the diagonal"


def _ends(name: str, ends: Sequence[int] | None, total: int, most: int) -> Iterator[str]:
    if not ends:
        yield f"needs `{name}` in the layout TND"
    elif any(later < earlier for earlier, later in pairwise(ends)):
        yield f"takes sums in `{name}`, not lengths"
    elif ends[-1] != total:
        yield f"takes sums in `{name}` that end at the {total} tokens, not at {ends[-1]}"
    elif len(ends) > most:
        yield f"takes at most {most} segments in `{name}`"


def _heads(query: int, key: int, most: int) -> Iterator[str]:
    if not key or query % key or query // key > most:
        yield f"takes no {query} heads of queries over {key} of keys"


def _fusion_attention(arguments: Arguments) -> Iterator[str]:
    q, k, v = (arguments[name] for name in ("query", "key", "value"))
    if arguments["input_layout"] != "TND":
        yield f"is simulated in the layout TND only, not {arguments['input_layout']}"
        return
    yield from _same_dtypes(arguments, "query", "key", "value")
    if k.shape != v.shape or q.shape[2] != k.shape[2] or not 1 <= q.shape[2] <= 768:
        yield "takes key and value of one shape, with the head size of the query, 1 to 768"
    if arguments["head_num"] != q.shape[1] or q.shape[1] > 256:
        yield "takes the number of the query's heads, at most 256, as `head_num`"
    yield from _heads(q.shape[1], k.shape[1], 256)
    yield from _ends("actual_seq_qlen", arguments["actual_seq_qlen"], len(q), 1024)
    yield from _ends("actual_seq_kvlen", arguments["actual_seq_kvlen"], len(k), 1024)
    yield from _mask(arguments, (torch.bool, torch.uint8))
    if arguments.get("scale", arguments.get("scale_value")) == 1.0:
        yield "has a default scale of 1, not of the head size"


def _norm(arguments: Arguments) -> Iterator[str]:
    x, gamma = arguments["input"], arguments["gamma"]
    if gamma.dtype != x.dtype:
        yield "takes `gamma` in the dtype of the input"
    if gamma.shape != x.shape[-gamma.dim() :]:
        yield f"takes `gamma` of the last dimensions' shape, not {tuple(gamma.shape)}"


def _add_norm(arguments: Arguments) -> Iterator[str]:
    x1, x2, gamma = (arguments[name] for name in ("x1", "x2", "gamma"))
    if x1.shape != x2.shape or not x1.numel():
        yield "takes `x1` and `x2` of one shape, and not empty"
        return
    yield from _same_dtypes(arguments, "x1", "x2")
    yield from _norm({"input": x1, "gamma": gamma})


def _norm_backward(arguments: Arguments) -> Iterator[str]:
    yield from _norm(arguments)
    yield from _same_dtypes(arguments, "dy", "input")
    if arguments["rstd"].dtype != torch.float32:
        yield "takes `rstd` in fp32"


def _rotary(arguments: Arguments) -> Iterator[str]:
    x, r1, r2 = (arguments[name] for name in ("input", "r1", "r2"))
    yield from _same_dtypes(arguments, "input", "r1", "r2")
    if not x.dim() == r1.dim() == r2.dim() == 4:
        yield "takes four dimensions"
        return
    batch, length, heads, size = x.shape
    if size % 2 or size >= 896 or batch >= 1000 or heads >= 1000:
        yield "takes an even head size below 896, batch and heads below 1000"
    if tuple(r1.shape) not in {(n, length, m, size) for n in (1, batch) for m in (1, heads)}:
        yield f"takes angles for BSND {tuple(x.shape)}, not {tuple(r1.shape)}"


def _swiglu(arguments: Arguments) -> Iterator[str]:
    x = arguments["input"]
    if x.shape[arguments["dim"]] % 2:
        yield "takes an even number of columns"


def _scatter(arguments: Arguments) -> Iterator[str]:
    names = ("key", "value", "key_cache", "value_cache")
    yield from _contiguous(arguments, *names, "slot_mapping")
    yield from _same_dtypes(arguments, *names)
    key, cache, slots = (arguments[n] for n in ("key", "key_cache", "slot_mapping"))
    if arguments["cache_mode"] != "Norm":
        yield (
            f"takes pages that are laid out as they look in cache_mode Norm only, not "
            f"{arguments['cache_mode']}"
        )
    if cache.dim() != 4 or cache.shape[2:] != key.shape[1:] or slots.shape != key.shape[:1]:
        yield "takes pages [blocks, block_size, heads, head_size] and a slot for each token"
        return
    places = host_of(slots)
    if len(places) and not 0 <= int(places.min()) <= int(places.max()) < cache[:, :, 0, 0].numel():
        yield "takes slots of the pages only"


def _infer_attention(arguments: Arguments) -> Iterator[str]:
    q, k = arguments["query"], arguments["key"]
    yield from _contiguous(arguments, "query", "key", "value")
    yield from _same_dtypes(arguments, "query", "key", "value")
    if arguments["input_layout"] != "TND" or arguments["block_table"] is None:
        yield "is simulated in the layout TND with pages only"
        return
    kv_heads, size = arguments["num_key_value_heads"], q.shape[2]
    if arguments["num_heads"] != q.shape[1]:
        yield "takes the number of the query's heads as `num_heads`"
    yield from _heads(q.shape[1], kv_heads, 64)
    if size % 16 or size > 512:
        yield f"takes head sizes of a multiple of 16 up to 512, not {size}"
    if k.dim() != 3 or k.shape[2] != kv_heads * size or k.shape[2] > 65535:
        yield "takes pages as [blocks, block_size, kv_heads * head_size], at most 65535 wide"
    yield from _ends("actual_seq_lengths", arguments["actual_seq_lengths"], len(q), 4096)
    yield from _pages(arguments)
    yield from _mask(arguments, (torch.bool, torch.int8, torch.uint8))
    if arguments["sparse_mode"] not in (0, 3):
        yield "takes sparse_mode 0 and 3 in the layout TND only"
    if arguments["scale"] == 1.0:
        yield "has a default scale of 1, not of the head size"


def _pages(arguments: Arguments) -> Iterator[str]:
    table, block_size = arguments["block_table"], arguments["block_size"]
    lengths = arguments["actual_seq_lengths_kv"]
    counts = [end - start for start, end in pairwise((0, *arguments["actual_seq_lengths"]))]
    if block_size % 128 or not 128 <= block_size <= 512 or arguments["key"].shape[1] != block_size:
        yield "takes pages of 128, 256, 384 or 512 tokens"
    if table.dtype != torch.int32 or table.dim() != 2 or len(table) != len(counts):
        yield "takes a block table int32 [requests, blocks]"
    elif lengths is None or len(lengths) != len(counts):
        yield "needs the length of each request with pages"
    elif any(end < count or end > table.shape[1] * block_size
             for count, end in zip(counts, lengths, strict=True)):  # fmt: skip
        yield "takes lengths, not sums, with pages: from a request's new tokens to its pages' end"


def _few_bits(arguments: Arguments) -> Iterator[str]:
    x, weight, scale = (arguments[n] for n in ("x", "weight", "antiquant_scale"))
    offset, group = arguments["antiquant_offset"], arguments["antiquant_group_size"]
    inputs = len(weight)
    outputs = weight.shape[1] * (8 if weight.dtype == torch.int32 else 1)
    if x.dtype not in _HALVES or scale.dtype != x.dtype:
        yield "takes activations and scales in one 16-bit dtype"
    if max(inputs, outputs) > _LARGEST_SIDE:
        yield f"takes matrices of at most {_LARGEST_SIDE} rows and columns"
    if not len(x):
        yield "takes no empty tensor"
    if weight.dtype not in (torch.int8, torch.int32):
        yield "takes int8, or eight int4 in an int32"
    if group and (group % 32 or not 32 <= group < inputs):
        yield "takes groups of a multiple of 32, fewer than the inputs"
    shape = (-(-inputs // group), outputs) if group else (outputs,)
    if scale.shape != shape or (offset is not None and offset.shape != shape):
        yield f"takes scales and offsets {shape}"


def _grouped(arguments: Arguments) -> Iterator[str]:
    xs, weights, ends = (arguments[name] for name in ("x", "weight", "group_list"))
    by_sum = arguments["group_type"] == 2  # groups of what is summed over
    if not by_sum and arguments["group_type"] != 0:
        yield "is simulated for groups of rows, and of what is summed over"
        return
    if arguments["group_list_type"] or len(xs) + len(weights) > 2:
        yield "is simulated for one tensor each, with sums in `group_list`"
        return
    if arguments["split_item"] not in (2, 3):
        yield "gives one tensor with split_item 2 or 3 only"
    ((x,), (weight,)) = xs, weights
    if arguments["antiquant_scale"] is not None:
        yield from _grouped_few_bits(arguments, x, weight)
    elif x.dtype != weight.dtype or x.dtype not in (*_HALVES, torch.float32):
        yield "takes `x` and `weight` in one dtype: float16, bfloat16 or float32"
    if by_sum and (x.dim() != 2 or weight.dim() != 2 or x.shape[1] != len(weight)):
        yield "takes x [out, rows] and another tensor [rows, in]"
    if not by_sum and (x.dim() != 2 or weight.dim() != 3 or x.shape[1] != weight.shape[1]):
        yield "takes x [rows, in] and weights [groups, in, out]"
    if max(len(x) if by_sum else x.shape[1], weight.shape[-1]) > _LARGEST_SIDE:
        yield f"takes rows of at most {_LARGEST_SIDE} numbers"
    if ends is None or ends.dtype != torch.int64 or ends.dim() != 1:
        yield "takes `group_list` as int64 [groups]"
        return
    if not by_sum and len(ends) != len(weight):
        yield "takes a matrix for each group"
    if len(ends) > _MOST_GROUPS:
        yield f"takes at most {_MOST_GROUPS} groups"
    sums = host_of(ends).tolist()
    if any(later < earlier for earlier, later in pairwise((0, *sums))):
        yield "takes sums in `group_list`, not lengths"
    elif sums[-1] != (x.shape[1] if by_sum else len(x)):
        yield f"leaves rows behind the last group undefined: {sums[-1]} are in groups"


def _grouped_few_bits(arguments: Arguments, x: Tensor, weight: Tensor) -> Iterator[str]:
    """A scale and an offset for each output of int8; of int4 for groups of its inputs, too."""
    if arguments["group_type"] or arguments["antiquant_offset"] is None:
        yield "takes few bits in groups of rows, with scales and offsets"
        return
    (scale,), (offset,) = arguments["antiquant_scale"], arguments["antiquant_offset"]
    if x.dtype not in _HALVES or {scale.dtype, offset.dtype} != {x.dtype}:
        yield "takes activations, scales and offsets in one 16-bit dtype"
    if weight.dtype not in (torch.int8, torch.int32):
        yield "takes int8, or eight int4 in an int32"
    if weight.dtype == torch.int32 and not weight.is_contiguous():
        yield "takes int4 that lie [groups, in, out / 8]"
    groups, inputs, width = weight.shape
    outputs = width * (8 if weight.dtype == torch.int32 else 1)
    by_group = weight.dtype == torch.int32 and scale.dim() == 3
    if by_group and inputs % scale.shape[1]:
        yield "takes groups of inputs that are alike long"
    shape = (groups, scale.shape[1], outputs) if by_group else (groups, outputs)
    if scale.shape != shape or offset.shape != shape:
        yield f"takes scales and offsets {shape}"
    for part in (scale, offset):
        if not part.is_contiguous():
            yield "takes no scales or offsets with gaps"


def _top_k_top_p(arguments: Arguments) -> Iterator[str]:
    logits, p, k = (arguments[name] for name in ("logits", "p", "k"))
    if logits.dim() != 2:
        yield "takes logits [rows, vocabulary]"
        return
    rows, size = logits.shape
    if p is not None and (p.dtype != logits.dtype or p.shape != (rows,)):
        yield "takes `p` of each row, in the dtype of the logits"
    elif p is not None and not all(0 <= share <= 1 for share in host_of(p).tolist()):
        yield "takes `p` from 0 to 1"
    if k is not None and (k.dtype != torch.int32 or k.shape != (rows,)):
        yield "takes `k` of each row, as int32"
    elif k is not None and not all(1 <= n <= min(size, 1024) for n in host_of(k).tolist()):
        yield f"takes `k` from 1 to {min(size, 1024)}"


LIMITS: dict[str, Callable[[Arguments], Iterator[str]]] = {
    "npu::npu_fusion_attention": _fusion_attention,
    "npu::npu_fusion_attention_grad": _fusion_attention,
    "npu::npu_rms_norm": _norm,
    "npu::npu_add_rms_norm": _add_norm,
    "npu::npu_rms_norm_backward": _norm_backward,
    "npu::npu_rotary_mul": _rotary,
    "npu::npu_swiglu": _swiglu,
    "npu::npu_swiglu_backward": _swiglu,
    "npu::npu_scatter_pa_kv_cache": _scatter,
    "npu::npu_fused_infer_attention_score": _infer_attention,
    "npu::npu_weight_quant_batchmatmul": _few_bits,
    "npu::npu_grouped_matmul": _grouped,
    "npu::npu_top_k_top_p": _top_k_top_p,
}
