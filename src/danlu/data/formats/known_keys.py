"""Keys that tools write into rows, messages and calls, and what becomes of each here: a table.

What carries meaning is read or refused with the words that say what to do; what is in no table and
in no format is counted, and shown by `danlu data check`. Must not know files or tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from danlu.data.findings import BadRow
from danlu.language import _

# read: by every format. thought, mark: of an answer, see `answer_fields`. harmless: nothing that a
# model could learn. The others are refused. media, preference, judgement: it is data for another
# training. renamed, run_wide: it is said elsewhere.
Meaning = Literal[
    "read",
    "thought",
    "mark",
    "harmless",
    "media",
    "preference",
    "judgement",
    "renamed",
    "run_wide",
]


@dataclass(frozen=True, kw_only=True)
class KnownKey:
    """What a key means. written_by: tools and data sets. place: what to write in its place."""

    meaning: Meaning
    written_by: str
    place: str = ""


_IDS = dict.fromkeys(
    ("id", "_id", "idx", "index", "uuid", "source", "dataset", "category", "lang", "language"),
    KnownKey(meaning="harmless", written_by="most data sets"),
)
_MEDIA = dict.fromkeys(
    ("images", "videos", "audios", "image", "video", "audio"),
    KnownKey(meaning="media", written_by="LLaMA-Factory, ms-swift, OpenAI"),
)
_FUNCTIONS = KnownKey(meaning="renamed", written_by="OpenAI, before tools", place="tools")
ROW_KEYS: Mapping[str, KnownKey] = {
    **_IDS,
    **_MEDIA,
    "chosen": KnownKey(meaning="preference", written_by="LLaMA-Factory, TRL (DPO)"),
    "rejected": KnownKey(meaning="preference", written_by="LLaMA-Factory, TRL (DPO)"),
    "rejected_response": KnownKey(meaning="preference", written_by="ms-swift"),
    "rejected_messages": KnownKey(meaning="preference", written_by="ms-swift"),
    "kto_tag": KnownKey(meaning="judgement", written_by="LLaMA-Factory (KTO)"),
    # Only true and false: numbers and words under this name are classes, which nothing reads.
    "label": KnownKey(meaning="judgement", written_by="LLaMA-Factory, TRL, ms-swift (KTO)"),
    "functions": _FUNCTIONS,
    "chat_template_kwargs": KnownKey(
        meaning="run_wide", written_by="TRL", place="--enable_thinking"
    ),
    "parallel_tool_calls": KnownKey(meaning="harmless", written_by="OpenAI"),
}
THOUGHT_KEYS: Mapping[str, KnownKey] = {
    "reasoning_content": KnownKey(meaning="thought", written_by="DeepSeek, Qwen, vLLM"),
    "reasoning": KnownKey(meaning="thought", written_by="OpenRouter, vLLM"),
    "thinking": KnownKey(meaning="thought", written_by="Ollama, gpt-oss"),
    "thought": KnownKey(meaning="thought", written_by="data sets made by hand"),
    "reasoning_details": KnownKey(meaning="thought", written_by="OpenRouter"),
}
MARK_KEYS: Mapping[str, KnownKey] = {
    "weight": KnownKey(meaning="mark", written_by="OpenAI"),
    "loss": KnownKey(meaning="mark", written_by="ms-swift, slime"),
    "loss_scale": KnownKey(meaning="mark", written_by="ms-swift"),
    "train": KnownKey(meaning="mark", written_by="axolotl"),
    "training": KnownKey(meaning="mark", written_by="axolotl"),
}
MESSAGE_KEYS: Mapping[str, KnownKey] = {
    **_IDS,
    **_MEDIA,
    **THOUGHT_KEYS,
    **MARK_KEYS,
    "tool_calls": KnownKey(meaning="read", written_by="OpenAI"),
    "function_call": KnownKey(
        meaning="renamed", written_by="OpenAI, before tool_calls", place="tool_calls"
    ),
    "refusal": KnownKey(meaning="renamed", written_by="OpenAI", place="content"),
    "tools": KnownKey(
        meaning="renamed", written_by="GLM and data sets of calls", place="tools of the row"
    ),
    "functions": _FUNCTIONS,
    "name": KnownKey(meaning="harmless", written_by="OpenAI"),
    "tool_call_id": KnownKey(meaning="harmless", written_by="OpenAI"),
    "annotations": KnownKey(meaning="harmless", written_by="OpenAI"),
}
CALL_KEYS: Mapping[str, KnownKey] = {
    "name": KnownKey(meaning="read", written_by="OpenAI"),
    "arguments": KnownKey(meaning="read", written_by="OpenAI"),
    "function": KnownKey(meaning="read", written_by="OpenAI"),
    "id": KnownKey(meaning="harmless", written_by="OpenAI"),
    "type": KnownKey(meaning="harmless", written_by="OpenAI"),
    "index": KnownKey(meaning="harmless", written_by="OpenAI, when it streams"),
}


def refuse_row(row: Mapping[str, Any], read: Collection[str]) -> None:
    """Raise BadRow for a row that carries what would be lost. read: the columns with a part."""
    for name, value in row.items():
        key = ROW_KEYS.get(name)
        if key is None or name in read or is_nothing(value):
            continue
        if key.meaning == "media":
            raise BadRow(
                "media",
                _("The row has {name}; danlu trains on text only.").format(name=name),
                _("Remove the row, or {name} and what refers to it.").format(name=name),
            )
        if key.meaning == "judgement" and (name != "label" or _is_truth(value)):
            raise BadRow(
                "preference",
                _("The row has {name}: it says whether the answer is good.").format(name=name),
                _("Keep the rows with good answers, without {name}.").format(name=name),
            )
        if key.meaning == "preference":
            raise BadRow(
                "preference",
                _("The row has {name}: it is made for preference training.").format(name=name),
                _("Write the answer to learn in the place of the format's answers."),
            )
        if key.meaning == "renamed":
            raise BadRow(
                "renamed_key",
                _("The row has {name}, which is not read.").format(name=name),
                _("Write it as {place}.").format(place=key.place),
            )
        if key.meaning == "run_wide":
            raise BadRow(
                "run_wide",
                _("The row has {name}; danlu renders all rows alike.").format(name=name),
                _("Remove it, and give {option} for the run.").format(option=key.place),
            )


def refuse_message(entry: Mapping[str, Any], number: int, read: Collection[str]) -> None:
    """Raise BadRow for a message that carries what would be lost. read: role and content."""
    for name, value in entry.items():
        key = MESSAGE_KEYS.get(name)
        if key is None or name in read or is_nothing(value):
            continue
        if key.meaning == "media":
            raise BadRow(
                "media",
                _("Message {number} has {name}; danlu trains on text only.").format(
                    number=number, name=name
                ),
                _("Remove the row, or {name} and what refers to it.").format(name=name),
            )
        if key.meaning == "renamed":
            raise BadRow(
                "renamed_key",
                _("Message {number} has {name}, which is not read.").format(
                    number=number, name=name
                ),
                _("Write it as {place}.").format(place=key.place),
            )


def unread_in_row(row: Mapping[str, Any], read: Collection[str]) -> Iterator[str]:
    """Yield the fields of a usable row that hold something and are neither read nor harmless."""
    for name, value in row.items():
        key = ROW_KEYS.get(name)
        is_harmless = key is not None and key.meaning == "harmless"
        if name not in read and not is_nothing(value) and not is_harmless:
            yield str(name)


def unread_in_message(
    entry: Mapping[str, Any], read: Collection[str], *, is_answer: bool
) -> Iterator[str]:
    """Yield the fields of a message that hold something and are neither read nor known.

    Only answers have thoughts, marks and calls: elsewhere these are not read either.
    """
    for name, value in entry.items():
        if name in read or is_nothing(value):
            continue
        key = MESSAGE_KEYS.get(name)
        if key is None or (not is_answer and key.meaning in ("thought", "mark", "read")):
            yield str(name)


def unread_in_call(call: Any) -> Iterator[str]:
    """Yield the fields of a call, or of its function, that hold something and are not known."""
    for part in (call, call.get("function")) if isinstance(call, Mapping) else ():
        for name, value in part.items() if isinstance(part, Mapping) else ():
            if name not in CALL_KEYS and not is_nothing(value):
                yield str(name)


def is_nothing(value: Any) -> bool:
    """Tell whether a field is as good as missing: tables and CSV cannot leave one out."""
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or (
        isinstance(value, str) and value.strip().lower() in ("true", "false")
    )
