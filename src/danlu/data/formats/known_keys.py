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
# The kind of a finding, what is wrong and what to do, of each meaning that is refused.
_Refusals = Mapping[Meaning, tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True)
class KnownKey:
    """What a key means. place: what to write in its place."""

    meaning: Meaning
    place: str = ""


def _known(meaning: Meaning, names: str, place: str = "") -> dict[str, KnownKey]:
    return dict.fromkeys(names.split(), KnownKey(meaning=meaning, place=place))


# As DeepSeek, Qwen, vLLM, OpenRouter and Ollama write them, and data sets made by hand.
THOUGHT_KEYS = _known("thought", "reasoning_content reasoning thinking thought reasoning_details")
# As OpenAI, ms-swift, slime and axolotl write them.
MARK_KEYS = _known("mark", "weight loss loss_scale train training")
_ANYWHERE = {
    **_known("harmless", "id _id idx index uuid source dataset category lang language"),
    **_known("media", "images videos audios image video audio"),
    **_known("renamed", "functions", place="tools"),  # OpenAI's, before tools
}
ROW_KEYS: Mapping[str, KnownKey] = {
    **_ANYWHERE,
    # Of DPO in LLaMA-Factory and TRL, and in ms-swift.
    **_known("preference", "chosen rejected rejected_response rejected_messages"),
    # Of KTO in LLaMA-Factory, TRL and ms-swift.
    **_known("judgement", "kto_tag label"),
    **_known("run_wide", "chat_template_kwargs", place="--enable_thinking"),  # TRL's
    **_known("harmless", "parallel_tool_calls"),
}
_MESSAGE_KEYS: Mapping[str, KnownKey] = {
    **_ANYWHERE,
    **THOUGHT_KEYS,
    **MARK_KEYS,
    **_known("read", "tool_calls"),
    **_known("renamed", "function_call", place="tool_calls"),  # OpenAI's, before tool_calls
    **_known("renamed", "refusal", place="content"),
    **_known("renamed", "trainable mask train_detail", place="train"),  # axolotl's, and others'
    **_known("renamed", "tools", place="tools of the row"),  # GLM's
    **_known("harmless", "name tool_call_id annotations"),
}
# They may say that an answer is bad; it is learned all the same.
JUDGING_KEYS = frozenset({"label", "score", "rating", "quality", "reward"})
_CALL_KEYS = ("name", "arguments", "function", "id", "type", "index")


def refuse_row(row: Mapping[str, Any], read: Collection[str]) -> None:
    """Raise BadRow for a row that carries what would be lost. read: the columns with a part."""
    for name, value in _that_say_something(row, read):
        key = ROW_KEYS.get(name)
        # Numbers and words under the name label are classes, which nothing reads.
        if key and key.meaning != "harmless" and (name != "label" or _is_truth(value)):
            raise _refused(_row_refusals(), key, name=name)


def refuse_message(entry: Mapping[str, Any], number: int, read: Collection[str]) -> None:
    """Raise BadRow for a message that carries what would be lost. read: role and content."""
    for name, _value in _that_say_something(entry, read):
        key = _MESSAGE_KEYS.get(name)
        if key and key.meaning in ("media", "renamed"):
            raise _refused(_message_refusals(), key, name=name, number=number)


def _row_refusals() -> _Refusals:
    return {
        "media": (
            "media",
            _("The row has {name}; danlu trains on text only."),
            _("Remove the row, or {name} and what refers to it."),
        ),
        "judgement": (
            "preference",
            _("The row has {name}: it says whether the answer is good."),
            _("Keep the rows with good answers, without {name}."),
        ),
        "preference": (
            "preference",
            _("The row has {name}: it is made for preference training."),
            _("Write the answer to learn in the place of the format's answers."),
        ),
        "renamed": (
            "renamed_key",
            _("The row has {name}, which is not read."),
            _("Write it as {place}."),
        ),
        "run_wide": (
            "run_wide",
            _("The row has {name}; danlu renders all rows alike."),
            _("Remove it, and give {place} for the run."),
        ),
    }


def _message_refusals() -> _Refusals:
    return {
        "media": (
            "media",
            _("Message {number} has {name}; danlu trains on text only."),
            _("Remove the row, or {name} and what refers to it."),
        ),
        "renamed": (
            "renamed_key",
            _("Message {number} has {name}, which is not read."),
            _("Write it as {place}."),
        ),
    }


def _refused(refusals: _Refusals, key: KnownKey, **names: object) -> BadRow:
    kind, what, fix = refusals[key.meaning]
    return BadRow(kind, what.format(**names), fix.format(place=key.place, **names))


def unread_in_row(row: Mapping[str, Any], read: Collection[str]) -> Iterator[str]:
    """Yield the fields of a usable row that hold something and are neither read nor harmless."""
    for name, _value in _that_say_something(row, read):
        key = ROW_KEYS.get(name)
        if key is None or key.meaning != "harmless":
            yield str(name)


def unread_in_message(
    entry: Mapping[str, Any], read: Collection[str], *, is_answer: bool
) -> Iterator[str]:
    """Yield the fields of a message that hold something and are neither read nor known.

    Only answers have thoughts, marks and calls: elsewhere these are not read either.
    """
    for name, _value in _that_say_something(entry, read):
        key = _MESSAGE_KEYS.get(name)
        if key is None or (not is_answer and key.meaning in ("thought", "mark", "read")):
            yield str(name)


def unread_in_call(call: Any) -> Iterator[str]:
    """Yield the fields of a call, or of its function, that hold something and are not known."""
    for part in (call, call.get("function")) if isinstance(call, Mapping) else ():
        if isinstance(part, Mapping):
            yield from (str(name) for name, _value in _that_say_something(part, _CALL_KEYS))


def _that_say_something(
    fields: Mapping[str, Any], read: Collection[str]
) -> Iterator[tuple[str, Any]]:
    """Yield the fields that hold something and are not read as a part."""
    for name, value in fields.items():
        if name not in read and not _is_nothing(value):
            yield name, value


def _is_nothing(value: Any) -> bool:
    """Tell whether a field is as good as missing: tables and CSV cannot leave one out."""
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or (
        isinstance(value, str) and value.strip().lower() in ("true", "false")
    )
