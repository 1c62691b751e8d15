"""What was found in data, as lines for the terminal: in full, or in short before a run."""

from __future__ import annotations

from collections.abc import Iterator

from danlu.data.doctor.check import DataReport, refusal
from danlu.data.findings import counted, listed
from danlu.language import _

# Kinds of rows that the short form names by place; the others are counted.
_NAMED_KINDS = ("shortened", "overlong_left_out")
_NAMED_PLACES = 3


def report_lines(report: DataReport) -> list[str]:
    """Write the whole report: what was read, statistics, the first findings, the verdict."""
    lines = [
        *report.datasets,
        _(
            "Rows: {rows}, of which {train} are learned, {held} held out, {left_out} left out"
        ).format(
            rows=report.num_rows,
            train=report.train.num_rows,
            held=report.held_out.num_rows,
            left_out=report.num_left_out,
        ),
        *_held_out(report),
        *_examples(report),
        *_tokens(report),
        *_cut(report),
        *listed(report.findings),
    ]
    if report.refuses:
        if not report.has_bad_rows:
            lines += str(refusal(report)).splitlines()
        lines.append(_("Training would refuse this data."))
    elif not report.findings:
        lines.append(_("Nothing was found."))
    else:
        lines.append(_("Training would take this data."))
    return lines


def data_lines(report: DataReport) -> list[str]:
    """Say in a few lines what will be learned, and what was found on the way."""
    return [
        *report.datasets,
        _(
            "Data: {rows} rows to learn ({tokens} tokens, {learned} of them learned), "
            "{held} held out"
        ).format(
            rows=report.train.num_rows,
            tokens=report.train.num_tokens,
            learned=report.train.num_supervised,
            held=report.held_out.num_rows,
        ),
        *_held_out(report),
        *_examples(report),
        *_cut(report),
        *_counted(report),
    ]


def _tokens(report: DataReport) -> Iterator[str]:
    lengths = report.lengths
    if not lengths.max:
        return  # no row could be read
    yield _("Tokens to learn from: {tokens}, {learned} of them learned ({share:.0%})").format(
        tokens=report.train.num_tokens,
        learned=report.train.num_supervised,
        share=report.train.num_supervised / max(1, report.train.num_tokens),
    )
    yield _("Tokens a row: least {low}, half {median}, 90 % {p90}, 99 % {p99}, most {high}").format(
        low=lengths.min,
        median=lengths.median,
        p90=lengths.p90,
        p99=lengths.p99,
        high=lengths.max,
    )


def _held_out(report: DataReport) -> Iterator[str]:
    if report.held_out_by_default and report.held_out.num_rows:
        yield _(
            "Held-out rows show what was learned beyond the data; --val_size 0 learns all rows."
        )


def _examples(report: DataReport) -> Iterator[str]:
    cost = report.train
    if cost.num_examples > cost.num_rows:
        yield _(
            "Rows with several answers become several examples: {examples} from {rows} rows, "
            "so that every answer is learned after exactly the text it will follow."
        ).format(examples=cost.num_examples, rows=cost.num_rows)


def _cut(report: DataReport) -> Iterator[str]:
    """Say what became of rows over the cutoff, louder where they are many."""
    if not report.num_over_cutoff:
        return
    left_out = [f.place for f in report.findings if f.kind == "overlong_left_out"]
    shortened = [f.place for f in report.findings if f.kind == "shortened"]
    if report.is_loud:
        yield _(
            "ATTENTION: {share:.1%} of the rows are over --cutoff_len {cutoff}; the longest has "
            "{high} tokens. Raise it, if memory allows."
        ).format(
            share=report.num_over_cutoff / report.num_rows,
            cutoff=report.cutoff_len,
            high=report.lengths.max,
        )
    if shortened:
        yield _("Shortened to {cutoff} tokens: {count} rows, by {tokens} tokens ({places})").format(
            cutoff=report.cutoff_len,
            count=len(shortened),
            tokens=report.num_cut_tokens,
            places=_first(shortened),
        )
    if left_out:
        yield _("Left out, longer than {cutoff} tokens: {count} rows ({places})").format(
            cutoff=report.cutoff_len, count=len(left_out), places=_first(left_out)
        )


def _counted(report: DataReport) -> Iterator[str]:
    """Count what the other lines do not name."""
    counts = {kind: n for kind, n in report.counts.items() if kind not in _NAMED_KINDS}
    if counts:
        yield _("Found: {counts} (danlu data check shows them)").format(
            counts=", ".join(counted(kind, count) for kind, count in counts.items())
        )


def _first(places: list[str]) -> str:
    more = ", ..." if len(places) > _NAMED_PLACES else ""
    return ", ".join(places[:_NAMED_PLACES]) + more
