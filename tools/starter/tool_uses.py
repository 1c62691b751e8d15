"""Functions the starter may call: their schemas, requests that need them, results and answers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tools.starter import entities as e
from tools.starter.entities import Side

ToolUse = tuple[str, dict[str, Any], dict[str, Any], str]  # request, arguments, result, answer


def _tool(tool: str, description: str, /, **parameters: str) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return {
        "type": "function",
        "function": {
            "name": tool,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(parameters),
            },
        },
    }


TOOLS = {
    "get_weather": _tool("get_weather", "Get the weather of a town", city="string"),
    "find_phone": _tool("find_phone", "Find a person's phone number", name="string"),
    "send_message": _tool("send_message", "Send a message to a person", to="string", text="string"),
    "set_timer": _tool("set_timer", "Start a timer", minutes="integer"),
    "find_book": _tool("find_book", "Find a book's shelf by its code", code="string"),
}


def draw_tools(rng: random.Random, must_have: str) -> list[dict[str, Any]]:
    """Draw one to three tools, the needed one among them, in any order."""
    others = [name for name in TOOLS if name != must_have]
    names = [must_have, *rng.sample(others, rng.choice([0, 1, 2]))]
    rng.shuffle(names)
    return [TOOLS[name] for name in names]


def _weather(rng: random.Random, lang: str, side: Side) -> ToolUse:
    city, degrees = e.place(rng, lang, side), rng.randint(1, 35)
    if lang == "zh":
        asked = rng.choice(["{c}的天气怎么样？", "查一下{c}的天气。", "{c}今天天气如何？"]).format(
            c=city
        )
        return asked, {"city": city}, {"temperature": degrees}, f"{city}现在{degrees}度。"
    asked = rng.choice(
        [
            "How is the weather in {c}?",
            "Check the weather in {c}.",
            "What's the weather like in {c}?",
        ]
    ).format(c=city)
    return asked, {"city": city}, {"temperature": degrees}, f"It is {degrees} degrees in {city}."


def _phone(rng: random.Random, lang: str, side: Side) -> ToolUse:
    name, number = e.name(rng, lang, side), e.code(rng, side, 6)
    if lang == "zh":
        asked = rng.choice(
            ["{n}的电话是多少？", "帮我找{n}的电话号码。", "查一下{n}的电话。"]
        ).format(n=name)
        return asked, {"name": name}, {"phone": number}, f"{name}的电话是{number}。"
    asked = rng.choice(
        ["What is {n}'s phone number?", "Find the phone number of {n}.", "I need {n}'s number."]
    ).format(n=name)
    return asked, {"name": name}, {"phone": number}, f"The number of {name} is {number}."


def _message(rng: random.Random, lang: str, side: Side) -> ToolUse:
    name = e.name(rng, lang, side)
    if lang == "zh":
        text = rng.choice(["我晚点到", "明天见", "生日快乐", "会议改到明天", "我到家了"])
        asked = rng.choice(["给{n}发消息：{t}", "告诉{n}：{t}", "发消息给{n}：{t}"]).format(
            n=name, t=text
        )
        return asked, {"to": name, "text": text}, {"sent": True}, f"已经发给{name}了。"
    text = rng.choice(
        ["I am late", "see you tomorrow", "happy birthday", "the meeting is tomorrow", "I am home"]
    )
    asked = rng.choice(["Tell {n}: {t}", "Send a message to {n}: {t}", "Write to {n}: {t}"]).format(
        n=name, t=text
    )
    return asked, {"to": name, "text": text}, {"sent": True}, f"I have sent it to {name}."


def _timer(rng: random.Random, lang: str, side: Side) -> ToolUse:
    minutes = rng.randint(1, 90)
    if lang == "zh":
        asked = rng.choice(
            ["定一个{m}分钟的计时器。", "{m}分钟后提醒我。", "计时{m}分钟。"]
        ).format(m=minutes)
        return asked, {"minutes": minutes}, {"started": True}, f"{minutes}分钟的计时开始了。"
    asked = rng.choice(
        ["Set a timer for {m} minutes.", "Remind me in {m} minutes.", "Start a {m} minute timer."]
    ).format(m=minutes)
    return asked, {"minutes": minutes}, {"started": True}, f"The timer runs for {minutes} minutes."


def _book(rng: random.Random, lang: str, side: Side) -> ToolUse:
    code, shelf = e.code(rng, side, 5), rng.randint(1, 60)
    if lang == "zh":
        asked = rng.choice(
            ["编号{c}的书在哪里？", "找一下编号{c}的书。", "{c}号书在哪个书架？"]
        ).format(c=code)
        return asked, {"code": code}, {"shelf": shelf}, f"这本书在{shelf}号书架。"
    asked = rng.choice(
        ["Where is the book with code {c}?", "Find book {c}.", "On which shelf is book {c}?"]
    ).format(c=code)
    return asked, {"code": code}, {"shelf": shelf}, f"The book is on shelf {shelf}."


TOOL_USES: dict[str, Callable[[random.Random, str, Side], ToolUse]] = {
    "get_weather": _weather,
    "find_phone": _phone,
    "send_message": _message,
    "set_timer": _timer,
    "find_book": _book,
}
