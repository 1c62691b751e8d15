"""What a real card would refuse, or do so badly that danlu must not ask for it.

Each operation is looked up in the list of kernels before it runs: one that is not there, or a dtype
that its kernel does not take, is an error that says where in danlu's source it came from. On a real
card torch_npu would fail, or quietly compute on the host. What torch itself takes apart before it
reaches a device is looked up in its parts. `_RULES` holds what else is known.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.sim.kernels import ALL, KERNELS, Kernel
from tests.sim.limits import LIMITS
from tests.sim.record import note_refusal, place

# Ascend's kernels take no more dimensions than this.
MAX_DIMENSIONS = 8
# What an argument is for stands in its name.
_INDICES = {"index", "indices", "target"}
_CONDITIONS = {"mask", "condition"}
_BOOL = frozenset({torch.bool})
Arguments = dict[str, Any]


class NotOnTheCard(RuntimeError):
    """A program leaves what is known to run on an Ascend 910B."""


@cache
def base_name(name: str) -> str:
    """Return the name that the list has: `aten::add_` and `aten::add` are both `add`."""
    namespace, _colons, operation = name.rpartition("::")
    base = operation if operation.endswith("__") else operation.removesuffix("_")
    return base if namespace == "aten" else f"{namespace}::{base}"


def check(operation: torch._ops.OpOverload, args: Iterable[Any], kwargs: Arguments) -> None:
    """Refuse an operation that the card has no kernel for, with these dtypes and arguments.

    Views compute nothing, so their dtype does not matter. Raises NotOnTheCard.
    """
    dtypes = _dtypes_by_argument(operation)
    if dtypes is not None:
        given = dict(zip(dtypes, args, strict=False))
        arguments = {**_defaults(operation), **given, **kwargs}
        _refuse_first(operation._schema.name, _faults(operation._schema.name, arguments, dtypes))


def check_results(operation: torch._ops.OpOverload, result: Any) -> None:
    """Refuse an operation whose result has a dtype that its kernel does not make."""
    if _dtypes_by_argument(operation) is not None:
        check_dtypes(operation._schema.name, [tensor.dtype for tensor in _on_device(result)])


def check_dtypes(name: str, dtypes: Iterable[torch.dtype]) -> None:
    """Refuse an operation, given by its schema's name, that makes tensors of these dtypes."""
    made = _kernel(name).dtypes | _kernel(name).results | _BOOL
    _refuse_first(name, (f"has no {_spoken(dtype)}" for dtype in dtypes if dtype not in made))


@cache
def _defaults(operation: torch._ops.OpOverload) -> Arguments:
    arguments = operation._schema.arguments
    return {one.name: one.default_value for one in arguments if one.has_default_value()}


@cache
def _dtypes_by_argument(
    operation: torch._ops.OpOverload,
) -> dict[str, frozenset[torch.dtype]] | None:
    """Map an operation's arguments to what they may be; None: it is a view."""
    if operation.is_view:
        return None
    kernel = _kernel(operation._schema.name)
    found = {}
    for argument in operation._schema.arguments:
        found[argument.name] = kernel.dtypes | _BOOL if argument.is_out else kernel.dtypes
        if argument.name in _INDICES:
            found[argument.name] = kernel.indices
        elif argument.name in _CONDITIONS:
            found[argument.name] = _BOOL
    return found


def _faults(
    name: str, arguments: Arguments, dtypes: dict[str, frozenset[torch.dtype]]
) -> Iterator[str]:
    base = base_name(name)
    if base in _RULES:
        yield from _RULES[base](arguments)
    if base not in KERNELS:
        yield "has no kernel that tests/sim/kernels.py lists"
    for argument, value in arguments.items():
        for tensor in _on_device(value):
            if tensor.dtype not in dtypes[argument]:
                yield f"has no {_spoken(tensor.dtype)} as `{argument}`"
            if tensor.dim() > MAX_DIMENSIONS:
                yield f"has no more than {MAX_DIMENSIONS} dimensions"


def _refuse_first(name: str, faults: Iterator[str]) -> None:
    fault = next(faults, None)
    if fault is not None and not _is_printing():
        sentence = f"On an Ascend 910B {base_name(name)} {fault}: {place()}"
        note_refusal(sentence)
        raise NotOnTheCard(sentence)


def _is_printing() -> bool:
    """Tell whether torch makes text of a tensor, in float64: for a developer, not for a program."""
    frame = sys._getframe()
    while found := frame.f_back:
        if found.f_code.co_filename == torch._tensor_str.__file__:
            return True
        frame = found
    return False


@cache
def _kernel(name: str) -> Kernel:
    return KERNELS.get(base_name(name), Kernel(ALL))


def _on_device(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.device.type == "npu" else []
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _on_device(item)]
    return []


def _spoken(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _along_another_dimension(arguments: Arguments) -> Iterator[str]:
    # ops-nn, op_api/aclnn_index_copy.cpp: it transposes the whole tensor there and back.
    if arguments["dim"] % max(arguments["self"].dim(), 1):
        yield "along another dimension than the first copies the whole tensor"


def _told_of_numbers_that_are_not_finite(arguments: Arguments) -> Iterator[str]:
    # op-plugin, FusedAdamWKernelNpuOpApi.cpp: neither argument is read.
    for name in ("found_inf", "grad_scale"):
        if arguments.get(name) is not None:
            yield f"does not read `{name}`"


# What an operation does wrong besides dtypes.
_RULES: dict[str, Callable[[Arguments], Iterator[str]]] = {
    "index_copy": _along_another_dimension,
    "_fused_adamw": _told_of_numbers_that_are_not_finite,
    **LIMITS,
}
