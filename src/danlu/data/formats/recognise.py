"""Which format rows are in, told from the names in the first ones.

Used where nothing says it: a plain path, or an entry of dataset_info.json without formatting.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from danlu.data.findings import BadRow, Finding
from danlu.data.formats.alpaca import DEFAULT_COLUMNS as ALPACA_COLUMNS
from danlu.data.formats.fields import shown_names, structure
from danlu.data.formats.format import Format, Formatting, format_of
from danlu.data.formats.known_keys import refuse_row
from danlu.data.reading.rows import RawRow
from danlu.errors import DataError
from danlu.language import _

# Rows that are looked at: the first ones may be broken.
_ROWS = 20
# Where messages stand, and the format that they are in more often than not.
_MESSAGE_COLUMNS: dict[str, Formatting] = {"messages": "openai", "conversations": "sharegpt"}
# What pairs of question and answer are called, beside alpaca's instruction and output.
_PAIRS = (
    ("instruction", "response"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("query", "response"),
    ("question", "answer"),
    ("问题", "回答"),
    ("问题", "答案"),
    ("提问", "回答"),
    ("问", "答"),
    ("指令", "输出"),
)
# What questions are called.
PROMPT_NAMES = tuple(dict.fromkeys(["instruction", *(prompt for prompt, _answer in _PAIRS)]))
_TAKE_OUT = (
    "import json, sys; json.dump(json.load(open(sys.argv[1], encoding='utf-8'))[sys.argv[2]], "
    "sys.stdout)"
)
_OTHER_ROLES = {"user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool"}


def recognise(name: str, rows: Iterable[RawRow | Finding]) -> tuple[Format, str]:
    """Return the format of the first rows, and what says so: the end of a sentence.

    Raises DataError for rows in no known format.
    """
    objects = [
        item.content
        for item in islice(rows, _ROWS)
        if isinstance(item, RawRow) and isinstance(item.content, Mapping)
    ]
    for row in objects:
        found = format_of_messages(row) or _of_pairs(row)
        if found is not None:
            return found
    if not objects:
        return format_of("alpaca"), _("supposed because none of the first rows can be read")
    partly = [name for name in ("instruction", "output") if any(name in row for row in objects)]
    if partly:
        # Each row will say what it lacks.
        return _told(partly, "alpaca")
    raise _unknown(name, objects[0])


def _unknown(name: str, row: Mapping[str, Any]) -> DataError:
    what = _("The format of {name} is unknown.").format(name=name)
    try:
        refuse_row(row, ())
        for form in _message_formats(row):
            form.read_row(row)
    except BadRow as problem:
        return DataError(what, why=problem.what, fix=problem.fix)
    return DataError(
        what,
        why=_("Its rows have the fields {names}.").format(names=shown_names(row)),
        fix=_inner_rows(name, row)
        or _(
            "Name them instruction and output, or conversations, or messages; or list the file in "
            "dataset_info.json with columns that say which is which."
        ),
    )


def _inner_rows(name: str, row: Mapping[str, Any]) -> str | None:
    """Say how to take out the rows where the one row holds them all."""
    for field, value in row.items():
        if len(row) == 1 and isinstance(value, list) and value and isinstance(value[0], Mapping):
            words = shlex.join(["python3", "-c", _TAKE_OUT, name, str(field)])
            return _("The rows are inside of {field}; take them out: {command}").format(
                field=field, command=f"{words} > rows.json"
            )
    return None


def _message_formats(row: Mapping[str, Any]) -> Iterator[Format]:
    """Yield what a row with a list in the place of messages was probably meant to be."""
    for column, formatting in _MESSAGE_COLUMNS.items():
        if isinstance(row.get(column), list):
            yield format_of(formatting, columns={"messages": column})


def format_of_messages(row: Mapping[str, Any]) -> tuple[Format, str] | None:
    """Return the format of a row that holds messages, and what says so; None for other rows."""
    for column in _MESSAGE_COLUMNS:
        try:
            listed = structure(row.get(column), column)
        except BadRow:
            continue
        if not isinstance(listed, list) or not listed or not isinstance(listed[0], Mapping):
            continue
        columns = {"messages": column}
        if "role" in listed[0]:
            return _told((column, "role"), "openai", columns=columns)
        if "from" in listed[0]:
            said = {str(entry.get("from")) for entry in listed if isinstance(entry, Mapping)}
            tags = _OTHER_ROLES if said & {"user", "assistant"} else {}
            return _told((column, "from"), "sharegpt", columns=columns, tags=tags)
    return None


def _of_pairs(row: Mapping[str, Any]) -> tuple[Format, str] | None:
    names = own_names(row)
    if "output" in names and ("instruction" in names or "input" in names):
        parts = {part: names[name] for part, name in ALPACA_COLUMNS.items() if name in names}
        told = [names[name] for name in ("instruction", "input", "output") if name in names]
        return _told(told, "alpaca", columns=parts)
    for prompt, response in _PAIRS:
        if prompt in names and response in names:
            columns = {"prompt": names[prompt], "response": names[response]}
            return _told(columns.values(), "alpaca", columns=columns)
    return None


def own_names(row: Mapping[str, Any]) -> dict[str, str]:
    """Map names in small letters to the row's own: headers of tables often begin with capitals."""
    return {str(name).lower(): str(name) for name in row} | {str(name): str(name) for name in row}


def _told(
    names: Iterable[str], formatting: Formatting, **renamed: Mapping[str, str]
) -> tuple[Format, str]:
    origin = _("told from the fields {names}").format(names=", ".join(names))
    return format_of(formatting, **renamed), origin
