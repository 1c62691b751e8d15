"""A simulated NPU: a real `torch.device("npu")` that computes on the CPU. For tests only.

PyTorch keeps one backend, PrivateUse1, for devices it does not know; torch_npu uses it too. Here
each device tensor owns CPU memory, and one function takes every operation: it looks at the same
bytes as CPU tensors, runs the CPU's kernel and hands the result to the device. So values are the
CPU's, but placement is real: a tensor on the wrong device fails as it would on an NPU. So does an
operation, or a dtype, that Ascend has no kernel for as far as is known (refusals.py).

Not simulated: streams, asynchronous errors, other devices than npu:0; the formats and the rounding
of Ascend's kernels.

Leans on private API of torch (tried with 2.13):
- `_setup_privateuseone_for_python_backend` names the backend and gives it a device guard;
- `torch._C._acc.create_empty_tensor` makes a tensor with the backend's dispatch key;
- `torch._C._construct_storage_from_data_pointer` makes a storage that says npu over memory of ours;
- `torch._C._should_allow_numbers_as_tensors` says where a number may stand for a tensor;
- `redispatch` lends the CPU's kernels of `set_`, `view` and their like, which only touch sizes.

`register` must come before the process's first backward pass: autograd starts one thread per device
then, and never again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, ClassVar, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves

from tests.sim import arrivals, formulas, graphs, refusals
from tests.sim.limits import host_of
from tests.sim.memory import MEMORY
from tests.sim.record import note_operation, note_upload, note_wait
from tests.sim.torch_npu import install_modules

aten = torch.ops.aten
_SETUP = "_setup_privateuseone_for_python_backend"
_HOST_KERNELS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
# Only sizes, strides and offsets change: the CPU's kernels never look at the data.
_METADATA_OPERATIONS = (
    *("as_strided", "view", "_reshape_alias", "unfold", "view_as_real", "view_as_complex"),
    *("set_.source_Storage_storage_offset", "set_.source_Tensor"),
)
# Operations that autocast runs in the lower precision: the products.
_AUTOCAST_OPERATIONS = ("mm", "bmm", "addmm", "baddbmm", "matmul", "linear")
_INDEX_WRITES = {"aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_WAITING_TAGS = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
# Registrations last as long as these objects live.
_libraries: list[torch.library.Library] = []


def missing_api() -> str:
    """Say which private API this torch lacks; empty where all of it is there."""
    needed = (
        (backend_registration, _SETUP),
        (torch._C, "_acc"),
        (torch._C, "_construct_storage_from_data_pointer"),
        (torch._C, "_should_allow_numbers_as_tensors"),
    )
    lacking = [name for owner, name in needed if not hasattr(owner, name)]
    return f"torch {torch.__version__} lacks {', '.join(lacking)}" if lacking else ""


def register() -> None:
    """Give this process the device, `torch.npu` and an importable `torch_npu`, for good."""
    module = install_modules()
    getattr(backend_registration, _SETUP)("npu", backend_module=module)
    torch.Generator = Generator  # type: ignore[misc, assignment]
    everything, single, autocast = (
        torch.library.Library(name, "IMPL") for name in ("_", "aten", "aten")
    )
    everything.fallback(_compute, "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in _METADATA_OPERATIONS:
        single.impl(name, _metadata_kernel(_overload(name)), "PrivateUse1")
    for function in (
        empty_strided,
        _copy_from,
        _copy_from_and_resize,
        _local_scalar_dense,
        resize_,
    ):
        single.impl(function.__name__, function, "PrivateUse1")
    single.impl("empty.memory_format", empty, "PrivateUse1")
    for function in (_pin_memory, is_pinned):
        single.impl(function.__name__, function, "CPU")
    for name in _AUTOCAST_OPERATIONS:
        autocast.impl(name, _autocast_kernel(_overload(name)), "AutocastPrivateUse1")
    _libraries.extend((everything, single, autocast, formulas.register()))


class Generator(torch.Generator):
    """`torch.Generator` with `device="npu"`: the CPU's numbers, under the device's name.

    A backend written in Python cannot supply generators, so the class itself is replaced.
    """

    _on_device: ClassVar[WeakValueDictionary[int, Generator]] = WeakValueDictionary()

    def __new__(cls, device: torch.device | str = "cpu") -> Generator:
        made = super().__new__(cls)
        if torch.device(device).type == "npu":
            cls._on_device[made._cdata] = made
        return made

    def __init__(self, device: torch.device | str = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("npu" if self._cdata in self._on_device else "cpu")

    @classmethod
    def check(cls, generator: torch.Generator) -> None:
        """Refuse a CPU generator, as a device does. The dispatcher keeps the id, not the class."""
        if generator._cdata not in cls._on_device:
            raise RuntimeError("Expected a 'npu' device type for generator but found 'cpu'")


class _Block:
    """Device memory: the CPU storage behind a device storage, counted while it lives.

    What is let go before keeps its place and holds garbage until it is taken again.
    """

    def __init__(self, host: torch.UntypedStorage) -> None:
        self.host = host
        self._counted: _Counted | None = _Counted(host.nbytes())

    @property
    def is_let_go(self) -> bool:
        return self._counted is None

    def resize(self, num_bytes: int) -> None:
        """Let go of all of it, or take it again."""
        if num_bytes == 0:
            self._counted = None
            self.host.fill_(arrivals.GARBAGE)
        else:
            assert num_bytes == self.host.nbytes(), "another size than it had"
            self._counted = _Counted(num_bytes)


class _Counted:
    """Bytes in use as long as this lives."""

    def __init__(self, num_bytes: int) -> None:
        MEMORY.take(self, num_bytes)


def _on_device(host: Tensor, storage: torch.UntypedStorage | None = None) -> Tensor:
    """Return a device tensor over a host tensor's bytes; storage: where the device has them."""
    tensor = torch._C._acc.create_empty_tensor([0], host.dtype)
    return _seat(tensor, _device_storage(host) if storage is None else storage, host)


def _device_storage(host: Tensor) -> torch.UntypedStorage:
    memory = host.untyped_storage()
    storage = torch._C._construct_storage_from_data_pointer(
        memory.data_ptr(), torch.device("npu", 0), memory.nbytes()
    )
    # The attribute lives as long as the storage, whatever becomes of this Python object.
    storage.block = _Block(memory)
    return storage


def _seat(tensor: Tensor, storage: torch.UntypedStorage, like: Tensor) -> Tensor:
    """Make a device tensor show a storage with the size, strides and offset of another tensor."""
    seat = aten.set_.source_Storage_storage_offset.redispatch
    seat(_HOST_KERNELS, tensor, storage, like.storage_offset(), like.size(), like.stride())
    return tensor


def _compute(operation: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    """Run any operation on the device: the fallback kernel of the backend."""
    refusals.check(operation, args, kwargs)
    facts = _facts(operation)
    if facts.waits or (facts.writes_by_index and _has_mask(args[1])):
        graphs.refuse(f"{facts.name} waits")
    result, devices = _run(operation, args, kwargs)
    refusals.check_results(operation, result)
    note_operation(facts.name, (tensor.dtype for tensor in devices))
    if facts.waits or (facts.writes_by_index and _has_mask(args[1])):
        _wait()
    if graphs.is_recording():
        graphs.note(facts.name, kwargs, lambda named: _again(operation, args, named, result))
    return result


def _again(operation: torch._ops.OpOverload, args: Any, named: Any, result: Any) -> None:
    """Run an operation again; what it makes anew goes where its first result is."""
    fresh, _devices = _run(operation, args, named)
    for old, new in zip(tree_leaves(result), tree_leaves(fresh), strict=True):
        if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
            host_of(old).copy_(host_of(new))


def _run(operation: torch._ops.OpOverload, args: Any, kwargs: Any) -> tuple[Any, list[Tensor]]:
    """Return the result, and all tensors of the device that took part."""
    facts, call = _facts(operation), _Call(operation)
    host_args = [
        torch.tensor(value) if place in facts.numbers and _is_number(value) else call.to_host(value)
        for place, value in enumerate(args)
    ]
    host_kwargs = {
        name: call.output(value) if name in facts.outputs else call.to_host(value)
        for name, value in kwargs.items()
    }
    return call.to_device(operation(*host_args, **host_kwargs)), call.device_tensors


class _Facts(NamedTuple):
    """What a schema says; `waits`: the host needs a value, or a shape that depends on values.

    numbers: where a number stands that was a tensor once, which torch does not make one again.
    """

    name: str
    outputs: frozenset[str]
    numbers: frozenset[int]
    waits: bool
    writes_by_index: bool


@cache
def _facts(operation: torch._ops.OpOverload) -> _Facts:
    schema = operation._schema
    return _Facts(
        name=schema.name,
        outputs=frozenset(argument.name for argument in schema.arguments if argument.is_out),
        numbers=_where_numbers_are_tensors(operation),
        # A mask that reads has been made a list of places before `index` comes here: by `nonzero`.
        waits=schema.name != "aten::index" and bool(_WAITING_TAGS & set(operation.tags)),
        writes_by_index=schema.name in _INDEX_WRITES,
    )


def _where_numbers_are_tensors(operation: torch._ops.OpOverload) -> frozenset[int]:
    schema = operation._schema
    if torch._C._should_allow_numbers_as_tensors(schema.name.removeprefix("aten::")):
        return frozenset()
    tensor = torch._C.TensorType.get()
    return frozenset(n for n, argument in enumerate(schema.arguments) if argument.type == tensor)


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | complex)


def _has_mask(indices: Iterable[Tensor | None]) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in indices)


class _Call:
    """One operation: which host tensor stands for which device tensor."""

    def __init__(self, operation: torch._ops.OpOverload) -> None:
        self._operation = operation
        self.device_tensors: list[Tensor] = []
        self._twins: dict[int, tuple[Tensor, Tensor]] = {}  # id of host -> (host, device)
        self._storages: dict[int, torch.UntypedStorage] = {}  # address -> device storage

    def to_host(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self.to_host(item) for item in value]
        if isinstance(value, torch._C.Generator):
            Generator.check(value)
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if not isinstance(value, Tensor):
            return value
        if value.device.type == "npu":
            return self._twin(value, host_of(value))
        if value.dim():  # a single number may stay on the host, as on every device
            raise RuntimeError(
                f"{self._operation}: Expected all tensors to be on the same device, "
                f"but found at least two devices, npu:0 and {value.device}!"
            )
        return value

    def output(self, value: Tensor) -> Tensor:
        """Return the host tensor to write to. An empty one may grow, so it gets new memory."""
        if value.numel():
            return self._twin(value, host_of(value))
        return self._twin(value, torch.empty_like(value, device="cpu"))

    def _twin(self, device: Tensor, host: Tensor) -> Tensor:
        self.device_tensors.append(device)
        self._twins[id(host)] = (host, device)
        if host.untyped_storage().nbytes():
            self._storages[host.untyped_storage().data_ptr()] = device.untyped_storage()
        return host

    def to_device(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self.to_device(item) for item in value)
        if not isinstance(value, Tensor):
            return value
        _host, device = self._twins.get(id(value), (None, None))
        if device is None:
            # A view of an input shares its storage; everything else is new memory.
            device = _on_device(value, self._storages.get(value.untyped_storage().data_ptr()))
            self.device_tensors.append(device)
        elif device.shape != value.shape:
            assert not device.numel(), "out= of another size"
            _seat(device, _device_storage(value), value)
        return device


def empty(size: Iterable[int], **options: Any) -> Tensor:
    """Allocate; what torch passes as `options` is dtype, layout, device and memory format."""
    return _on_device(torch.empty(size, **{**options, "device": "cpu"}))


def empty_strided(size: Iterable[int], stride: Iterable[int], **options: Any) -> Tensor:
    """Allocate with strides."""
    return _on_device(torch.empty_strided(size, stride, **{**options, "device": "cpu"}))


def resize_(tensor: Tensor, size: Iterable[int], *, memory_format: Any = None) -> Tensor:
    """Change the size; values are kept only where no more memory is needed."""
    grown = torch.empty(size, dtype=tensor.dtype)
    fits = tensor.untyped_storage().nbytes() >= grown.untyped_storage().nbytes()
    return _seat(tensor, tensor.untyped_storage() if fits else _device_storage(grown), grown)


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy between host and device, or inside the device with another dtype."""
    on_device = [tensor.dtype for tensor in (source, target) if tensor.device.type == "npu"]
    refusals.check_dtypes("aten::copy_", on_device)
    note_operation("aten::copy_", on_device)
    if target.device.type != "npu":
        graphs.refuse("a copy to the host")
        if non_blocking and is_pinned(target):
            arrivals.queue_copy(target, host_of(source))
            return target
        _wait()
    elif source.device.type != "npu":
        graphs.refuse("a copy from the host")
        note_upload(pinned=is_pinned(source))
    elif graphs.is_recording():
        graphs.note("aten::copy_", {}, lambda _named: _copy(source, target))
    _copy(source, target)
    return target


def _wait() -> None:
    """Let the host wait for all that is queued."""
    arrivals.finish(arrivals.now())
    note_wait()


def _copy(source: Tensor, target: Tensor) -> None:
    host_of(target).copy_(host_of(source))


def _pin_memory(tensor: Tensor, device: object = None) -> Tensor:
    """Copy into host memory that the device reaches by itself; here it only bears a mark."""
    pinned = tensor.clone()
    pinned.untyped_storage().pinned = True  # type: ignore[attr-defined]
    return pinned


def is_pinned(tensor: Tensor, device: object = None) -> bool:
    """Tell whether a host tensor's memory bears the mark."""
    return hasattr(tensor.untyped_storage(), "pinned")


def _copy_from_and_resize(source: Tensor, target: Tensor) -> Tensor:
    """Copy into a tensor that takes the source's size."""
    return _copy_from(source, target.resize_(source.shape))


def _local_scalar_dense(tensor: Tensor) -> Any:
    """Fetch one number: `.item()`, `float(tensor)`, `if tensor:`."""
    refusals.check_dtypes("aten::_local_scalar_dense", (tensor.dtype,))
    graphs.refuse("reading a number")
    note_operation("aten::_local_scalar_dense", (tensor.dtype,))
    _wait()
    return host_of(tensor).item()


def _metadata_kernel(overload: torch._ops.OpOverload) -> Callable[..., Any]:
    return lambda *args, **kwargs: overload.redispatch(_HOST_KERNELS, *args, **kwargs)


def _autocast_kernel(overload: torch._ops.OpOverload) -> Callable[..., Any]:
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def lowered(value: Any) -> Any:
        floats = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(torch.get_autocast_dtype("npu")) if floats else value

    def kernel(*args: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(key):
            return overload(*(lowered(value) for value in args))

    return kernel


def _overload(name: str) -> torch._ops.OpOverload:
    packet, _dot, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")  # type: ignore[no-any-return]
