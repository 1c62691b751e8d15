"""What to say when nothing fits: what is missing, and the smallest change that would do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain

from danlu.errors import CapacityError
from danlu.language import _
from danlu.model.config import WeightForm
from danlu.model.layout import ATTENTION, PROJECTIONS
from danlu.model.sizes import num_parameters, published_config, published_names
from danlu.plan.choose import USABLE, Basis, Constraints, NothingFits, Plan, choose
from danlu.plan.job import Job
from danlu.plan.workload import ExampleShape, Workload
from danlu.units import readable_bytes

# Of devices in a machine.
_COUNTS = (2, 4, 8, 16)
# A base below an adapter in fewer bits, as --quantization_bit makes it.
_FEWER_BITS: dict[WeightForm, dict[str, str | None]] = {
    "int8": {"quantization_bit": "8"},
    "int4": {"quantization_bit": "4"},
    "nf4": {"quantization_bit": "4", "quantization_type": "nf4"},
}
_ON_ATTENTION: dict[str, str | None] = {"lora_target": ",".join(ATTENTION)}
_CUTOFFS = (8192, 4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256)


class TooLarge(CapacityError):
    """A run that fits in no way.

    needed_bytes: what the leanest way needs. change: the settings that would do, by name; None
    stands for leaving one out. Empty where only another device would.
    """

    def __init__(
        self, what: str, *, why: str, fix: str, change: Mapping[str, str | None], needed_bytes: int
    ) -> None:
        super().__init__(what, why=why, fix=fix)
        self.change = dict(change)
        self.needed_bytes = needed_bytes


def refusal(found: NothingFits) -> TooLarge:
    """Say what is missing, and what to change first."""
    least = found.leanest
    needed = least.memory.total / USABLE
    larger = _("Use a device with {size} or more.").format(size=readable_bytes(int(needed)))
    fix, change = next(_changes_that_fit(found), (larger, {}))
    if (flags := _on_more_devices(found)) is not None:
        text = _("{fix}, or divide it among several devices: {flags}")
        fix = text.format(fix=fix.rstrip(".。"), flags=flags)
    return TooLarge(
        _("This run does not fit into the memory of {device}.").format(
            device=found.device.description
        ),
        why=_(
            "It needs {needed} at least ({weights} of weights, {trained} for what is trained); "
            "{budget} can be used."
        ).format(
            needed=readable_bytes(int(needed)),
            weights=readable_bytes(least.memory.weights),
            trained=readable_bytes(least.memory.trained),
            budget=readable_bytes(found.budget_bytes),
        ),
        fix=fix,
        change=change,
        needed_bytes=int(needed),
    )


def _changes_that_fit(basis: Basis) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Give changes that make it fit, the least painful first: in words, and by setting."""
    job, workload = basis.job, basis.workload
    if basis.constraints != Constraints() and _fits(basis, job, workload):
        text = _("Leave out --micro_batch_tokens and --recompute; a plan is chosen then.")
        yield text, {"micro_batch_tokens": None, "recompute": None}
    for cutoff in _CUTOFFS:
        if cutoff < workload.longest and _fits(basis, job, shortened(workload, cutoff)):
            yield f"--cutoff_len {cutoff}", {"cutoff_len": str(cutoff)}
            break
    change: dict[str, str | None] = {}
    if job.number_bytes == 4:
        dtype = "bfloat16" if basis.device.has_bf16 else "float16"
        job, change = replace(job, number_bytes=2), {"dtype": dtype}
        if _fits(basis, job, workload):
            yield _as_flags(change), change
    if job.trains_all:
        projections = chain.from_iterable(PROJECTIONS.values())
        job = replace(job, ranks=dict.fromkeys(projections, 8))
        change = {**change, "finetuning_type": "lora"}
        if _fits(basis, job, workload):
            yield _as_flags(change), change
    leaner = _on_attention(job)
    in_fewer_bits = list(_in_fewer_bits(job))
    on_attention = [] if leaner is None else [(leaner, {}), *_in_fewer_bits(leaner)]
    for ways, besides in ((in_fewer_bits, {}), (on_attention, _ON_ATTENTION)):
        fitting = (flags for way, flags in ways if _fits(basis, way, workload))
        if (flags := next(fitting, None)) is not None:
            change = {**change, **besides, **flags}
            yield _as_flags(change), change
    for name in reversed(published_names()):
        config = published_config(name)
        if config is None or num_parameters(config) >= num_parameters(job.config):
            continue
        if _fits(basis, replace(job, config=config), workload):
            text = _("Use a smaller model, such as {name}.")
            if change:
                text = _("Use a smaller model, such as {name}, and {flags}")
            text = text.format(name=name, flags=_as_flags(change))
            yield text, {"model_name_or_path": name, **change}
            break


def _in_fewer_bits(job: Job) -> Iterator[tuple[Job, dict[str, str | None]]]:
    """Give the job with smaller forms of its base, and the settings for each."""
    forms = [*_FEWER_BITS]
    start = 1 + forms.index(job.base_form) if job.base_form in forms else 0
    for form in forms[start:]:
        flags = _FEWER_BITS[form]
        without_fp8 = {"fp8": "false"} if job.base_form == "fp8" else {}
        # Such a base is not divided among devices.
        yield replace(job, base_form=form, num_shares=1), {**flags, **without_fp8}


def _on_attention(job: Job) -> Job | None:
    """Return the job without adapters on experts; None where there are none.

    Each expert has its own, and an adapter is whole on every device.
    """
    if job.config.experts is None or job.ranks is None or job.ranks.keys() <= set(ATTENTION):
        return None
    return replace(job, ranks=dict.fromkeys(ATTENTION, max(job.ranks.values())))


def _on_more_devices(basis: Basis) -> str | None:
    """Write on how many such devices it would fit, 16 at most; None where on no number."""
    if basis.job.base_form is not None or not basis.device.has_host:
        return None
    counts = [count for count in _COUNTS if count > basis.workload.num_devices]
    ways: list[tuple[Job, Mapping[str, str | None]]] = [(basis.job, {})]
    if (leaner := _on_attention(basis.job)) is not None:
        ways.append((leaner, _ON_ATTENTION))
    for job, change in ways:
        for count in counts:
            workload = replace(basis.workload, num_devices=count)
            if _fits(basis, replace(job, num_shares=count), workload):
                return _as_flags({"num_devices": str(count), **change})
    return None


def _as_flags(change: Mapping[str, str | None]) -> str:
    return " ".join(f"--{name} {value}" for name, value in change.items())


def _fits(basis: Basis, job: Job, workload: Workload) -> bool:
    found = choose(job, workload, basis.device, budget_bytes=basis.budget_bytes)
    return isinstance(found, Plan)


def shortened(workload: Workload, cutoff_len: int) -> Workload:
    """Return the same steps with every example cut to `cutoff_len` tokens."""

    def cut(example: ExampleShape) -> ExampleShape:
        tokens = min(example.tokens, cutoff_len)
        return ExampleShape(tokens=tokens, targets=min(example.targets, tokens))

    return replace(
        workload,
        steps=[[cut(example) for example in step] for step in workload.steps],
        evaluation=[cut(example) for example in workload.evaluation],
        longest_possible=min(workload.longest_possible, cutoff_len),
    )
