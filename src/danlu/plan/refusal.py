"""What to say when nothing fits: what is missing, and the smallest change that would do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from danlu.errors import CapacityError
from danlu.files.units import readable_bytes
from danlu.language import _
from danlu.model.layout import PROJECTIONS
from danlu.model.sizes import num_parameters, published_config, published_names
from danlu.plan.choose import USABLE, Basis, Constraints, NothingFits, Plan, choose
from danlu.plan.job import Job
from danlu.plan.workload import ExampleShape, Workload

_CUTOFFS = (8192, 4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256)


def refusal(found: NothingFits) -> CapacityError:
    """Say what is missing, and what to change first."""
    least = found.leanest
    fix = next(_changes_that_fit(found), None)
    needed = least.memory.total / USABLE
    if fix is None:
        fix = _("Use a device with {size} or more.").format(size=readable_bytes(int(needed)))
    return CapacityError(
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
    )


def _changes_that_fit(basis: Basis) -> Iterator[str]:
    """Give changes that make it fit, the least painful first."""
    job, workload = basis.job, basis.workload
    if basis.constraints != Constraints() and _fits(basis, job, workload):
        yield _("Leave out --micro_batch_tokens and --recompute; a plan is chosen then.")
    for cutoff in _CUTOFFS:
        if cutoff < workload.longest and _fits(basis, job, shortened(workload, cutoff)):
            yield f"--cutoff_len {cutoff}"
            break
    flags = ""
    if job.number_bytes == 4:
        job, flags = replace(job, number_bytes=2), "--dtype bfloat16"
        if _fits(basis, job, workload):
            yield flags
    if job.trains_all:
        projections = chain.from_iterable(PROJECTIONS.values())
        job = replace(job, ranks=dict.fromkeys(projections, 8))
        flags = f"{flags} --finetuning_type lora".strip()
        if _fits(basis, job, workload):
            yield flags
    for name in reversed(published_names()):
        config = published_config(name)
        if config is None or num_parameters(config) >= num_parameters(job.config):
            continue
        if _fits(basis, replace(job, config=config), workload):
            text = _("Use a smaller model, such as {name}.")
            if flags:
                text = _("Use a smaller model, such as {name}, and {flags}")
            yield text.format(name=name, flags=flags)
            break


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
