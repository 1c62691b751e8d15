"""The fields of a row: text, lists, tools and tool calls, checked one by one.

Every fault is a BadRow that names the field and the fix. name: the field, as str(name) shows it.
Knows no formats and no files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from danlu.data.findings import BadRow
from danlu.language import _
from danlu.reasons import reason_of
from danlu.text.conversation import ToolCall

_MOST_NAMES = 20


def row_object(row: Any) -> Mapping[str, Any]:
    """Return the row if it is an object. Raises BadRow."""
    if isinstance(row, Mapping):
        return row
    example = '{"instruction": "...", "output": "..."}'
    if isinstance(row, list) and row and isinstance(row[0], Mapping):
        column = "conversations" if "from" in row[0] else "messages"
        example = f'{{"{column}": [...]}}'
    raise BadRow(
        "not_an_object",
        _("The row is not an object."),
        _("Write it as {example}.").format(example=example),
    )


def column(row: Mapping[str, Any], columns: Mapping[str, str], part: str) -> Any:
    """Return what stands in the column of a part; None where there is no such column."""
    return row.get(columns[part]) if part in columns else None


def missing_columns(row: Mapping[str, Any], names: Sequence[str]) -> BadRow:
    """Say which columns a row lacks, and which it has."""
    fix = _("Rename its fields, or name them as columns in dataset_info.json.")
    lists = {"messages", "conversations"}
    others = lists - set(names) if lists.isdisjoint(names) else {*lists, "instruction"} - set(names)
    if not others.isdisjoint(row):
        fix = _(
            "A file has one format, that of its first rows: put such rows into a file of their "
            "own, or rename their fields."
        )
    return BadRow(
        "missing_column",
        _("The row has no {names}; it has {keys}.").format(
            names=_(" and no ").join(names), keys=shown_names(row)
        ),
        fix,
    )


def shown_names(names: Iterable[object]) -> str:
    """List names of fields; those with blanks or invisible signs at their ends as JSON's text."""
    shown = [
        name if name.isprintable() and name == name.strip() else json.dumps(name)
        for name in map(str, islice(names, _MOST_NAMES + 1))
    ]
    return ", ".join([*shown[:_MOST_NAMES], *(["..."] if len(shown) > _MOST_NAMES else [])]) or "{}"


def text(value: Any, name: object) -> str:
    """Return a field's text, "" where it is missing. Raises BadRow."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _not_text(value, name)
    _check_characters(value, name)
    return value


def structure(value: Any, name: object) -> Any:
    """Return a field that holds lists or objects, as such or as their JSON text. Raises BadRow."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as problem:
        raise _not_json(name, problem) from None


def tools(value: Any, name: object) -> tuple[Mapping[str, Any], ...]:
    """Return the tools in OpenAI's form; a bare function is put into it. Raises BadRow."""
    listed = structure(value, name)
    if not listed:
        return ()
    if not isinstance(listed, list):
        listed = [None]
    _check_json(listed, name)
    functions = [
        tool.get("function") if isinstance(tool, Mapping) and "function" in tool else tool
        for tool in listed
    ]
    if not all(isinstance(tool, Mapping) and _is_name(tool.get("name")) for tool in functions):
        raise BadRow(
            "wrong_tools",
            _("{name} is not a list of functions with names.").format(name=name),
            _("Write {example}.").format(
                example='[{"name": "...", "description": "...", "parameters": {...}}]'
            ),
        )
    return tuple(
        tool if "function" in tool else {"type": "function", "function": tool} for tool in listed
    )


def tool_calls(value: Any, name: object) -> tuple[ToolCall, ...]:
    """Return the calls of one call or a list, bare or in OpenAI's form. Raises BadRow."""
    listed = structure(value, name)
    if not listed:
        return ()
    _check_json(listed, name)
    return tuple(
        _tool_call(call, name) for call in (listed if isinstance(listed, list) else [listed])
    )


def wrong_call(name: object) -> BadRow:
    """Say that a field holds no call."""
    return BadRow(
        "wrong_call",
        _("{name} is not a call with a name and arguments.").format(name=name),
        _("Write {example}.").format(example='{"name": "...", "arguments": {...}}'),
    )


class _InCall:
    """The arguments of a call, put into words only where something is wrong with them."""

    def __init__(self, name: object) -> None:
        self._name = name

    def __str__(self) -> str:
        return _("arguments in {name}").format(name=self._name)


def _tool_call(value: Any, name: object) -> ToolCall:
    call = value.get("function", value) if isinstance(value, Mapping) else None
    if isinstance(call, Mapping) and _is_name(call.get("name")):
        arguments: Any = call.get("arguments")
        if isinstance(arguments, str) and not arguments.strip():
            arguments = {}  # how APIs write a call without arguments
        if isinstance(structure(arguments, _InCall(name)), Mapping):
            # Text stands as it is: the model learns the very characters.
            return ToolCall(name=call["name"], arguments=arguments)
    raise wrong_call(name)


def _not_text(value: Any, name: object) -> BadRow:
    """Say what stands where a text should, and what was probably meant by it."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        what = _("{name} is a list of messages, not a text.").format(name=name)
        fix = _("Join question and answer to one list: {example}.").format(
            example='{"messages": [...]}'
        )
    elif isinstance(value, list):
        what = _("{name} is a list, not a text.").format(name=name)
        fix = _("Write one text: of several answers the one to learn, of several rows one each.")
    elif isinstance(value, Mapping):
        what = _("{name} is an object, not a text.").format(name=name)
        fix = _("Write its text alone.")
    else:
        what = _("{name} is not text.").format(name=name)
        fix = _("Put it between quotation marks.")
    return BadRow("not_text", what, fix)


def _check_characters(text: str, name: object) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow(
            "lone_surrogate",
            _("{name} holds half a character (a lone surrogate).").format(name=name),
            _("Remove it, or write the whole character."),
        ) from None


def _check_json(value: Any, name: object) -> None:
    """Raise BadRow for what a table may hold and JSON may not, such as dates."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as problem:
        raise _not_json(name, problem) from None
    _check_characters(text, name)


def _not_json(name: object, problem: Exception) -> BadRow:
    return BadRow(
        "broken_field",
        _("{name} is not JSON: {reason}.").format(name=name, reason=reason_of(problem)),
        _("Write it as a list or an object, or as the JSON text of one."),
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
