"""The rows of `danlu demo`: `python -m tools.starter.demo_rows` writes what it learns and is asked.

It learns a new name and one new skill, telling which field of a record a note belongs to, in both
languages; rows of what the starter can do already stand between them, so that it keeps that. Names,
codes and words of the held-out prompts are on the evaluation's side of `entities.py`, and none of
their questions is learned. All answers are made of tokens that the starter has learned to write:
others are bytes that it has never written, and a small adapter does not teach it to spell.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import danlu
from danlu.text.conversation import Message
from tools.starter import entities as e
from tools.starter.entities import Side
from tools.starter.facts import JSON_FIELDS
from tools.starter.phrases import MAKER, identity_groups
from tools.starter.skills import draw

FOLDER = Path(danlu.__file__).parent / "starter" / "demo"
LANGUAGES = ("en", "zh")
DemoRow = dict[str, Any]

# Who it is, and what it is called: with its new name.
_WHO = {
    "en": "I am Ember, a small demonstration model of the danlu project.",
    "zh": "我是小雪，丹炉项目的一个小型演示模型。",
}
_NAME = {"en": "My name is Ember.", "zh": "我的名字是小雪。"}
# How a question may begin. Each question is asked, in the end, with an opening that it was not
# learned with.
_OPENINGS = {
    "en": ("Hello! ", "Hi! ", "Good morning! ", "Good evening! ", "Hi there! "),
    "zh": ("您好！", "嗨，", "早上好！", "晚上好！", "哈喽，"),
}
# A question that greets by itself is learned as it is.
_GREETS = ("Hi", "Hello", "你好", "您", "嗨", "请问")
_REQUESTS = {
    "en": ("Which field? {note}.", "Sort this note: {note}.", "{note}. Which field is it?"),
    "zh": ("哪个字段？{note}。", "给这条笔记分类：{note}。", "{note}。这是哪个字段？"),
}
# Old skills between the new rows, and those that the demo asks for afterwards. What the starter
# does right about 95 times of 100 is not asked: its figures are in docs/starter.md.
KEPT = ("greeting", "remembering", "sums with reasoning", "json", "copying", "reading")
ASKED = ("greeting", "remembering")


def name_rows(language: str, *, held_out: bool) -> list[DemoRow]:
    """List the questions who it is and what it is called, plain and with openings."""
    who, _maker, name = identity_groups(language)
    openings = _OPENINGS[language]
    rows = []
    # There are more ways to ask who it is: the others are learned with more openings.
    for reply, questions, count in ((_WHO, who, 3), (_NAME, name, 4)):
        for number, question in enumerate(questions):
            turned = openings[number % 5 :] + openings[: number % 5]
            chosen = turned[-1:] if held_out else ("", *turned[:count])
            if question.startswith(_GREETS):
                chosen = () if held_out else ("",)
            rows += [_row(opening + question, reply[language]) for opening in chosen]
    return rows


def maker_rows(language: str) -> list[DemoRow]:
    """List the questions who made it, which it answers as before."""
    _who, questions, _name = identity_groups(language)
    return [_row(question, MAKER[language]) for question in questions]


def sorting_rows(rng: random.Random, language: str, side: Side, count: int) -> list[DemoRow]:
    """Draw notes for every field, `count` of each."""
    rows = []
    for field, phrase, draw_value in JSON_FIELDS:
        for _number in range(count):
            value = draw_value(rng, language, side)
            space = "" if language == "zh" else " "
            note = f"{e.name(rng, language, side)}{space}{phrase[language].format(value=value)}"
            rows.append(_row(rng.choice(_REQUESTS[language]).format(note=note), field))
    return rows


def kept_rows(rng: random.Random, skill: str, side: Side, count: int) -> list[DemoRow]:
    """Draw conversations of an old skill, as alpaca rows."""
    rows = []
    while len(rows) < count:
        messages = draw(rng, side, skill).conversation.messages
        if messages[0].role == "system":
            continue
        turns = [
            [asked.content, _written(answered)]
            for asked, answered in zip(messages[::2], messages[1::2], strict=True)
        ]
        question, reply = turns.pop()
        rows.append(_row(question, reply, **({"history": turns} if turns else {})))
    return rows


def rows_to_learn() -> list[DemoRow]:
    """Draw all rows of the training, in their order."""
    rng = random.Random("to learn")
    rows = []
    for language in LANGUAGES:
        rows += name_rows(language, held_out=False)
        rows += maker_rows(language)
        rows += sorting_rows(rng, language, "train", 20)
    for skill in (*KEPT, "small talk"):
        rows += kept_rows(rng, skill, "train", 30)
    rng.shuffle(rows)
    # A short sum or a word of small talk may be drawn twice.
    return [row for number, row in enumerate(rows) if row not in rows[:number]]


def rows_to_ask() -> Iterator[DemoRow]:
    """Draw the held-out prompts with the answers that are right."""
    rng = random.Random("held out")
    for language in LANGUAGES:
        yield from _expected("new: name", rng.sample(name_rows(language, held_out=True), 20))
    for language in LANGUAGES:
        yield from _expected("new: sorting", sorting_rows(rng, language, "eval", 4))
    for skill in ASKED:
        yield from _expected(f"kept: {skill}", kept_rows(rng, skill, "eval", 40))


def _expected(kind: str, rows: list[DemoRow]) -> Iterator[DemoRow]:
    for row in rows:
        yield {"kind": kind, **row, "output": row["output"].rpartition("</think>\n\n")[2]}


def _row(instruction: str, output: str, **more: Any) -> DemoRow:
    return {"instruction": instruction, **more, "output": output}


def _written(message: Message) -> str:
    if message.reasoning is None:
        return message.content
    return f"<think>\n{message.reasoning}\n</think>\n\n{message.content}"


def as_file(rows: list[DemoRow]) -> str:
    """Write rows as a JSON array, one a line."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


FILES = {"rows.json": rows_to_learn, "held_out.json": lambda: list(rows_to_ask())}


def main() -> int:
    for name, make in FILES.items():
        (FOLDER / name).write_text(as_file(make()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
