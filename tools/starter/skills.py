"""What the starter model can do: one generator of conversations per skill, in two languages.

Each generator draws a conversation whose answers are fully determined by what was asked, so that
the evaluation can compare word by word. Entities come from `entities.py`, on the side asked for.
Phrasings are many on purpose: a model that has seen one way to ask learns that one way.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from danlu.text.conversation import Conversation, Message, ToolCall
from tools.starter import entities as e
from tools.starter import facts as f
from tools.starter import phrases as p
from tools.starter import tool_uses as t
from tools.starter.entities import Side


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A conversation that ends with an answer to learn. thinks: with or without room to reason."""

    skill: str
    conversation: Conversation
    thinks: bool


Generator = Callable[[random.Random, str, Side], list[Message] | Conversation]


def say(content: str) -> Message:
    return Message(role="user", content=content)


def answer(content: str, reasoning: str | None = None) -> Message:
    return Message(role="assistant", content=content, reasoning=reasoning)


def greeting(rng: random.Random, lang: str, side: Side) -> list[Message]:
    name = e.name(rng, lang, side)
    reply = p.GREETING_REPLY[lang].format(name=name)
    return [say(rng.choice(p.GREETINGS[lang]).format(name=name)), answer(reply)]


def identity(rng: random.Random, lang: str, side: Side) -> list[Message]:
    question, reply = rng.choice(p.identity_questions(lang, side))
    return [say(question), answer(reply)]


def small_talk(rng: random.Random, lang: str, side: Side) -> list[Message]:
    question, reply = rng.choice(p.SMALL_TALK[lang])
    return [say(question), answer(reply)]


def remembering(rng: random.Random, lang: str, side: Side) -> list[Message]:
    makers = rng.sample(f.PERSONAL_FACTS, rng.choice([1, 1, 2]))
    facts = [make(rng, lang, side) for make in makers]
    messages: list[Message] = []
    for statement, _question, _reply in facts:
        messages += [say(statement), answer(p.NOTED[lang])]
    if rng.random() < 0.4:
        messages += small_talk(rng, lang, side)
    _statement, question, reply = rng.choice(facts)
    return [*messages, say(question), answer(reply)]


def reading(rng: random.Random, lang: str, side: Side) -> list[Message]:
    makers = rng.choices(f.TEXT_FACTS, k=rng.choice([1, 2, 2, 3, 3, 4]))
    facts = [maker(rng, lang, side) for maker in makers]
    text = ("" if lang == "zh" else " ").join(statement for statement, _q, _a in facts)
    _statement, question, reply = rng.choice(facts)
    frame = rng.choice(f.READING_FRAMES[lang])
    return [say(frame.format(text=text, question=question)), answer(reply)]


def _operands(rng: random.Random, side: Side) -> tuple[int, str, int, int]:
    while True:
        sign = rng.choice("+-")
        a, b = rng.randint(1, 60), rng.randint(1, 60)
        if sign == "-" and a < b:
            a, b = b, a
        if e.side_of(f"{a}{sign}{b}") == side:
            return a, sign, b, a + b if sign == "+" else a - b


def _digits(a: int, sign: str, b: int) -> str:
    """Write the sum out from the last digit to the first, the way it is done on paper."""
    ones_a, ones_b, tens_a, tens_b = a % 10, b % 10, a // 10, b // 10
    if sign == "+":
        ones = ones_a + ones_b
        carry = ones // 10
        steps = [
            f"{ones_a}+{ones_b}={ones}",
            f"{tens_a}+{tens_b}+{carry}={tens_a + tens_b + carry}",
        ]
    else:
        borrow = int(ones_a < ones_b)
        ones = ones_a + 10 * borrow
        steps = [
            f"{ones}-{ones_b}={ones - ones_b}",
            f"{tens_a}-{borrow}-{tens_b}={tens_a - borrow - tens_b}",
        ]
    return "\n".join(steps)


def sum_with_reasoning(rng: random.Random, lang: str, side: Side) -> list[Message]:
    a, sign, b, result = _operands(rng, side)
    question = rng.choice(p.SUMS[lang]).format(a=a, sign=sign, b=b)
    return [say(question), answer(f"{a} {sign} {b} = {result}", _digits(a, sign, b))]


def sum_at_once(rng: random.Random, lang: str, side: Side) -> list[Message]:
    question, reply = sum_with_reasoning(rng, lang, side)
    return [question, answer(reply.content)]


def json_answer(rng: random.Random, lang: str, side: Side) -> list[Message]:
    fields = rng.sample(f.JSON_FIELDS, rng.choice([2, 2, 3]))
    person = e.name(rng, lang, side)
    parts, record = [], {"name": person}
    for key, phrase, draw in fields:
        value = draw(rng, lang, side)
        parts.append(phrase[lang].format(value=value))
        record[key] = value
    text = ("，" if lang == "zh" else ", ").join(parts)
    keys = ", ".join(record)
    request = rng.choice(f.JSON_FRAMES[lang]).format(name=person, text=text, keys=keys)
    return [say(request), answer(json.dumps(record, ensure_ascii=False))]


def tool_call(rng: random.Random, lang: str, side: Side) -> Conversation:
    messages, tool = _tool_messages(rng, lang, side)
    return Conversation(messages=tuple(messages[:2]), tools=t.draw_tools(rng, must_have=tool))


def tool_result(rng: random.Random, lang: str, side: Side) -> Conversation:
    messages, tool = _tool_messages(rng, lang, side)
    return Conversation(messages=tuple(messages), tools=t.draw_tools(rng, must_have=tool))


def _tool_messages(rng: random.Random, lang: str, side: Side) -> tuple[list[Message], str]:
    tool = rng.choice(list(t.TOOL_USES))
    request, arguments, result, reply = t.TOOL_USES[tool](rng, lang, side)
    call = ToolCall(name=tool, arguments=arguments)
    messages = [
        say(request),
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content=json.dumps(result, ensure_ascii=False)),
        answer(reply),
    ]
    return messages, tool


def copying(rng: random.Random, lang: str, side: Side) -> list[Message]:
    kind = rng.randrange(5)
    if kind == 0:
        text = e.code(rng, side, rng.randint(3, 8))
    elif kind == 1 and lang == "zh":
        text = e.characters(rng, rng.randint(2, 8))
    elif kind == 2:
        text = ", ".join(e.name(rng, lang, side) for _ in range(rng.randint(2, 5)))
    elif kind == 3:
        things = rng.sample(e.THINGS[lang] + e.FOODS[lang], rng.randint(2, 6))
        text = ("、" if lang == "zh" else ", ").join(things)
    else:
        text = " ".join(e.word(rng, side) for _ in range(rng.randint(1, 5)))
    return [say(rng.choice(p.REPEAT[lang]).format(text=text)), answer(text)]


# (generator, share of the training mix, thinking: True, False, or None for either)
SKILLS: dict[str, tuple[Generator, float, bool | None]] = {
    "greeting": (greeting, 6, None),
    "identity": (identity, 8, None),
    "small talk": (small_talk, 7, None),
    "remembering": (remembering, 14, None),
    "reading": (reading, 20, None),
    "sums with reasoning": (sum_with_reasoning, 8, True),
    "sums at once": (sum_at_once, 8, False),
    "json": (json_answer, 12, None),
    "tool call": (tool_call, 6, None),
    "tool result": (tool_result, 6, None),
    "copying": (copying, 14, None),
}


def draw(rng: random.Random, side: Side, skill: str | None = None) -> Sample:
    """Draw one sample of a skill, or of the training mix."""
    if skill is None:
        weights = [share for _generator, share, _thinks in SKILLS.values()]
        skill = rng.choices(list(SKILLS), weights)[0]
    generator, _share, thinks = SKILLS[skill]
    drawn = generator(rng, rng.choice(["en", "zh"]), side)
    if not isinstance(drawn, Conversation):
        drawn = Conversation(messages=tuple(drawn))
    if rng.random() < 0.12 and drawn.messages[0].role != "system":
        system = Message(role="system", content=rng.choice(p.SYSTEM_PROMPTS))
        drawn = Conversation(messages=(system, *drawn.messages), tools=drawn.tools)
    chosen = rng.random() < 0.5 if thinks is None else thinks
    return Sample(skill=skill, conversation=drawn, thinks=chosen)
