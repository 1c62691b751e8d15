"""The data doctor: everything that is known about a data set before it is learned.

Training and `danlu data check` run the same `check_data`: it reads, tokenizes and splits the rows,
looks for duplicates and leaks, and says whether training would refuse them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.data.datasets import named_datasets
from danlu.data.findings import Finding, listed
from danlu.data.reading.rows import FATAL_KINDS
from danlu.data.settings import DataSettings
from danlu.data.tokens.examples import Rendering, TokenCost
from danlu.data.tokens.order import split
from danlu.data.tokens.token_table import TokenizedData, TokenizedRows
from danlu.data.tokens.tokenizing import tokenize_datasets
from danlu.errors import DataError, UsageError
from danlu.files.home import danlu_home
from danlu.language import _
from danlu.text.tokenizer import Tokenizer

# Above this share of shortened or left-out rows the user is told loudly.
LOUD_SHARE = 0.02
_WORST_FIRST = ("error", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of a row's longest example, before anything was cut."""

    min: int
    median: int
    p90: int
    p99: int
    max: int

    @classmethod
    def of(cls, lengths: NDArray[np.int32]) -> Lengths:
        """Summarize the lengths of the rows that were tokenized; all 0 without any."""
        known = lengths[lengths > 0] if np.any(lengths) else np.zeros(1, dtype=np.int32)
        low, median, p90, p99, high = np.percentile(known, (0, 50, 90, 99, 100), method="higher")
        return cls(min=int(low), median=int(median), p90=int(p90), p99=int(p99), max=int(high))


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What was found. datasets: a sentence each. findings: the worst first, else in file order.

    num_rows counts all rows, train and held_out those that are left. num_over_cutoff: rows with
    more tokens than cutoff_len, of which num_shortened were shortened by num_cut_tokens.
    held_out_by_default: nothing was said of rows to hold out.
    """

    datasets: tuple[str, ...]
    findings: tuple[Finding, ...]
    num_rows: int
    train: TokenCost
    held_out: TokenCost
    lengths: Lengths
    cutoff_len: int
    num_over_cutoff: int
    num_shortened: int
    num_cut_tokens: int
    skips_bad_rows: bool
    held_out_by_default: bool

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind."""
        return dict(Counter(finding.kind for finding in self.findings))

    @property
    def errors(self) -> list[Finding]:
        """The findings for which training refuses the data."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def left_out(self) -> list[Finding]:
        """The findings because of which rows are neither learned nor held out."""
        return [f for f in self.findings if f.severity == "error" or f.kind == "overlong_left_out"]

    @property
    def num_left_out(self) -> int:
        """How many rows are neither learned nor held out."""
        return self.num_rows - self.train.num_rows - self.held_out.num_rows

    @property
    def is_unreadable(self) -> bool:
        """Whether reading stopped somewhere: the rows behind are unknown and cannot be skipped."""
        return any(finding.kind in FATAL_KINDS for finding in self.findings)

    @property
    def has_bad_rows(self) -> bool:
        """Whether there are rows that cannot be used and that were not to be skipped."""
        return self.is_unreadable or bool(self.errors and not self.skips_bad_rows)

    @property
    def refuses(self) -> bool:
        """Whether training stops before it loads the model."""
        return self.has_bad_rows or not self.train.num_rows

    @property
    def is_loud(self) -> bool:
        """Whether more rows are over the cutoff than a user can have meant."""
        return self.num_over_cutoff > LOUD_SHARE * self.num_rows

    def as_record(self) -> dict[str, Any]:
        """Write what run.json and --json keep; findings as a count for each kind."""
        return {
            "datasets": list(self.datasets),
            "num_rows": self.num_rows,
            "train": asdict(self.train),
            "held_out": asdict(self.held_out),
            "lengths": asdict(self.lengths),
            "cutoff_len": self.cutoff_len,
            "num_over_cutoff": self.num_over_cutoff,
            "num_shortened": self.num_shortened,
            "num_cut_tokens": self.num_cut_tokens,
            "num_left_out": self.num_left_out,
            "findings": self.counts,
        }


@dataclass(frozen=True, kw_only=True)
class CheckedData:
    """The usable rows of some data sets, split, and the report on all of them.

    places, lengths: of all R rows in the order of the files; int32 [R], tokens of a row's longest
    example before anything was cut, 0 for a row that cannot be used.
    """

    train: TokenizedRows
    held_out: TokenizedRows
    report: DataReport
    places: tuple[str, ...]
    lengths: NDArray[np.int32]

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that change with any token, mask or split of the rows."""
        digest = hashlib.blake2b(digest_size=16)
        for rows in (self.train, self.held_out):
            digest.update(b"rows")
            for example in (example for row in rows for example in row):
                digest.update(example.tokens.tobytes())
                digest.update(example.supervised.tobytes())
        return digest.hexdigest()


def usable_data(settings: DataSettings, tokenizer: Tokenizer) -> CheckedData:
    """Return what `check_data` returns, where training would take it.

    Raises DataError, naming rows, where the data is bad and `skip_bad_rows` does not suffice, and
    where no row is left to train on.
    """
    data = check_data(settings, tokenizer)
    if data.report.refuses:
        raise refusal(data.report)
    return data


def check_data(settings: DataSettings, tokenizer: Tokenizer) -> CheckedData:
    """Read, tokenize, split and check the data sets of some settings.

    Bad rows are findings of the report. Raises UsageError for unknown names and for settings that
    exclude each other.
    """
    if settings.eval_dataset and settings.val_size:
        raise UsageError(
            _("--eval_dataset and --val_size exclude each other."),
            why=_("Both say which rows are held out."),
            fix=_("Leave one of them out."),
        )
    sentences, data = _read(settings.dataset, settings, tokenizer)
    val_size = 0 if settings.eval_dataset else settings.val_size
    train, held_out = split(data.num_rows, val_size=val_size, seed=settings.seed)
    both = [data]
    if settings.eval_dataset:
        more_sentences, eval_data = _read(settings.eval_dataset, settings, tokenizer)
        sentences += more_sentences
        both.append(eval_data)
        held_out = np.arange(eval_data.num_rows)
    learned = TokenizedRows(data, data.usable(train))
    held = TokenizedRows(both[-1], both[-1].usable(held_out))
    found = [finding for part in both for finding in part.findings]
    found += [*_duplicates(learned), *_leaks(learned, held)]
    lengths = np.concatenate([part.lengths for part in both])
    cut = np.concatenate([part.cut_tokens for part in both])
    report = DataReport(
        datasets=sentences,
        findings=tuple(sorted(found, key=lambda finding: _WORST_FIRST.index(finding.severity))),
        num_rows=len(lengths),
        train=learned.cost(),
        held_out=held.cost(),
        lengths=Lengths.of(lengths),
        cutoff_len=settings.cutoff_len,
        num_over_cutoff=int((lengths > settings.cutoff_len).sum()),
        num_shortened=int((cut > 0).sum()),
        num_cut_tokens=int(cut.sum()),
        skips_bad_rows=settings.skip_bad_rows,
        held_out_by_default=settings.val_size is None and not settings.eval_dataset,
    )
    return CheckedData(
        train=learned,
        held_out=held,
        report=report,
        places=tuple(place for part in both for place in part.places),
        lengths=lengths,
    )


def refusal(report: DataReport) -> DataError:
    """Say why training does not start with this data, and what to do."""
    if report.has_bad_rows:
        fix = _("Correct or remove these rows, or go on without them: --skip_bad_rows")
        return DataError(
            _("{count} of {total} rows cannot be used.").format(
                count=len(report.errors), total=report.num_rows
            ),
            why=listed(report.errors),
            fix=_("Correct the files.") if report.is_unreadable else fix,
        )
    if not report.num_rows:
        return DataError(
            _("The data set has no rows."),
            why=report.datasets,
            fix=_("Add rows such as {example}").format(
                example='{"instruction": "...", "output": "..."}'
            ),
        )
    return DataError(
        _("No rows are left to train on."),
        why=_(
            "Of {total} rows {held} are held out, {long} are over {cutoff} tokens and {bad} cannot "
            "be used."
        ).format(
            total=report.num_rows,
            held=report.held_out.num_rows,
            long=report.num_over_cutoff,
            cutoff=report.cutoff_len,
            bad=len(report.errors),
        ),
        fix=_("Raise --cutoff_len, lower --val_size, or add rows."),
    )


def report_record(report: DataReport) -> dict[str, Any]:
    """Write the whole report for programs: every finding, in full."""
    findings = [{**asdict(finding), "text": str(finding)} for finding in report.findings]
    return {
        **report.as_record(),
        "refuses": report.refuses,
        "refusal": str(refusal(report)) if report.refuses else "",
        "all_findings": findings,
    }


def _read(
    names: str, settings: DataSettings, tokenizer: Tokenizer
) -> tuple[tuple[str, ...], TokenizedData]:
    datasets = named_datasets(names, settings)
    data = tokenize_datasets(
        datasets,
        tokenizer,
        Rendering.from_settings(settings),
        cache=danlu_home() / "cache" / "tokens",
        overwrite=settings.overwrite_cache,
    )
    return tuple(dataset.describe() for dataset in datasets), data


def _duplicates(rows: TokenizedRows) -> Iterator[Finding]:
    """Find rows that are the same, and questions with several answers, on one side."""
    seen_rows: dict[int, str] = {}
    seen_questions: dict[int, str] = {}
    for row, question, place in rows.digests():
        if row in seen_rows:
            yield Finding(
                place=place,
                kind="duplicate",
                what=_("The row is the same as {place}.").format(place=seen_rows[row]),
                fix=_("Remove one of them, unless it shall count twice."),
                severity="warning",
            )
        elif question in seen_questions:
            yield Finding(
                place=place,
                kind="same_question",
                what=_("{place} has the same question with another answer.").format(
                    place=seen_questions[question]
                ),
                fix=_("Keep both if both are right."),
                severity="note",
            )
        seen_rows.setdefault(row, place)
        seen_questions.setdefault(question, place)


def _leaks(learned: TokenizedRows, held_out: TokenizedRows) -> Iterator[Finding]:
    """Find held-out rows that are learned as well: their loss says little."""
    rows = {row: place for row, _question, place in learned.digests()}
    questions = {question: place for _row, question, place in learned.digests()}
    for row, question, place in held_out.digests():
        if row in rows:
            kind, what, twin = "leak", _("The held-out row is learned too, at {place}."), rows[row]
        elif question in questions:
            kind, twin = "question_leak", questions[question]
            what = _("The question of the held-out row is learned too, at {place}.")
        else:
            continue
        yield Finding(
            place=place,
            kind=kind,
            what=what.format(place=twin),
            fix=_("Remove one of them: the held-out loss looks better than it is."),
            severity="warning",
        )
