"""Rows that hold a list of messages: sharegpt and OpenAI's, which differ in their names only.

sharegpt: {"from": "human", "value": "..."}, with roles human, gpt, observation, function_call,
system. openai: {"role": "user", "content": "..."}, with roles user, assistant, tool, system and
calls in `tool_calls`. Both take the other's way of writing a call where it appears.

The order is strict: questions and answers take turns, a tool's result follows a call, the last
message is an answer. A row that breaks it was cut or joined by mistake, and would teach that.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from danlu.data.findings import BadRow, Remarks
from danlu.data.formats import answer_fields, fields, known_keys
from danlu.language import _
from danlu.text.conversation import Conversation, Message, Role
from danlu.text.render import split_reasoning

SHAREGPT_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}
_ROLES: dict[str, Role | Literal["function"]] = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function",
    "system_tag": "system",
}
# What other data sets call the roles, to name the right one.
_OTHER_NAMES = {
    **dict.fromkeys(("user", "human", "question"), "user_tag"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "ai"), "assistant_tag"),
    **dict.fromkeys(("tool", "observation", "function", "tool_response"), "observation_tag"),
    **dict.fromkeys(("function_call", "tool_call"), "function_tag"),
    **dict.fromkeys(("system", "developer"), "system_tag"),
}
# Parts that hold a thought, in the APIs of Anthropic, Mistral and OpenAI.
_THOUGHT_PARTS = ("thinking", "reasoning", "reasoning_text", "redacted_thinking")
# What other data sets call a message's text.
_CONTENT_NAMES = ("content", "value", "text", "parts")

Tags = Mapping[str, str]


def read_row(row: Any, columns: Mapping[str, str], tags: Tags) -> tuple[Conversation, Remarks]:
    """Turn a row into a conversation that ends with an answer to learn. Raises BadRow."""
    row = fields.row_object(row)
    known_keys.refuse_row(row, columns.values())
    entries = _entries(row, columns["messages"], tags)
    parsed = [_message(entry, number, tags) for number, entry in enumerate(entries, start=1)]
    _check_order(parsed, [str(entry[tags["role_tag"]]) for entry in entries])
    if not any(message.role == "assistant" and message.is_learned for message in parsed):
        raise BadRow(
            "nothing_to_learn",
            _("No answer of the row is to be learned."),
            _("Remove the row, or the mark of the answer to learn."),
        )
    remarks = _remarks(row, entries, parsed, columns, tags)
    if parsed[0].role == "system" and not parsed[0].content:
        del parsed[0]
    system = fields.text(fields.column(row, columns, "system"), columns.get("system", ""))
    if system and parsed[0].role != "system":
        parsed.insert(0, Message(role="system", content=system))
    elif system and parsed[0].content != system:
        raise BadRow(
            "two_systems",
            _("The row has two system texts: {name}, and its first message.").format(
                name=columns["system"]
            ),
            _("Remove one of them."),
        )
    tools = fields.tools(fields.column(row, columns, "tools"), columns.get("tools", ""))
    return Conversation(messages=tuple(parsed), tools=tools), remarks


def _remarks(
    row: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    parsed: Sequence[Message],
    columns: Mapping[str, str],
    tags: Tags,
) -> Remarks:
    """Say what the messages do not show: fields of theirs are named as `messages[].name`."""
    unread = dict.fromkeys(known_keys.unread_in_row(row, columns.values()))
    column, half_thought = columns["messages"], False
    for number, (entry, message) in enumerate(zip(entries, parsed, strict=True), start=1):
        is_answer = message.role == "assistant"
        for name in known_keys.unread_in_message(entry, _read_keys(tags), is_answer=is_answer):
            unread[f"{column}[].{name}"] = None
        if not is_answer:
            continue
        calls = fields.structure(entry.get("tool_calls"), _Part("tool_calls", number))
        for call in calls if isinstance(calls, list) else [calls]:
            for name in known_keys.unread_in_call(call):
                unread[f"{column}[].tool_calls[].{name}"] = None
        # Parts are not put together.
        half_thought |= answer_fields.closes_a_thought_only(entry.get(tags["content_tag"]))
    return Remarks(unread=tuple(unread), half_thought=half_thought)


def _entries(row: Mapping[str, Any], name: str, tags: Tags) -> list[Mapping[str, Any]]:
    """Return the list of messages, each an object with a role that is text."""
    if name not in row:
        raise fields.missing_columns(row, [name])
    listed = fields.structure(row[name], name)
    example = f'{{"{tags["role_tag"]}": "{tags["user_tag"]}", "{tags["content_tag"]}": "..."}}'
    if not isinstance(listed, list) or not listed:
        raise BadRow(
            "no_messages",
            _("{name} is not a list of messages.").format(name=name),
            _("Write each message as {example}.").format(example=example),
        )
    for number, entry in enumerate(listed, start=1):
        if not isinstance(entry, Mapping) or not isinstance(entry.get(tags["role_tag"]), str):
            raise BadRow(
                "no_role",
                _("Message {number} has no {tag}; it has {keys}.").format(
                    number=number, tag=tags["role_tag"], keys=fields.shown_names(entry)
                )
                if isinstance(entry, Mapping)
                else _("Message {number} is not an object.").format(number=number),
                _("Write each message as {example}.").format(example=example),
            )
    return listed


class _Part:
    """A part of a message, put into words only where something is wrong with it: that is slow."""

    def __init__(self, tag: str, number: int) -> None:
        self.tag, self.number = tag, number

    def __str__(self) -> str:
        return _("{tag} of message {number}").format(tag=self.tag, number=self.number)


def _message(entry: Mapping[str, Any], number: int, tags: Tags) -> Message:
    name = _Part(tags["content_tag"], number)
    role = _role(entry[tags["role_tag"]], number, tags)
    known_keys.refuse_message(entry, number, _read_keys(tags))
    if tags["content_tag"] not in entry:
        _refuse_other_content(entry, number, tags)
    content = _content(entry.get(tags["content_tag"]), name)
    if role == "function":
        reasoning, call = split_reasoning(content)
        calls = fields.tool_calls(call, name)
        if not calls:
            raise fields.wrong_call(name)
        if fields.structure(entry.get("tool_calls"), _Part("tool_calls", number)):
            raise BadRow(
                "two_calls",
                _("Message {number} has calls twice, as {tag} and as tool_calls.").format(
                    number=number, tag=tags["content_tag"]
                ),
                _("Keep one of them."),
            )
        message = Message(role="assistant", reasoning=reasoning, tool_calls=calls)
        return answer_fields.with_its_keys(message, entry, number)
    if role == "assistant":
        calls = fields.tool_calls(entry.get("tool_calls"), _Part("tool_calls", number))
        message = answer_fields.answer(content, name, calls)
        return answer_fields.with_its_keys(message, entry, number)
    if role == "user" and not content.strip():
        raise BadRow(
            "empty_question",
            _("Message {number} is empty.").format(number=number),
            _("Fill it in, or remove it together with its answer."),
        )
    return Message(role=role, content=content)


def _read_keys(tags: Tags) -> tuple[str, str]:
    return tags["role_tag"], tags["content_tag"]


def _refuse_other_content(entry: Mapping[str, Any], number: int, tags: Tags) -> None:
    """Raise BadRow where a message has its text under another format's name."""
    for name in _CONTENT_NAMES:
        if isinstance(entry.get(name), str | list) and name not in _read_keys(tags):
            raise BadRow(
                "other_content",
                _("Message {number} has {name}, not {tag}.").format(
                    number=number, name=name, tag=tags["content_tag"]
                ),
                _("Rename it, or name it as content_tag in dataset_info.json."),
            )


def _content(value: Any, name: object) -> str:
    """Return text, also from OpenAI's list of parts."""
    if not isinstance(value, list):
        return fields.text(value, name)
    for part in value:
        if isinstance(part, Mapping) and part.get("type") in _THOUGHT_PARTS:
            raise BadRow(
                "thought_part",
                _("{name} has a thought among its parts.").format(name=name),
                _("Write the thought as text, in reasoning_content."),
            )
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise BadRow(
                "media",
                _("{name} has a part that is not text.").format(name=name),
                _("danlu trains on text only: remove the row or the part."),
            )
    return "".join(fields.text(part.get("text"), name) for part in value)


def _role(value: str, number: int, tags: Tags) -> Role | Literal["function"]:
    for tag, role in _ROLES.items():
        if value == tags.get(tag):
            return role
    if value == "developer" and tags["role_tag"] == "role":
        return "system"  # OpenAI's newer name for it
    roles = [tags[tag] for tag in _ROLES if tag in tags]
    meant = tags.get(_OTHER_NAMES.get(value.lower(), ""))
    nearest = meant or difflib.get_close_matches(value, roles, 1, 0.0)[0]
    raise BadRow(
        "unknown_role",
        _("Message {number} has the role {role}; known are {roles}.").format(
            number=number, role=value, roles=", ".join(roles)
        ),
        _("Write {nearest}, or name the roles as tags in dataset_info.json.").format(
            nearest=nearest
        ),
    )


def _check_order(messages: Sequence[Message], roles: Sequence[str]) -> None:
    """Raise BadRow at the first message that stands where it cannot. roles: as the row says."""
    previous: Message | None = None
    for number, (message, role) in enumerate(zip(messages, roles, strict=True), start=1):
        if message.role not in _may_follow(previous):
            raise BadRow(
                "wrong_order",
                _("Message {number} ({role}) follows message {previous} ({before}).").format(
                    number=number, role=role, previous=number - 1, before=roles[number - 2]
                )
                if previous
                else _("The first message is of {role}.").format(role=role),
                _order_fix(previous, message),
            )
        previous = message
    if previous is None or previous.role != "assistant":
        raise BadRow(
            "no_answer",
            _("The last message, {number} ({role}), has no answer.").format(
                number=len(messages), role=roles[-1]
            ),
            _("Add the answer, or remove the message."),
        )


def _may_follow(previous: Message | None) -> tuple[Role, ...]:
    if previous is None:
        return ("system", "user")
    if previous.role == "user":
        return ("assistant",)
    if previous.role == "tool":
        return ("tool", "assistant")
    return ("tool",) if previous.tool_calls else ("user",)


def _order_fix(previous: Message | None, message: Message) -> str:
    if message.role == "system":
        return _("Move its text into the first message.")
    if message.role == "tool":
        return _("A tool's result must follow its call: add the call, or remove the result.")
    if previous is None:
        return _("Begin with a question: add it, or remove the message.")
    if previous.tool_calls:
        return _("Put the tool's result between them.")
    if previous.role == message.role:
        return _("Join the two, or put what is missing between them.")
    return _("Put what is missing between them.")
