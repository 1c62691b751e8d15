"""A plan in words and in figures: for `danlu plan`, for the lines before a run, for the studio."""

from __future__ import annotations

from typing import Any

from danlu.language import _, columns, padded
from danlu.model.config import WeightForm
from danlu.plan.choose import EQUALLY_FAST, USABLE, Candidate, Plan
from danlu.plan.speed import exchange_seconds, gathering_seconds
from danlu.train.job.record import plan_record
from danlu.train.settings import TrainSettings
from danlu.units import GIB, readable_bytes


def summary(plan: Plan) -> str:
    """Say in one sentence whether a run fits, and how long it takes."""
    if plan.workload.report_s:
        text = _(
            "fits: {needed} of {budget}, about {time} for the steps; with loading, measuring and "
            "the report at most {whole}"
        )
    else:
        text = _(
            "fits: {needed} of {budget}, about {time} for the steps; with loading and measuring "
            "about {whole}"
        )
    return text.format(
        needed=readable_bytes(plan.chosen.memory.total),
        budget=readable_bytes(plan.budget_bytes),
        time=readable_duration(plan.total_s),
        whole=readable_duration(plan.total_s + plan.around_s),
    )


def way(candidate: Candidate) -> str:
    """Say how a step is computed."""
    step_plan = candidate.step_plan
    text = _(
        "micro-batches of up to {tokens} tokens ({count:.1f} a step), loss in chunks of {rows} "
        "rows, recomputation: {recompute}"
    ).format(
        tokens=step_plan.micro_batch_tokens,
        count=candidate.microsteps,
        rows=step_plan.chunk_rows,
        recompute=step_plan.recompute,
    )
    packed = _("{way}, frozen matrices packed for both directions")
    return packed.format(way=text) if step_plan.packs_base else text


def plan_lines(plan: Plan, model: str) -> list[str]:
    """Write a plan so that a reader can follow it."""
    return [
        *_what_is_planned(plan, model),
        "",
        summary(plan),
        _origin(plan),
        "",
        *_memory_table(plan),
        "",
        *_candidates_table(plan),
    ]


def _origin(plan: Plan) -> str:
    """Say what the time rests on."""
    if plan.speed.is_measured:
        return _("The time is measured on this device.")
    if plan.device.is_rough:
        return _(
            "danlu has no data sheet of this device: the time is a rough estimate; a run measures "
            "it before it starts."
        )
    return _("The time comes from the device's data sheet; a run measures it before it starts.")


def _what_is_planned(plan: Plan, model: str) -> list[str]:
    job, work = plan.job, plan.workload
    lines = [
        _("{model}, {kind}: {count} numbers are trained, {bits}, on {device}").format(
            model=model,
            kind="full" if job.trains_all else "lora",
            count=f"{job.num_trained:,}",
            bits=precision_words(_("{bits} bits").format(bits=8 * job.number_bytes), job.base_form),
            device=plan.device.description,
        ),
        _("{steps} steps of up to {tokens} tokens; the longest example has {longest}").format(
            steps=work.total_steps, tokens=f"{work.largest_step:,}", longest=f"{work.longest:,}"
        ),
    ]
    if work.num_devices > 1:
        lines.append(_devices_line(plan))
    if work.is_estimated:
        lines.append(
            _(
                "The model's tokenizer is not on this machine: lengths are estimated and may be "
                "off by a fifth."
            )
        )
    return lines


def _devices_line(plan: Plan) -> str:
    exchange = exchange_seconds(plan.job, plan.workload.num_devices, plan.device)
    text = _(
        "{count} devices share each step, these are the tokens of one; each holds the whole model; "
        "adding up the gradients takes {ms:.1f} ms of {step:.2f} s"
    )
    if plan.job.is_shared:
        text = _(
            "{count} devices share each step, these are the tokens of one; each holds a share of "
            "the model and receives the others' in {gather:.2f} s a pass, beside computing"
        )
    return text.format(
        count=plan.workload.num_devices,
        ms=1e3 * exchange,
        step=plan.chosen.step_s,
        gather=gathering_seconds(plan.job, plan.device),
    )


def precision_words(precision: str, base_form: WeightForm | None) -> str:
    """Name what is computed in, with the form of the base below an adapter."""
    if base_form is None:
        return precision
    return _("{precision}, base in {form}").format(precision=precision, form=base_form)


def precision_lines(settings: TrainSettings, plan: Plan) -> list[str]:
    """Say that 16 bits are float16 where the device has no bfloat16."""
    if plan.device.has_bf16 or plan.job.number_bytes != 2 or settings.dtype == "bfloat16":
        return []
    text = _("{device} has no bfloat16: a run computes in float16, with a loss scale.")
    return [text.format(device=plan.device.description.partition(",")[0])]


def quantization_lines(settings: TrainSettings) -> list[str]:
    """Say how the base below an adapter is quantised, and what takes another program's place."""
    method = settings.quantization_method
    if settings.quantization_bit is None:
        if method is None and settings.quantization_type is None:
            return []
        return [_("Without --quantization_bit the base is not quantised.")]
    form = settings.base_form
    lines = [
        _(
            "The base is quantised to {form} while it is read; embedding, output matrix and "
            "adapter keep their precision."
        ).format(form=form)
    ]
    if method is not None and form != "nf4":
        own = _("--quantization_method {method}: danlu's own {form} takes its place.")
        lines.append(own.format(method=method, form=form))
    return lines


def memory_rows(plan: Plan) -> list[tuple[str, int, str]]:
    """Say what takes memory: a name, bytes and a remark each; the sum before the host's."""
    memory, step_plan = plan.chosen.memory, plan.chosen.step_plan
    rows = [
        (_("program and drivers"), memory.process, ""),
        (
            _("weights"),
            memory.weights,
            _("packed for both directions") if step_plan.packs_base else "",
        ),
        (_("trained numbers, gradients, moments"), memory.trained, ""),
        (
            _("kept for the backward pass"),
            memory.activations,
            _("{tokens} tokens, {recompute}").format(
                tokens=plan.heaviest.tokens, recompute=step_plan.recompute
            ),
        ),
        (
            _("loss or one layer at work"),
            memory.working,
            _("{rows} rows at a time").format(rows=step_plan.chunk_rows),
        ),
        (_("lost between allocations"), memory.slack, ""),
        (_("together, at the peak"), memory.total, ""),
    ]
    if plan.host_bytes:
        rows.append((_("on the host"), plan.host_bytes, ""))
    return rows


def _memory_table(plan: Plan) -> list[str]:
    rows = memory_rows(plan)
    width = max(columns(name) for name, _size, _note in rows) + 1
    return [
        _("Memory in GiB"),
        *(
            f"  {padded(name, width)}{size / GIB:7.2f}  {note}".rstrip()
            for name, size, note in rows
        ),
    ]


def _candidates_table(plan: Plan) -> list[str]:
    heads = padded(_("recomputation"), 16) + padded(_("micro-batch"), 14)
    heads += padded(_("a step"), 9) + f"{'GiB':>7}  {_('s a step')}"
    lines = [_("Ways to compute a step"), f"  {heads}"]
    for candidate in plan.candidates:
        step_plan, size = candidate.step_plan, candidate.memory.total / GIB
        verdict = "" if plan.fits(candidate) else _("too large")
        lines.append(
            f"  {padded(step_plan.recompute, 16)}{step_plan.micro_batch_tokens:<14}"
            f"{candidate.microsteps:<9.1f}{size:7.1f}  {candidate.step_s:<9.2f}"
            + (_("chosen") if candidate == plan.chosen else verdict)
        )
    return [
        *(line.rstrip() for line in lines),
        _(
            "The fastest way that fills at most {usable:.0%} of the memory is taken; of ways "
            "within {within:.0%} of it, the one that needs least."
        ).format(usable=USABLE, within=EQUALLY_FAST - 1),
    ]


def plan_fields(plan: Plan) -> dict[str, Any]:
    """Write a plan for programs: what is planned, the choice, and what was compared."""
    return {
        "device": plan.device.name,
        "device_description": plan.device.description,
        "total_steps": plan.workload.total_steps,
        "largest_step_tokens": plan.workload.largest_step,
        "longest_example_tokens": plan.workload.longest,
        "lengths_are_estimated": plan.workload.is_estimated,
        "num_trained": plan.job.num_trained,
        "num_devices": plan.workload.num_devices,
        "base_is_divided": plan.job.is_shared,
        **plan_record(plan),
        "options": [
            {
                "recompute": candidate.step_plan.recompute,
                "micro_batch_tokens": candidate.step_plan.micro_batch_tokens,
                "chunk_rows": candidate.step_plan.chunk_rows,
                "packs_base": candidate.step_plan.packs_base,
                "total_bytes": candidate.memory.total,
                "step_s": round(candidate.step_s, 4),
                "fits": plan.fits(candidate),
            }
            for candidate in plan.candidates
        ],
    }


def readable_duration(seconds: float) -> str:
    """Write how long something takes, as people say it."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return _("{count} s").format(count=max(1, round(seconds)))
    if minutes < 120:
        return _("{count} min").format(count=minutes)
    return _("{hours} h {minutes} min").format(hours=minutes // 60, minutes=minutes % 60)
