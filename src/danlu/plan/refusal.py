"""What to say when nothing fits: what is missing, and the smallest change that would do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from danlu.errors import CapacityError
from danlu.language import _
from danlu.model.sizes import num_parameters, published_config, published_names
from danlu.plan.choose import USABLE, Plan, Wish, choose
from danlu.plan.job import Job
from danlu.plan.workload import Segment, Workload

_CUTOFFS = (8192, 4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256)
_GB = 1e9


def refusal(plan: Plan, wish: Wish) -> CapacityError:
    """Say why a plan has nothing chosen, and what to change first."""
    least = min(plan.options, key=lambda option: option.memory.total)
    fix = next(_changes_that_fit(plan, wish), None)
    needed = least.memory.total / USABLE
    if fix is None:
        fix = _("Use a device with {size:.0f} GB or more.").format(size=needed / _GB)
    return CapacityError(
        _("This run does not fit into the memory of {device}.").format(
            device=plan.device.description
        ),
        why=_(
            "It needs {needed:.1f} GB at least ({weights:.1f} GB of weights, {trained:.1f} GB for "
            "what is trained); {budget:.1f} GB can be used."
        ).format(
            needed=needed / _GB,
            weights=least.memory.weights / _GB,
            trained=least.memory.trained / _GB,
            budget=plan.budget_bytes / _GB,
        ),
        fix=fix,
    )


def _changes_that_fit(plan: Plan, wish: Wish) -> Iterator[str]:
    """Give changes that make it fit, the least painful first."""
    if wish != Wish() and _fits(plan, plan.job, plan.workload):
        yield _("Leave out --micro_batch_tokens and --recompute; a plan is chosen then.")
    job, workload = plan.job, plan.workload
    for cutoff in _CUTOFFS:
        if cutoff < workload.longest and _fits(plan, job, shortened(workload, cutoff)):
            yield f"--cutoff_len {cutoff}"
            break
    if job.number_bytes == 4:
        half = replace(job, number_bytes=2)
        if _fits(plan, half, workload):
            yield "--dtype bfloat16"
        job = half
    if job.trains_all:
        ranks = dict.fromkeys(
            ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 8
        )
        job = replace(job, ranks=ranks)
        if _fits(plan, job, workload):
            yield "--finetuning_type lora"
    for name in reversed(published_names()):
        config = published_config(name)
        assert config is not None
        is_smaller = num_parameters(config) < num_parameters(job.config)
        if is_smaller and _fits(plan, replace(job, config=config), workload):
            yield _("Use a smaller model, such as {name}.").format(name=name)
            break


def _fits(plan: Plan, job: Job, workload: Workload) -> bool:
    found = choose(job, workload, plan.device, budget_bytes=plan.budget_bytes)
    return found.chosen is not None


def shortened(workload: Workload, cutoff_len: int) -> Workload:
    """Return the same steps with no example over so many tokens."""

    def cut(segment: Segment) -> Segment:
        tokens = min(segment.tokens, cutoff_len)
        return Segment(tokens=tokens, targets=min(segment.targets, tokens))

    return replace(
        workload,
        steps=[[cut(segment) for segment in step] for step in workload.steps],
        evaluation=[cut(segment) for segment in workload.evaluation],
        longest_possible=min(workload.longest_possible, cutoff_len),
    )
