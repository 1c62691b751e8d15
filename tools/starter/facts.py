"""Facts about people, told in several ways: to be remembered, found in a text, put into JSON.

Every fact is a statement, a question and the one right answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tools.starter import entities as e
from tools.starter.entities import Side

Fact = tuple[str, str, str]  # statement, question, answer


def _told(
    en: tuple[list[str], list[str], str],
    zh: tuple[list[str], list[str], str],
    draw: Callable[[random.Random, str, Side], dict[str, str]],
) -> Callable[..., Fact]:
    def make(rng: random.Random, lang: str, side: Side) -> Fact:
        statements, questions, reply = zh if lang == "zh" else en
        values = draw(rng, lang, side)
        return (
            rng.choice(statements).format(**values),
            rng.choice(questions).format(**values),
            reply.format(**values),
        )

    return make


PERSONAL_FACTS: list[Callable[..., Fact]] = [
    _told(
        (
            [
                "My name is {x}.",
                "I'm {x}, please remember it.",
                "Please remember: I am called {x}.",
            ],
            ["What is my name?", "Do you remember my name?", "Who am I?"],
            "Your name is {x}.",
        ),
        (
            ["我叫{x}。", "请记住，我的名字是{x}。", "我是{x}，请记住。"],
            ["我叫什么名字？", "你还记得我的名字吗？", "我是谁？"],
            "你叫{x}。",
        ),
        lambda r, lang, s: {"x": e.name(r, lang, s)},
    ),
    _told(
        (
            ["I live in {x}.", "My home is in {x}.", "Remember that I live in {x}."],
            ["Where do I live?", "In which town do I live?", "Where is my home?"],
            "You live in {x}.",
        ),
        (
            ["我住在{x}。", "我家在{x}。", "请记住我住在{x}。"],
            ["我住在哪里？", "我家在哪里？", "你记得我住哪儿吗？"],
            "你住在{x}。",
        ),
        lambda r, lang, s: {"x": e.place(r, lang, s)},
    ),
    _told(
        (
            ["My code is {x}.", "Please keep this code: {x}.", "Remember the code {x}."],
            ["What is my code?", "Which code did I give you?", "Tell me the code."],
            "The code is {x}.",
        ),
        (
            ["我的密码是{x}。", "请记住密码{x}。", "帮我记一下密码：{x}。"],
            ["我的密码是什么？", "我给你的密码是多少？", "告诉我密码。"],
            "密码是{x}。",
        ),
        lambda r, lang, s: {"x": e.code(r, s)},
    ),
    _told(
        (
            ["I have a {p} called {x}.", "My {p}'s name is {x}.", "My {p} is called {x}."],
            ["What is my {p} called?", "What is the name of my {p}?"],
            "Your {p} is called {x}.",
        ),
        (
            ["我有一只{p}叫{x}。", "我的{p}名叫{x}。", "我家的{p}叫{x}。"],
            ["我的{p}叫什么？", "我家{p}的名字是什么？"],
            "你的{p}叫{x}。",
        ),
        lambda r, lang, s: {"p": r.choice(e.PETS[lang]), "x": e.name(r, lang, s)},
    ),
    _told(
        (
            ["I like {f} best.", "My favourite food is {f}.", "I love eating {f}."],
            ["What is my favourite food?", "What do I like to eat?"],
            "You like {f} best.",
        ),
        (
            ["我最喜欢吃{f}。", "我最爱的食物是{f}。", "我特别爱吃{f}。"],
            ["我最喜欢吃什么？", "我爱吃什么？"],
            "你最喜欢吃{f}。",
        ),
        lambda r, lang, s: {"f": r.choice(e.FOODS[lang])},
    ),
]


def _person(r: random.Random, lang: str, s: Side) -> dict[str, str]:
    return {
        "n": e.name(r, lang, s),
        "m": e.name(r, lang, s),
        "t": e.place(r, lang, s),
        "c": e.code(r, s, r.choice([2, 3, 4])),
        "j": r.choice(e.JOBS[lang]),
        "a": r.choice(e.ADJECTIVES[lang]),
        "o": r.choice(e.THINGS[lang]),
        "f": r.choice(e.FOODS[lang]),
        "p": r.choice(e.PETS[lang]),
    }


TEXT_FACTS: list[Callable[..., Fact]] = [
    _told(
        (
            ["{n} lives in {t}.", "The home of {n} is in {t}."],
            ["Where does {n} live?", "In which town does {n} live?"],
            "{n} lives in {t}.",
        ),
        (["{n}住在{t}。", "{n}的家在{t}。"], ["{n}住在哪里？", "{n}的家在哪里？"], "{n}住在{t}。"),
        _person,
    ),
    _told(
        (
            ["{n} works as a {j}.", "{n} is a {j}."],
            ["What is {n}'s job?", "What does {n} work as?"],
            "{n} is a {j}.",
        ),
        (
            ["{n}是一名{j}。", "{n}的职业是{j}。"],
            ["{n}是做什么的？", "{n}的职业是什么？"],
            "{n}是一名{j}。",
        ),
        _person,
    ),
    _told(
        (
            ["{n} bought a {a} {o}.", "{n} has a new {a} {o}."],
            ["What did {n} buy?", "What does {n} have?"],
            "{n} has a {a} {o}.",
        ),
        (
            ["{n}买了一个{a}的{o}。", "{n}有一个{a}的{o}。"],
            ["{n}买了什么？", "{n}有什么？"],
            "{n}有一个{a}的{o}。",
        ),
        _person,
    ),
    _told(
        (
            ["{n}'s room number is {c}.", "{n} stays in room {c}."],
            ["What is {n}'s room number?", "In which room is {n}?"],
            "{n} is in room {c}.",
        ),
        (
            ["{n}的房间号是{c}。", "{n}住{c}号房间。"],
            ["{n}的房间号是多少？", "{n}住几号房间？"],
            "{n}住{c}号房间。",
        ),
        _person,
    ),
    _told(
        (
            ["{n} met {m} in {t}.", "In {t}, {n} met {m}."],
            ["Whom did {n} meet?", "Where did {n} meet {m}?"],
            "{n} met {m} in {t}.",
        ),
        (
            ["{n}在{t}遇见了{m}。", "在{t}，{n}遇见了{m}。"],
            ["{n}遇见了谁？", "{n}在哪里遇见了{m}？"],
            "{n}在{t}遇见了{m}。",
        ),
        _person,
    ),
    _told(
        (
            ["{n}'s {p} is called {m}.", "{n} has a {p} named {m}."],
            ["What is {n}'s {p} called?", "What is the name of {n}'s {p}?"],
            "{n}'s {p} is called {m}.",
        ),
        (
            ["{n}的{p}叫{m}。", "{n}有一只{p}，名叫{m}。"],
            ["{n}的{p}叫什么？", "{n}的{p}叫什么名字？"],
            "{n}的{p}叫{m}。",
        ),
        _person,
    ),
    _told(
        (
            ["{n} eats {f} every day.", "Every day {n} eats {f}."],
            ["What does {n} eat every day?", "What does {n} eat?"],
            "{n} eats {f} every day.",
        ),
        (
            ["{n}每天吃{f}。", "每天{n}都吃{f}。"],
            ["{n}每天吃什么？", "{n}吃什么？"],
            "{n}每天吃{f}。",
        ),
        _person,
    ),
]

READING_FRAMES = {
    "en": [
        "Text: {text}\nQuestion: {question}",
        "{text} {question}",
        "Read this: {text}\n{question}",
        "{text}\n\n{question}",
        "Answer from the text.\n{text}\n{question}",
    ],
    "zh": [
        "短文：{text}\n问题：{question}",
        "{text}{question}",
        "请阅读：{text}\n{question}",
        "{text}\n\n{question}",
        "根据短文回答。\n{text}\n{question}",
    ],
}

JSON_FIELDS: list[tuple[str, dict[str, str], Callable[[random.Random, str, Side], str]]] = [
    ("city", {"en": "lives in {value}", "zh": "住在{value}"}, e.place),
    (
        "code",
        {"en": "has the code {value}", "zh": "编号是{value}"},
        lambda r, lang, s: e.code(r, s),
    ),
    (
        "job",
        {"en": "works as a {value}", "zh": "职业是{value}"},
        lambda r, lang, s: r.choice(e.JOBS[lang]),
    ),
    (
        "food",
        {"en": "likes {value}", "zh": "喜欢吃{value}"},
        lambda r, lang, s: r.choice(e.FOODS[lang]),
    ),
    ("friend", {"en": "is a friend of {value}", "zh": "朋友是{value}"}, e.name),
]
JSON_FRAMES = {
    "en": [
        "Write JSON with {keys}: {name} {text}.",
        "{name} {text}. Give me JSON with the keys {keys}.",
        "Answer as JSON ({keys}). {name} {text}.",
    ],
    "zh": [
        "用JSON回答，键为{keys}：{name}{text}。",
        "{name}{text}。请写成JSON，包含{keys}。",
        "请输出JSON（{keys}）。{name}{text}。",
    ],
}
