"""Which variant of each operation a kind of device computes with: one table, filled by a probe.

An `Operation` is declared beside its variants. When a kind of device is first asked for, the
variants that suit it (`device/variants.py`) are tried in order of preference: each computes a small
example there, in fp32 and in bf16, and the first whose numbers agree with the readable twin's on
the CPU is taken. One that does not agree, or cannot run, is switched off and named.

DANLU_OPS=rms_norm=reference,adamw=unfused asks for variants by name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from danlu.device.detect import multiplies_bf16
from danlu.device.memory import is_out_of_memory
from danlu.device.openmp import one_thread
from danlu.device.variants import REFERENCE, preferred_variants
from danlu.errors import EnvironmentFault, UsageError
from danlu.language import _, wrapped

VARIABLE = "DANLU_OPS"
T = TypeVar("T")


class NotHere(Exception):
    """A trial's answer that a device has no such variant: nothing is wrong."""


class NotBuilt(NotHere):
    """A trial's answer that the variant could be here: a sentence for people, with what to type."""


# Tries a variant: returns what it computes of fixed numbers, on any device.
Trial = Callable[[T, torch.device, torch.dtype], Sequence[Tensor]]

# The largest error of a number, as a share of the largest number, in fp32 and in 16 bits. bf16
# carries 8 bits, and several roundings follow each other; a wrong mask, position or scale is off by
# more than this.
_TOLERANCE, _TOLERANCE_16 = 1e-4, 0.05
_OPERATIONS: dict[str, Operation[object]] = {}
# How often a trial is timed; the least counts.
_TIMED = 3


@dataclass(frozen=True, kw_only=True)
class OpsTable:
    """What a kind of device computes with.

    chosen: variants by operation. off: each variant that was switched off, and why. not_built: why
    variants are missing that could be here.
    """

    chosen: Mapping[str, str]
    off: tuple[str, ...]
    not_built: tuple[str, ...] = ()

    @property
    def as_text(self) -> str:
        """The table as the variable DANLU_OPS takes it."""
        return ",".join(f"{name}={variant}" for name, variant in self.chosen.items())

    def describe(self) -> list[str]:
        """Say what is computed with, in lines of a terminal's width."""
        names = self.as_text.replace(",", ", ")
        lines = [_("Operations: {table}").format(table=names), *self.not_built]
        return [part for line in lines for part in wrapped(line, 78, "  ")]

    def warn(self) -> list[str]:
        """Say what is switched off, a sentence each."""
        return [_("switched off: {variant}").format(variant=text) for text in self.off]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """How a variant did on its example. fault: None where it computes rightly.

    seconds: what the example took in bf16, twin_seconds: what it took the readable twin there; None
    where it did not run. is_taken: the device computes with it.
    """

    operation: str
    variant: str
    fault: str | None
    seconds: float | None
    twin_seconds: float | None
    is_taken: bool


class Operation(Generic[T]):
    """One operation with its variants; `on` returns the one that a device computes with.

    name: as in `device/variants.py`. variants: by name; the twin, `reference`, is one of them.
    """

    def __init__(self, name: str, variants: Mapping[str, T], trial: Trial[T]) -> None:
        self.name = name
        self.variants = dict(variants)
        self.off: dict[str, list[str]] = {}  # by kind
        self.not_built: dict[str, str] = {}  # by kind
        self._trial = trial
        self._chosen: dict[str, tuple[str, T]] = {}  # by kind
        _OPERATIONS[name] = self  # type: ignore[assignment]

    def add(self, name: str, variant: T) -> None:
        """Take in a variant that stands elsewhere: one of a single kind of device."""
        self.variants[name] = variant

    def on(self, device: torch.device) -> T:
        """Return the variant of a device. Raises what `ops_table` raises, the first time."""
        return self._choice(device)[1]

    def name_on(self, device: torch.device) -> str:
        """Return the name of a device's variant. Raises what `ops_table` raises, the first time."""
        return self._choice(device)[0]

    @property
    def is_wanted(self) -> bool:
        """Whether DANLU_OPS asks for a variant of it. Raises UsageError."""
        return self.name in _wanted()

    def take(self, name: str, device: torch.device) -> bool:
        """Compute with a variant from now on, if it is there and computes rightly; tell whether."""
        if name not in self.variants:
            return False
        try:
            with one_thread():
                fault = self._fault(name, device)
        except NotHere:
            return False
        if fault is None:
            self._chosen[device.type] = name, self.variants[name]
        return fault is None

    def examine(self, device: torch.device) -> Iterator[Tried]:
        """Try every variant that suits a kind of device, and time it beside the twin."""
        twin = self._time(REFERENCE, device)
        for name in preferred_variants(device.type)[self.name]:
            try:
                fault = self._fault(name, device)
            except NotHere:
                continue
            yield Tried(
                operation=self.name,
                variant=name,
                fault=fault,
                seconds=None if fault else self._time(name, device),
                twin_seconds=twin,
                is_taken=self.name_on(device) == name,
            )

    def _time(self, name: str, device: torch.device) -> float | None:
        found = []
        try:
            for _again in range(_TIMED):
                begun = time.perf_counter()
                for tensor in self._trial(self.variants[name], device, half_dtype(device)):
                    tensor.detach().cpu()  # waits for it
                found.append(time.perf_counter() - begun)
        except Exception:  # said by `_fault`, and a twin that cannot run is not timed
            return None
        return min(found)

    def _choice(self, device: torch.device) -> tuple[str, T]:
        kind = device.type
        if kind not in self._chosen:
            with one_thread():
                name, self.off[kind] = self._choose(device)
            self._chosen[kind] = name, self.variants[name]
        return self._chosen[kind]

    def _choose(self, device: torch.device) -> tuple[str, list[str]]:
        wanted = _wanted().get(self.name)
        names = [wanted] if wanted else [*preferred_variants(device.type)[self.name], REFERENCE]
        if device.type == "meta":  # shapes only: there are no numbers to compare
            return names[0], []
        off: list[str] = []
        for name in names:
            try:
                fault = self._fault(name, device)
            except NotHere as reason:
                if not wanted:
                    if isinstance(reason, NotBuilt):
                        self.not_built[device.type] = str(reason)
                    continue
                fault = str(reason)
            if fault is None:
                return name, off
            if wanted:
                raise EnvironmentFault(
                    _("{variable} asks for {name}={variant}, which this device cannot do.").format(
                        variable=VARIABLE, name=self.name, variant=name
                    ),
                    why=fault,
                    fix=_("Leave {name} out of {variable}; the best variant is chosen.").format(
                        name=self.name, variable=VARIABLE
                    ),
                )
            off.append(f"{self.name}={name}: {fault}")
        return REFERENCE, off

    def _broken(self, name: str, device: torch.device, words: str) -> EnvironmentFault:
        """Say that a variant has broken the device, and how the next one is taken."""
        others = [*preferred_variants(device.type)[self.name], REFERENCE]
        following = others[others.index(name) + 1 :] if name in others else others
        return EnvironmentFault(
            _(
                "The device does not compute any more since {name}={variant} was tried on it."
            ).format(name=self.name, variant=name),
            why=words,
            fix=f"export {VARIABLE}={self.name}={(following or [REFERENCE])[0]}",
        )

    def _fault(self, name: str, device: torch.device) -> str | None:
        """Say what is wrong with a variant on a device; None where it computes rightly.

        Raises EnvironmentFault for one that has broken the device for this process.
        """
        twin, variant = self.variants[REFERENCE], self.variants[name]
        expected: Sequence[Tensor] | None = None
        for dtype in (torch.float32, half_dtype(device)):
            tolerance = _TOLERANCE if dtype == torch.float32 else _TOLERANCE_16
            try:
                # Wherever the first use is, gradients are needed here.
                with torch.inference_mode(False), torch.enable_grad():
                    if expected is None:
                        expected = self._trial(twin, torch.device("cpu"), torch.float32)
                    error = _error(self._trial(variant, device, dtype), expected)
            except NotHere:
                raise
            except Exception as problem:
                if is_out_of_memory(problem):
                    raise
                words = f"{type(problem).__name__}: {problem}".splitlines()[0]
                if not _computes(device):
                    raise self._broken(name, device, words) from problem
                return words
            if not error <= tolerance:  # NaN too
                return _("its numbers are off by {share:.2g} of the largest in {dtype}").format(
                    share=error, dtype=str(dtype).removeprefix("torch.")
                )
        return None


def _computes(device: torch.device) -> bool:
    """Whether a device still does: a kernel that leaves its memory ends that for a process."""
    try:
        torch.ones(1, device=device).cpu()
    except Exception:
        return False
    return True


def half_dtype(device: torch.device) -> torch.dtype:
    """Return the 16-bit dtype that a kind of device computes in: some have no bfloat16."""
    return torch.bfloat16 if multiplies_bf16(device.type) else torch.float16


def ops_table(device: torch.device) -> OpsTable:
    """Choose for a kind of device, where that has not been done, and return the whole table.

    Raises UsageError for a variable DANLU_OPS that names what there is not, EnvironmentFault for
    one that asks for a variant which does not compute rightly here, and for a variant after whose
    trial the device computes nothing any more.
    """
    operations = [_OPERATIONS[name] for name in sorted(_OPERATIONS)]
    chosen = {operation.name: operation.name_on(device) for operation in operations}
    off = [text for operation in operations for text in operation.off.get(device.type, ())]
    reasons = (operation.not_built.get(device.type) for operation in operations)
    not_built = dict.fromkeys(reason for reason in reasons if reason is not None)
    return OpsTable(chosen=chosen, off=tuple(off), not_built=tuple(not_built))


def examine_operations(device: torch.device) -> Iterator[Tried]:
    """Try all variants of all operations on a kind of device; raises what `ops_table` raises."""
    ops_table(device)
    for _name, operation in sorted(_OPERATIONS.items()):
        yield from operation.examine(device)


def take_variants(device: torch.device, recorded: Mapping[str, str]) -> tuple[str, ...]:
    """Compute with the variants that a run has recorded, so that its numbers go on as they were.

    Returns what is computed otherwise now, each as `name: recorded -> now`: a variant that is not
    here any more, or that DANLU_OPS asks for.
    """
    others = []
    for name, variant in recorded.items():
        operation = _OPERATIONS.get(name)
        if operation is None or variant == (now := operation.name_on(device)):
            continue
        if name in _wanted() or not operation.take(variant, device):
            others.append(f"{name}: {variant} -> {now}")
    return tuple(others)


def _wanted() -> Mapping[str, str]:
    """Read the variable. Raises UsageError."""
    pairs = [pair.strip() for pair in os.environ.get(VARIABLE, "").split(",") if pair.strip()]
    wanted: dict[str, str] = {}
    for pair in pairs:
        name, _equals, variant = pair.partition("=")
        operation = _OPERATIONS.get(name)
        if operation is None or variant not in operation.variants:
            known = sorted(_OPERATIONS) if operation is None else sorted(operation.variants)
            raise UsageError(
                _("{variable} names {pair}, which there is not.").format(
                    variable=VARIABLE, pair=pair
                ),
                why=(
                    _("The operations are {names}.")
                    if operation is None
                    else _("Its variants are {names}.")
                ).format(names=", ".join(known)),
                fix=f"{VARIABLE}={name if operation else known[0]}={REFERENCE}",
            )
        wanted[name] = variant
    return wanted


def _error(got: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest error of any number, as a share of the largest number of its tensor."""
    errors = [
        (g.detach().cpu().float() - e.detach()).abs().max() / e.detach().abs().max().clamp(min=1e-6)
        for g, e in zip(got, expected, strict=True)
    ]
    return float(torch.stack(errors).max())


def twin_gradients(
    twin: Callable[..., Tensor | Sequence[Tensor]],
    gradient: Tensor | Sequence[Tensor],
    tensors: Sequence[Tensor],
    *rest: object,
) -> tuple[Tensor, ...]:
    """Return the gradients of a readable twin's tensors, by autograd."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with torch.enable_grad():
        value = twin(*leaves, *rest)
    return torch.autograd.grad(value, leaves, gradient)


def example(
    *shape: int, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Tensor:
    """Return fixed numbers to try a variant on, the same on every device."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    # Rounded to bf16, so that all dtypes begin with the same numbers.
    values = torch.randn(shape, generator=generator).bfloat16()
    return values.to(device, dtype)
