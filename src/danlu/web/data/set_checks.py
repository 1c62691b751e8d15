"""The data doctor's report on a data set, for a page: findings by kind and by row, and lengths.

A check takes seconds to minutes; it goes on when a page no longer waits for it, and its result is
kept until the rows or the settings change.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from danlu.data.doctor.check import CheckedData, check_data, report_record
from danlu.data.findings import Finding, kind_in_words
from danlu.errors import DanluError
from danlu.language import _
from danlu.web.data.data_folders import KnownSet
from danlu.web.data.learner import Learner

Json = dict[str, Any]
_MOST_KEPT = 8
_SHOWN_OF_A_KIND = 500


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """A report for a page, and what belongs to single rows. lengths: of rows that can be used."""

    report: Json
    findings: Mapping[int, list[Json]] = field(default_factory=dict)
    lengths: Mapping[int, int] = field(default_factory=dict)

    def rows_with_findings(self) -> list[int]:
        """Return the numbers of the rows in which something was found, in their order."""
        return sorted(self.findings)

    def bad_rows(self) -> set[int]:
        """Return the numbers of the rows that cannot be learned."""
        return {
            number
            for number, found in self.findings.items()
            if any(finding["severity"] == "error" for finding in found)
        }

    def rows_over(self, cutoff_len: int) -> list[int]:
        """Return the numbers of the rows that are longer than so many tokens."""
        return [number for number, length in self.lengths.items() if length > cutoff_len]


@dataclass(kw_only=True)
class SetChecks:
    """Checks that run and those that are done; on the event loop."""

    _tasks: dict[Hashable, asyncio.Task[CheckResult]] = field(default_factory=dict)

    def begin(self, key: Hashable, work: Callable[[], CheckResult]) -> asyncio.Task[CheckResult]:
        """Return the check of this key, begun now where it was not yet."""
        task = self._tasks.pop(key, None)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = asyncio.get_running_loop().create_task(asyncio.to_thread(work))
        while len(self._tasks) >= _MOST_KEPT:
            self._tasks.pop(next(iter(self._tasks)))
        self._tasks[key] = task
        return task

    def done(self, key: Hashable) -> CheckResult | None:
        """Return the result of a check that has ended well."""
        task = self._tasks.get(key)
        is_there = task is not None and task.done() and not task.cancelled()
        return task.result() if task and is_there and not task.exception() else None


def checked(known: KnownSet, words: dict[str, str], learner: Learner, derived: bool) -> CheckResult:
    """Check a data set as training would; minutes for large ones.

    words: as `dataset_words` gives them. derived: its rows come from the derived file, in which the
    number of a row is its line. Data that cannot be read is a result too.
    """
    try:
        data = check_data(learner.settings(words), learner.tokenizer)
    except DanluError as problem:
        return CheckResult(
            report={
                "state": "unreadable",
                "problem": known.in_page_words(f"{problem.what} {problem.why}"),
                "fix": known.in_page_words(problem.fix),
            }
        )
    numbers = _numbers(data, derived)
    findings = [_shown(finding, numbers, known) for finding in data.report.findings]
    by_row: dict[int, list[Json]] = defaultdict(list)
    for finding in findings:
        if finding["row"] is not None:
            by_row[finding["row"]].append(finding)
    known_lengths = data.lengths[data.lengths > 0]
    values, counts = np.unique(known_lengths, return_counts=True)
    record = report_record(data.report)
    record.pop("all_findings")
    return CheckResult(
        report={
            **record,
            "state": "done",
            "refusal": known.in_page_words(record["refusal"]),
            "datasets": [known.in_page_words(sentence) for sentence in record["datasets"]],
            "kinds": _kinds(findings),
            "rows_with_findings": len(by_row),
            "length_counts": np.stack([values, counts], axis=1).tolist(),
            "model": learner.name,
            "template": learner.template,
        },
        findings=by_row,
        lengths={
            numbers[place]: int(length)
            for place, length in zip(data.places, data.lengths, strict=True)
            if length > 0
        },
    )


def _numbers(data: CheckedData, derived: bool) -> dict[str, int]:
    """Map places to numbers of rows."""
    if derived:
        return {place: int(place.rpartition(":")[2]) for place in data.places}
    return {place: number for number, place in enumerate(data.places, start=1)}


def _kinds(findings: list[Json]) -> list[Json]:
    """Group findings by kind, the worst first; of a kind with very many the first ones."""
    counts = Counter(finding["kind"] for finding in findings)
    groups: dict[str, list[Json]] = defaultdict(list)
    for finding in findings:
        group = groups[finding["kind"]]
        if len(group) < _SHOWN_OF_A_KIND:
            group.append(finding)
    return [
        {
            "kind": kind,
            "name": kind_in_words(kind),
            "severity": group[0]["severity"],
            "count": counts[kind],
            "findings": group,
        }
        for kind, group in groups.items()
    ]


def _shown(finding: Finding, numbers: Mapping[str, int], known: KnownSet) -> Json:
    return {
        "row": numbers.get(finding.place),
        "kind": finding.kind,
        "name": kind_in_words(finding.kind),
        "severity": finding.severity,
        "what": _with_rows(finding.what, numbers, known),
        "fix": _with_rows(finding.fix, numbers, known),
    }


def finding_fields(finding: Finding, number: int, known: KnownSet) -> Json:
    """Write a finding that was made while a single row was looked at."""
    return _shown(finding, {finding.place: number}, known)


def _with_rows(text: str, numbers: Mapping[str, int], known: KnownSet) -> str:
    """Say the number of a row in place of its file, line and column."""

    def named(place: re.Match[str]) -> str:
        number = numbers.get(place[0])
        return place[0] if number is None else _("row {number}").format(number=number)

    if ".jsonl:" in text or f"{known.file}:" in text:
        text = re.sub(r"\S+:\d+(?::\d+)?", named, text)
    return known.in_page_words(text)
