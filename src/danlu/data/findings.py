"""What is wrong with data: one finding, remarks on a row, or the reason why it cannot be used.

Knows how a finding is written, `file:line: what; fix`. Must not know how rows are read or checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from danlu.language import _
from danlu.text.printable import one_line

# error: the row cannot be learned and training refuses to start without --skip_bad_rows.
# warning: training would do something that the user may not want. note: worth knowing.
Severity = Literal["error", "warning", "note"]
SHOWN_FINDINGS = 20

# The kinds, which programs count by; the catalogue has words for them.
FINDING_KINDS = (
    "batch_too_large",
    "binary_file",
    "broken_csv",
    "broken_field",
    "broken_json",
    "broken_line",
    "control_token_text",
    "damaged_table",
    "duplicate",
    "empty_answer",
    "empty_question",
    "foreign_thought",
    "key_twice",
    "leak",
    "lone_surrogate",
    "media",
    "missing_column",
    "no_answer",
    "no_messages",
    "no_role",
    "no_tab",
    "not_an_object",
    "not_text",
    "not_utf8",
    "nothing_to_learn",
    "open_thought",
    "other_content",
    "overlong",
    "overlong_left_out",
    "placeholder",
    "preference",
    "question_leak",
    "renamed_key",
    "row_too_large",
    "row_too_long",
    "rows_too_long",
    "run_wide",
    "same_question",
    "several_thoughts",
    "shortened",
    "special_token_text",
    "thought_in_question",
    "thought_part",
    "too_many_answers",
    "two_calls",
    "two_systems",
    "two_thoughts",
    "unknown_role",
    "unread_field",
    "unread_thought",
    "weight",
    "wrong_call",
    "wrong_history",
    "wrong_length",
    "wrong_order",
    "wrong_tools",
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was found. place: `file:line`; kind: a stable English name to count by."""

    place: str
    kind: str
    what: str
    fix: str
    severity: Severity = "error"

    def __str__(self) -> str:
        # No space after a Chinese full stop.
        between = "" if self.what.endswith("。") else " "
        return one_line(f"{self.place}: {self.what}{between}{self.fix}")


@dataclass(frozen=True, kw_only=True)
class Remarks:
    """What a conversation does not show of its row.

    unread: fields that hold something and are not read. half_thought: an answer closes a thought
    that it does not open; what stands before is read as the thought.
    """

    unread: tuple[str, ...] = ()
    half_thought: bool = False


class BadRow(Exception):
    """A row that cannot be used: what is wrong, and what to do about it."""

    def __init__(self, kind: str, what: str, fix: str) -> None:
        super().__init__(what)
        self.kind = kind
        self.what = what
        self.fix = fix

    def at(self, place: str) -> Finding:
        """Return the finding at the row's place."""
        return Finding(place=place, kind=self.kind, what=self.what, fix=self.fix)


def kind_in_words(kind: str) -> str:
    """Say a kind as people write it; the English words are those of its name."""
    return _(kind).replace("_", " ")


def counted(kind: str, count: int) -> str:
    """Say how often a kind was found."""
    return _("{count} x {kind}").format(count=count, kind=kind_in_words(kind))


def listed(findings: Sequence[Finding]) -> list[str]:
    """Write up to SHOWN_FINDINGS findings as lines, some of every kind, then a count per kind."""
    seen: Counter[str] = Counter()
    turns: list[int] = []
    for finding in findings:
        turns.append(seen[finding.kind])
        seen[finding.kind] += 1
    # In turns, so that a frequent kind does not hide the others; shown in their own order.
    chosen = sorted(range(len(findings)), key=lambda index: turns[index])[:SHOWN_FINDINGS]
    lines = [str(findings[index]) for index in sorted(chosen)]
    if len(findings) > 1:
        lines += [counted(kind, count) for kind, count in seen.most_common()]
    return lines
