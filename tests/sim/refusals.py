"""What a real card would refuse, or do so badly that danlu must not ask for it.

Each operation is looked up in the list of kernels before it runs: one that is not there, or a dtype
that its kernel does not take, is an error that says where in danlu's source it came from. On a real
card torch_npu would fail, or quietly compute on the host. What torch itself takes apart before it
reaches a device is looked up in its parts. `_RULES` holds what else is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.sim.kernels import KERNELS, Kernel
from tests.sim.record import note_refusal, place

# Ascend's kernels take no more dimensions than this.
MAX_DIMENSIONS = 8
# What an argument is for stands in its name.
_INDICES = {"index", "indices", "target"}
_CONDITIONS = {"mask", "condition"}
Arguments = dict[str, Any]


class NotOnTheCard(RuntimeError):
    """A program leaves what is known to run on an Ascend 910B."""


def base_name(name: str) -> str:
    """Return the name that the list has: `aten::add_` and `aten::add` are both `add`."""
    namespace, _colons, operation = name.rpartition("::")
    base = operation if operation.endswith("__") else operation.removesuffix("_")
    return base if namespace == "aten" else f"{namespace}::{base}"


def check(operation: torch._ops.OpOverload, args: Iterable[Any], kwargs: Arguments) -> None:
    """Refuse an operation that the card has no kernel for, with these dtypes and arguments.

    Views compute nothing, so their dtype does not matter. Raises NotOnTheCard.
    """
    if _is_view(operation):
        return
    schema = operation._schema
    names = (argument.name for argument in schema.arguments)
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    outputs = {argument.name for argument in schema.arguments if argument.is_out}
    base = base_name(schema.name)
    if base in _RULES and (reason := _RULES[base](arguments)):
        _refuse(base, reason)
    kernel = _kernel(base)
    for name, value in arguments.items():
        for tensor in _on_device(value):
            if name in outputs:
                check_dtypes(schema.name, (tensor.dtype,))
            elif tensor.dtype not in _dtypes(kernel, name):
                _refuse(base, f"has no {_spoken(tensor.dtype)} as `{name}`")
            if tensor.dim() > MAX_DIMENSIONS:
                _refuse(base, f"has no more than {MAX_DIMENSIONS} dimensions")


def check_results(operation: torch._ops.OpOverload, result: Any) -> None:
    """Refuse an operation whose result has a dtype that its kernel does not make."""
    if _is_view(operation):
        return
    check_dtypes(operation._schema.name, (tensor.dtype for tensor in _on_device(result)))


def check_dtypes(name: str, dtypes: Iterable[torch.dtype]) -> None:
    """Refuse an operation, given by its schema's name, that makes tensors of these dtypes."""
    base = base_name(name)
    kernel = _kernel(base)
    for dtype in dtypes:
        if dtype not in kernel.dtypes | {torch.bool}:
            _refuse(base, f"has no {_spoken(dtype)}")


@cache
def _is_view(operation: torch._ops.OpOverload) -> bool:
    return operation.is_view


def _kernel(base: str) -> Kernel:
    if base not in KERNELS:
        _refuse(base, "has no kernel that tests/sim/kernels.py lists")
    return KERNELS[base]


def _dtypes(kernel: Kernel, argument: str) -> frozenset[torch.dtype]:
    if argument in _INDICES:
        return kernel.indices
    return frozenset({torch.bool}) if argument in _CONDITIONS else kernel.dtypes


def _on_device(value: Any) -> Iterator[Tensor]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _on_device(item)
    elif isinstance(value, Tensor) and value.device.type == "npu":
        yield value


def _spoken(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _refuse(base: str, reason: str) -> None:
    sentence = f"On an Ascend 910B {base} {reason}: {place()}"
    note_refusal(sentence)
    raise NotOnTheCard(sentence)


def _along_another_dimension(arguments: Arguments) -> str:
    # ops-nn, op_api/aclnn_index_copy.cpp: it transposes there and back, workspace and all.
    first = arguments["dim"] % max(arguments["self"].dim(), 1) == 0
    return "" if first else "along another dimension than the first copies the whole tensor"


def _with_numbers_that_are_not_finite(arguments: Arguments) -> str:
    # op-plugin, FusedAdamWKernelNpuOpApi.cpp: neither argument is read.
    unread = [name for name in ("found_inf", "grad_scale") if arguments.get(name) is not None]
    return f"does not read `{unread[0]}`" if unread else ""


# What an operation does wrong besides dtypes: from its arguments to the reason, or nothing.
_RULES: dict[str, Callable[[Arguments], str]] = {
    "index_copy": _along_another_dimension,
    "_fused_adamw": _with_numbers_that_are_not_finite,
}
