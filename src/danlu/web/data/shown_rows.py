"""A page of a data set's rows: as the file has them, and as the model will see them.

Only the rows of the page become tokens; those before them are read over, 200,000 a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, islice
from pathlib import Path
from typing import Any

from danlu.data.datasets import DataSet, Row, find_datasets
from danlu.data.doctor.preview import ShownRow, ShownToken, preview_with_cuts
from danlu.data.findings import BadRow, Finding
from danlu.data.reading.encoding import BrokenFile, read_lines
from danlu.data.tokens.examples import Rendering
from danlu.errors import DanluError
from danlu.web.data.changed_rows import NumberedRow, RowChange, numbered_rows
from danlu.web.data.data_folders import KnownSet
from danlu.web.data.learner import Learner
from danlu.web.data.set_checks import CheckResult, finding_fields

Json = dict[str, Any]
# More of a row's tokens are counted, and not shown.
_MOST_TOKENS = 4000
_MOST_CUT = 60
_MOST_DEPTH = 60
_LONGEST_LINE = 20_000
_LINE_FILES = (".json", ".jsonl", ".txt")


@dataclass(frozen=True, kw_only=True)
class RowView:
    """Which rows a page shows, and for whom. numbers: only these, in order; None: all."""

    at: int
    count: int
    numbers: Sequence[int] | None = None


def page_of_rows(
    known: KnownSet,
    changes: Mapping[int, RowChange],
    words: Mapping[str, str],
    learner: Learner,
    view: RowView,
    check: CheckResult | None,
) -> Json:
    """Return the rows of a page; `problem` says why none can be shown as tokens.

    words: as `dataset_words` gives them. check: adds what only a look at all rows finds. Raises
    EnvironmentFault.
    """
    rows = list(_chosen(numbered_rows(known.file, changes), view))
    problem, shown = "", {}
    try:
        (dataset,) = find_datasets(
            words["dataset"], Path(words.get("dataset_dir", "")), max_samples=None, seed=0
        )
    except DanluError as refusal:
        problem = known.in_page_words(f"{refusal.what} {refusal.why}")
    else:
        shown = {
            row.number: row_as_seen(row, seen) for row, seen in seen_rows(rows, dataset, learner)
        }
    described = []
    for row in rows:
        found = [] if row.found is None else [finding_fields(row.found, row.number, known)]
        described.append({**_original(row, known), "findings": found, **shown.get(row.number, {})})
    for fields in described:
        _put_findings(fields, known, check)
    return {"rows": described, "problem": problem}


def seen_rows(
    rows: Sequence[NumberedRow], dataset: DataSet, learner: Learner
) -> Iterator[tuple[NumberedRow, ShownRow]]:
    """Pair rows with what the model would see of them."""
    rendering = Rendering.from_settings(learner.settings({}))
    items = (_item(row, dataset) for row in rows)
    yield from zip(rows, preview_with_cuts(items, learner.tokenizer, rendering), strict=True)


def row_as_seen(row: NumberedRow, seen: ShownRow) -> Json:
    """Write what the model sees of a row: its examples as runs of tokens of one sort."""
    room = _MOST_TOKENS
    examples = []
    for tokens in seen.examples:
        kept = [token for token in tokens if not token.is_cut]
        part = _first(tokens, room)
        room -= min(room, len(kept))
        examples.append(
            {
                "tokens": len(kept),
                "learned": sum(token.is_learned for token in kept),
                "hidden": len(tokens) - len(part),
                "segments": [*_segments(part)],
            }
        )
    is_cut = any(token.is_cut for tokens in seen.examples for token in tokens)
    is_left_out = bool(seen.examples) and not any(
        not token.is_cut for tokens in seen.examples for token in tokens
    )
    return {
        "tokens": seen.num_tokens,
        "cut": is_cut,
        "left_out": is_left_out or not seen.examples,
        "examples": examples,
        "_findings": seen.findings,
    }


def _first(tokens: Sequence[ShownToken], count: int) -> Sequence[ShownToken]:
    """Return the beginning of an example: so many tokens of it, besides those cut out."""
    numbers = accumulate(int(not token.is_cut) for token in tokens)
    return [token for token, number in zip(tokens, numbers, strict=True) if number <= count]


def _segments(tokens: Sequence[ShownToken]) -> Iterator[Json]:
    """Yield runs of tokens of one sort; of what was cut out only the beginning."""
    for (learned, control, cut), run in groupby(tokens, key=_sort):
        texts = [_plain_text(token.text) for token in run]
        shown = texts[:_MOST_CUT] if cut else texts
        yield {
            "learned": learned,
            "control": control,
            "cut": cut,
            "texts": shown,
            "skipped": len(texts) - len(shown),
        }


def plain(value: Any, depth: int = 0) -> Any:
    """Return what a row holds as JSON that can be sent: no halves of characters, no infinity."""
    if isinstance(value, str):
        return _plain_text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth < _MOST_DEPTH and isinstance(value, dict):
        return {_plain_text(str(name)): plain(inner, depth + 1) for name, inner in value.items()}
    if depth < _MOST_DEPTH and isinstance(value, list | tuple):
        return [plain(inner, depth + 1) for inner in value]
    return _plain_text(str(value)[:_LONGEST_LINE])


def _item(row: NumberedRow, dataset: DataSet) -> Row | Finding:
    if row.problem is not None:
        return row.problem
    try:
        conversation, remarks = dataset.format.read_row(row.content)
    except BadRow as problem:
        return problem.at(str(row.number))
    return Row(place=str(row.number), conversation=conversation, remarks=remarks)


def _chosen(rows: Iterator[NumberedRow], view: RowView) -> Iterator[NumberedRow]:
    if view.numbers is None:
        yield from islice(rows, view.at, view.at + view.count)
        return
    wanted = set(view.numbers[view.at : view.at + view.count])
    last = max(wanted, default=0)
    yield from (row for row in islice(rows, last) if row.number in wanted)


def _original(row: NumberedRow, known: KnownSet) -> Json:
    """Write a row as the file has it; a line that cannot be read as the text that it is."""
    is_line = row.found is not None and row.found.kind == "broken_line"
    return {
        "number": row.number,
        "place": row.place.replace(str(known.file), known.name),
        "excluded": row.is_excluded,
        "edited": row.is_edited,
        "row": None if row.problem else plain(row.content),
        "text": _line_of(row, known.file) if is_line and not row.is_edited else "",
        "tokens": 0,
        "cut": False,
        "left_out": True,
        "examples": [],
    }


def _line_of(row: NumberedRow, file: Path) -> str:
    """Return the text of a line that is no row."""
    line = row.place.rpartition(":")[2]
    if file.suffix.lower() not in _LINE_FILES or not line.isdigit():
        return ""
    try:
        text = next(islice(read_lines(file), int(line) - 1, None), "")
    except (BrokenFile, OSError):
        return ""
    return _plain_text(text.rstrip("\r\n")[:_LONGEST_LINE])


def _put_findings(fields: Json, known: KnownSet, check: CheckResult | None) -> None:
    """Add what was found: by the whole check where it is done, else in the row alone."""
    number = fields["number"]
    seen = fields.pop("_findings", ())
    if fields["excluded"]:
        fields["findings"] = []
    elif check is not None and check.report["state"] == "done":
        fields["findings"] = check.findings.get(number, [])
    elif seen:
        fields["findings"] = [finding_fields(finding, number, known) for finding in seen]


def _sort(token: ShownToken) -> tuple[bool, bool, bool]:
    return token.is_learned, token.is_control, token.is_cut


def _plain_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
