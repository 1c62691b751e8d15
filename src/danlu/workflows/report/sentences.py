"""The sentences and tables of the before/after report, from its measurements."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from danlu.language import _
from danlu.program import as_typed
from danlu.runs.curve import AXES, CURVE_FILE, CURVES, LossCurves, loss_svg
from danlu.runs.registry import shown_state
from danlu.text.conversation import Conversation
from danlu.train.job.plan_shown import precision_words
from danlu.units import readable_bytes
from danlu.workflows.answer_form import is_empty, repeats_itself, visible_text
from danlu.workflows.answers import Answer
from danlu.workflows.report.before_after import BeforeAfter
from danlu.workflows.report.page import (
    Heading,
    Page,
    Paragraph,
    Part,
    Picture,
    Said,
    SideBySide,
    Table,
)
from danlu.workflows.report.prompts import GENERAL_PROMPTS
from danlu.workflows.report.verdict import loss_of_training, verdict
from danlu.workflows.scores import is_exact

# How many of the rows that were left out are listed.
_SHOWN_ROWS = 10
# The longest beginning of an answer in a cell, in characters.
_CELL_LENGTH = 300


def page_of(found: BeforeAfter) -> Page:
    """Write the report in the language of the user."""
    run = found.run
    what = {"lora": _("adapter"), "full": _("all weights")}.get(run.kind, run.kind)
    return Page(
        title=_("Before and after: {name}").format(name=found.folder.name),
        subtitle=_("{base}, fine-tuned ({what}); compared with {tuned}; run {state}").format(
            base=run.base.name,
            what=what,
            tuned=found.tuned,
            state=shown_state(run.state, run.detail),
        ),
        parts=[
            *_warnings(found),
            Heading(text=_("In short")),
            Table(heads=("", found.former, _("tuned")), rows=short_rows(found)),
            *_curve(found.records),
            *_questions(found),
            *_general_prompts(found),
            *_forms(found),
            *_data(found),
            Heading(text=_("What it cost")),
            Table(heads=("", ""), rows=_cost(found)),
        ],
    )


def short_rows(found: BeforeAfter) -> list[tuple[str, ...]]:
    """List the main figures, before and after; the terminal shows them, too."""
    rows: list[tuple[str, ...]] = []
    total = found.judged.total if found.judged else 0
    if found.losses is not None:
        held_out = found.judged is not None and found.judged.held_out
        name = (
            _("held-out loss, {count} of {total} rows")
            if held_out
            else _("loss on training rows, {count} of {total}")
        ).format(count=found.losses[0].num_rows, total=total)
        rows += [
            (name, *(f"{side.loss:.4f}" for side in found.losses)),
            (_("mean of each row's loss"), *(f"{s.loss_per_sample:.4f}" for s in found.losses)),
            (_("perplexity"), *(_perplexity(side.loss) for side in found.losses)),
        ]
    trained = loss_of_training(found.records)
    if trained is not None:
        name = _("training loss, mean of the first and of the last steps")
        rows.append((name, *(f"{loss:.4f}" for loss in trained)))
    likeness = found.likeness()
    if likeness is not None:
        count = len(found.answered())
        name = _("answers exactly as in the data, {count} of {total} rows")
        rows += [
            (
                name.format(count=count, total=total),
                *(f"{exact}/{count}" for exact in found.exact()),
            ),
            (_("likeness to the data's answers (ROUGE-L)"), *(f"{x:.1f}" for x in likeness)),
        ]
    finished = [pair for pair in found.passed() if None not in pair]
    passed = (f"{sum(map(bool, side))}/{len(finished)}" for side in zip(*finished, strict=True))
    if finished:
        rows.append((_("general prompts answered rightly"), *passed))
    forms = found.forms()
    rows.append(
        (_("thinking format kept"), *(f"{side.thought_kept}/{side.answers}" for side in forms))
    )
    return rows


def _warnings(found: BeforeAfter) -> list[Part]:
    judged = found.judged
    lines = verdict(found)
    if found.began_problem:
        lines.append(
            _(
                "The run trained an adapter further that is not there now ({problem}), so this "
                "compares with the base model."
            ).format(problem=found.began_problem.rstrip("."))
        )
    if judged is None:
        lines.append(
            _("The run's data could not be read again: {problem}").format(
                problem=found.judged_problem
            )
        )
    else:
        if not judged.held_out:
            lines.append(
                _(
                    "No rows were held out (val_size 0), so training rows are used here, drawn "
                    "over all of them: they show whether the model learned them, not what it makes "
                    "of new ones."
                )
            )
        trained_on = found.run.data.fingerprint
        if trained_on not in (None, judged.fingerprint):
            lines.append(_("The data has changed since the run: these are other rows."))
        count = found.losses[0].num_rows if found.losses else 0
        if count < len(judged.rows):
            lines.append(
                _("The time sufficed for the loss of {count} of {total} rows.").format(
                    count=count, total=len(judged.rows)
                )
            )
    unfinished = found.num_unfinished
    if unfinished:
        lines.append(
            _(
                "{count} prompts were not answered to the end within {seconds:.0f} s; "
                "allow more time with: {fix}"
            ).format(
                count=unfinished,
                seconds=found.limit_s,
                fix=as_typed(
                    f"danlu eval {shlex.quote(str(found.folder))} "
                    f"--report_seconds {10 * found.limit_s:.0f}"
                ),
            )
        )
    return [Paragraph(text=line, is_warning=True) for line in lines]


def _curve(records: Sequence[Mapping[str, Any]]) -> list[Part]:
    curves = LossCurves.of(records)
    if not curves.colours():
        return []
    x_label, y_label = (_(label) for label in AXES.values())
    parts: list[Part] = [
        Heading(text=_("Loss while training")),
        Picture(
            svg=loss_svg(curves),
            file=CURVE_FILE,
            x_label=x_label,
            y_label=y_label,
            legend=[(_(CURVES[colour]), colour) for colour in curves.colours()],
        ),
    ]
    if curves.held_out:
        step, best = min(curves.held_out, key=lambda point: point[1])
        text = _("Lowest held-out loss: {loss:.4f} at step {step}.").format(loss=best, step=step)
        parts.append(Paragraph(text=text))
    return parts


def _questions(found: BeforeAfter) -> list[Part]:
    if found.judged is None or not found.judged.questions:
        return []
    title = (
        _("Held-out prompts") if found.judged.held_out else _("Training prompts (none held out)")
    )
    parts: list[Part] = [Heading(text=title)]
    for question, before, after in zip(
        found.judged.questions, found.before.held_out, found.after.held_out, strict=True
    ):
        reference = visible_text(question.reference)
        as_learned = Said(thought=question.reference.reasoning or "", text=reference)
        parts.append(
            SideBySide(
                place=question.place,
                prompt=_prompt(question.conversation),
                answers=(
                    (_("in the data"), as_learned),
                    (found.former, _said(before, reference)),
                    (_("tuned"), _said(after, reference)),
                ),
            )
        )
    return parts


def _prompt(conversation: Conversation) -> str:
    """Write a single question as it is, a longer conversation with its roles."""
    messages = conversation.messages
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {visible_text(message)}" for message in messages)


def _said(answer: Answer, reference: str) -> Said:
    """Show an answer with the one remark that matters most."""
    text = visible_text(answer.message)
    is_praise = answer.ended == "stop" and bool(text) and is_exact(text, reference)
    remark = {
        "stop": _("as in the data") if is_praise else "",
        "length": _("reached the token limit"),
        "time": _("the time ran out"),
        "refused": _("refused"),
    }[answer.ended]
    if repeats_itself(answer.raw):
        remark = _("repeats itself")
    elif is_empty(answer):
        remark = _("empty")
    return Said(
        thought=answer.message.reasoning or "",
        text=text or answer.problem,
        remark=remark,
        is_praise=is_praise,
    )


def _general_prompts(found: BeforeAfter) -> list[Part]:
    rows = [
        (prompt.text, _cell(base, was_right), _cell(tuned, is_right))
        for prompt, (was_right, is_right), base, tuned in zip(
            GENERAL_PROMPTS, found.passed(), found.before.general, found.after.general, strict=True
        )
    ]
    note = _("Eight general prompts with a known answer: what the tuned model should not forget.")
    return [
        Heading(text=_("Regression probe")),
        Paragraph(text=note),
        Table(heads=(_("prompt"), found.former, _("tuned")), rows=rows),
    ]


def _cell(answer: Answer, is_right: bool | None) -> str:
    """Mark an answer, and show as much of it as a cell of a table should hold."""
    mark = {True: "✓ ", False: "✗ ", None: "… "}[is_right]
    text = visible_text(answer.message)
    return mark + (text if len(text) <= _CELL_LENGTH else text[:_CELL_LENGTH] + " ...")


def _forms(found: BeforeAfter) -> list[Part]:
    before, after = found.forms()
    rule = {
        True: _("An answer must open with a thought and close it."),
        False: _(
            "An answer must hold no thinking tags: the prompt already holds an empty thought."
        ),
        None: _("An answer holds one closed thought, or none."),
    }[found.prescribed_thinking]
    names = (
        ("answers", _("answers")),
        ("thought_kept", _("thinking format kept")),
        ("thought_broken", _("thinking format broken")),
        ("thought_unfinished", _("cut off while thinking")),
        ("endless", _("reached the token limit")),
        ("repeating", _("repeats itself")),
        ("empty", _("empty")),
        ("missing", _("no answer for lack of time")),
        ("refused", _("refused")),
    )
    return [
        Heading(text=_("Form of the answers")),
        Paragraph(text=rule),
        Table(
            heads=("", found.former, _("tuned")),
            rows=[(text, str(getattr(before, n)), str(getattr(after, n))) for n, text in names],
        ),
    ]


def _data(found: BeforeAfter) -> list[Part]:
    data = found.run.data
    counts = (
        (data.num_rows, _("rows read")),
        (data.num_train_rows, _("rows learned")),
        (data.num_eval_rows, _("rows held out")),
        (data.num_left_out, _("rows left out")),
        (data.cutoff_len, _("longest example allowed (tokens)")),
        (data.num_over_cutoff, _("rows longer than that")),
        (data.num_shortened, _("rows shortened")),
        (data.num_cut_tokens, _("tokens cut out")),
        (data.num_train_tokens, _("tokens of one pass")),
        (data.num_supervised_tokens, _("of them learned")),
    )
    rows = [(text, str(count)) for count, text in counts if count is not None]
    rows += [
        (_("found: {kind}").format(kind=kind), str(count)) for kind, count in data.findings.items()
    ]
    rows += [(_("left out"), place) for place in data.left_out_rows[:_SHOWN_ROWS]]
    if len(data.left_out_rows) > _SHOWN_ROWS:
        rows.append(("", _("the others stand in run.json")))
    sentences = [Paragraph(text=sentence) for sentence in data.datasets]
    heading = Heading(text=_("Data: read, left out, shortened"))
    if not rows:
        return [heading, Paragraph(text=_("The run recorded nothing about its data."))]
    return [heading, *sentences, Table(heads=("", ""), rows=rows)]


def _cost(found: BeforeAfter) -> list[tuple[str, str]]:
    run = found.run
    steps = [record for record in found.records if record.get("loss") is not None]
    tokens = sum(record.get("num_tokens") or 0 for record in steps)
    seconds = sum(record.get("seconds") or 0.0 for record in steps)
    evaluating = sum(record.get("eval_seconds") or 0.0 for record in found.records)
    skipped = sum(record.get("event") == "skipped" for record in found.records)
    memory = run.results.get("peak_memory_bytes")
    rows = [
        (_("steps"), str(len(steps))),
        (_("steps not applied (not finite)"), str(skipped)),
        (_("tokens"), f"{tokens:,}"),
        (_("seconds in steps"), f"{seconds:.1f}"),
        (_("tokens a second"), f"{tokens / seconds:,.0f}" if seconds else "-"),
        (_("seconds in evaluations"), f"{evaluating:.1f}"),
        (_("peak memory"), _("not recorded") if memory is None else readable_bytes(int(memory))),
        (_("energy"), _("not measured")),
        (_("device"), run.arithmetic.device_description or "-"),
        (
            _("precision"),
            precision_words(run.arithmetic.dtype or "-", run.base_form),
        ),
        (_("started"), run.started or "-"),
        (_("ended"), run.ended or "-"),
        (
            _("this report"),
            _("{seconds:.1f} s, loading the models included").format(seconds=found.seconds),
        ),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return [*rows, (_("versions"), versions)] if versions else rows


def _perplexity(loss: float) -> str:
    return f"{math.exp(loss):,.2f}" if loss < 50 else "> 1e21"
