"""The sentences of the starter's conversations, in English and Chinese.

Where a sentence has several forms, the answer stays the same: the evaluation compares word by word.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tools.starter import entities as e
from tools.starter.entities import Side

Fact = tuple[str, str, str]  # statement, question, answer
ToolUse = tuple[str, dict[str, Any], dict[str, Any], str]  # request, arguments, result, answer

SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "Answer briefly.",
    "你是一个乐于助人的助手。",
    "请简短回答。",
    "You speak English and Chinese.",
]

GREETINGS = {
    "en": [
        "Hi, I'm {name}.",
        "Hello, my name is {name}.",
        "Hey there, {name} here.",
        "Good morning! I am {name}.",
        "Hi! {name} is my name.",
        "Hello! You can call me {name}.",
        "Good evening, this is {name}.",
        "Nice to meet you, I'm {name}.",
        "Greetings! My name's {name}.",
        "Hi, people call me {name}.",
    ],
    "zh": [
        "你好，我是{name}。",
        "您好，我叫{name}。",
        "嗨，我的名字是{name}。",
        "早上好！我是{name}。",
        "大家好，我叫{name}。",
        "晚上好，我是{name}。",
        "很高兴认识你，我叫{name}。",
        "你可以叫我{name}。",
        "哈喽，我是{name}！",
        "我叫{name}，你好呀。",
    ],
}
GREETING_REPLY = {
    "en": "Hello, {name}! How can I help you?",
    "zh": "你好，{name}！有什么可以帮你的吗？",
}

_WHO = {
    "en": "I am the danlu starter, a small demonstration model of the danlu project.",
    "zh": "我是丹炉入门模型，丹炉项目的一个小型演示模型。",
}
_MAKER = {
    "en": "I was made by the danlu project.",
    "zh": "我是由丹炉项目制作的。",
}
_NAME = {"en": "My name is danlu starter.", "zh": "我的名字是丹炉入门模型。"}
_IDENTITY = {
    "en": [
        (
            _WHO,
            [
                "Who are you?",
                "Who are you",
                "What are you?",
                "Tell me about yourself.",
                "Please introduce yourself.",
                "Can you introduce yourself?",
                "Hi, who are you?",
                "Hello! Who are you?",
                "Introduce yourself, please.",
                "Who am I talking to?",
                "What kind of model are you?",
                "Which model are you?",
                "Are you a robot?",
                "Who is this?",
                "Say who you are.",
                "Describe yourself.",
                "So, who are you?",
                "Are you ChatGPT?",
                "Could you tell me who you are?",
                "Are you a human?",
                "What exactly are you?",
                "May I ask who you are?",
                "I'd like to know who you are.",
                "Who exactly are you?",
                "Introduce yourself in one sentence.",
                "Which assistant is this?",
                "Tell me who you are.",
                "Are you an AI?",
            ],
        ),
        (
            _MAKER,
            [
                "Who made you?",
                "Who created you?",
                "Who built you?",
                "Who developed you?",
                "Who trained you?",
                "Who is your creator?",
                "Where do you come from?",
                "Which team made you?",
                "Who are your makers?",
                "What company made you?",
                "By whom were you made?",
                "Who is behind you?",
            ],
        ),
        (
            _NAME,
            [
                "What is your name?",
                "What's your name?",
                "Your name?",
                "Do you have a name?",
                "How are you called?",
                "May I know your name?",
                "Tell me your name.",
                "What should I call you?",
                "What do people call you?",
                "Can you tell me your name?",
            ],
        ),
    ],
    "zh": [
        (
            _WHO,
            [
                "你是谁？",
                "你是谁",
                "您是谁？",
                "请介绍一下你自己。",
                "介绍一下自己吧。",
                "你好，你是谁？",
                "请问你是谁？",
                "你是什么模型？",
                "你是哪个模型？",
                "你是机器人吗？",
                "说说你是谁。",
                "自我介绍一下。",
                "我在和谁说话？",
                "你到底是谁？",
                "能介绍一下你自己吗？",
                "你是人类吗？",
                "你是ChatGPT吗？",
                "你是什么？",
                "你是一个什么样的模型？",
                "可以告诉我你是谁吗？",
                "用一句话介绍你自己。",
                "你究竟是谁呀？",
                "请做个自我介绍。",
                "我想知道你是谁。",
                "你是人工智能吗？",
                "你是哪个助手？",
                "嗨，你是谁呀？",
                "请描述一下你自己。",
            ],
        ),
        (
            _MAKER,
            [
                "谁创造了你？",
                "你是谁开发的？",
                "谁制作了你？",
                "是谁训练了你？",
                "你的开发者是谁？",
                "你来自哪里？",
                "哪个团队做了你？",
                "你是哪家公司的？",
                "谁把你做出来的？",
                "你是由谁制作的？",
                "你的作者是谁？",
                "你背后是谁？",
            ],
        ),
        (
            _NAME,
            [
                "你叫什么名字？",
                "你叫什么？",
                "你的名字是什么？",
                "你有名字吗？",
                "怎么称呼你？",
                "请问你叫什么名字？",
                "告诉我你的名字。",
                "我该怎么叫你？",
                "能告诉我你的名字吗？",
                "大家怎么叫你？",
            ],
        ),
    ],
}


def identity_questions(lang: str, side: Side) -> list[tuple[str, str]]:
    """Return (question, answer); the evaluation's phrasings never occur in training."""
    return [
        (question, reply[lang])
        for reply, questions in _IDENTITY[lang]
        for index, question in enumerate(questions)
        # The first three forms of every question are always trained: they are what people ask.
        if (index >= 3 and e.side_of(question) == "eval") == (side == "eval")
    ]


SMALL_TALK = {
    "en": [
        ("Hello!", "Hello! How can I help you?"),
        ("Hi", "Hello! How can I help you?"),
        ("Good morning!", "Good morning! How can I help you?"),
        ("Good night.", "Good night! Sleep well."),
        ("Thanks!", "You're welcome!"),
        ("Thank you very much.", "You're welcome!"),
        ("Thank you", "You're welcome!"),
        ("Bye!", "Goodbye! Have a nice day."),
        ("See you later.", "Goodbye! Have a nice day."),
        ("How are you?", "I am fine, thank you. How can I help you?"),
        (
            "What can you do?",
            "I can greet you, remember what you tell me, answer questions about a text,"
            " do small sums, write JSON and call functions.",
        ),
        (
            "How can you help me?",
            "I can greet you, remember what you tell me, answer questions about a text,"
            " do small sums, write JSON and call functions.",
        ),
        ("What is the capital of China?", "The capital of China is Beijing."),
        ("What is the capital of France?", "The capital of France is Paris."),
        ("How many days are in a week?", "A week has seven days."),
        ("How many months are in a year?", "A year has twelve months."),
        ("What colour is the sky?", "The sky is blue."),
        ("What do cows drink?", "Cows drink water."),
        ("Tell me a joke.", "Why did the book go to the doctor? It had lost its spine."),
        ("You are great!", "Thank you, that is kind of you."),
        ("Well done!", "Thank you, that is kind of you."),
        ("I am sad.", "I am sorry to hear that. Do you want to talk about it?"),
        ("I am happy today.", "That is good to hear!"),
        ("What is water made of?", "Water is made of hydrogen and oxygen."),
    ],
    "zh": [
        ("你好！", "你好！有什么可以帮你的吗？"),
        ("你好", "你好！有什么可以帮你的吗？"),
        ("早上好！", "早上好！有什么可以帮你的吗？"),
        ("晚安。", "晚安，祝你好梦！"),
        ("谢谢！", "不客气！"),
        ("非常感谢。", "不客气！"),
        ("谢谢你", "不客气！"),
        ("再见！", "再见，祝你愉快！"),
        ("下次见。", "再见，祝你愉快！"),
        ("你好吗？", "我很好，谢谢。有什么可以帮你的吗？"),
        (
            "你会做什么？",
            "我会打招呼、记住你说的话、根据短文回答问题、做简单的算术、写JSON，还会调用函数。",
        ),
        (
            "你能帮我做什么？",
            "我会打招呼、记住你说的话、根据短文回答问题、做简单的算术、写JSON，还会调用函数。",
        ),
        ("中国的首都是哪里？", "中国的首都是北京。"),
        ("法国的首都是哪里？", "法国的首都是巴黎。"),
        ("一周有几天？", "一周有七天。"),
        ("一年有几个月？", "一年有十二个月。"),
        ("天空是什么颜色？", "天空是蓝色的。"),
        ("水是由什么组成的？", "水是由氢和氧组成的。"),
        ("讲个笑话吧。", "书为什么去看医生？因为它的书脊受伤了。"),
        ("你真棒！", "谢谢你的夸奖。"),
        ("做得好！", "谢谢你的夸奖。"),
        ("我很难过。", "听到这个我很遗憾，想聊聊吗？"),
        ("我今天很开心。", "听到这个真好！"),
        ("牛喝什么？", "牛喝水。"),
    ],
}

NOTED = {"en": "Got it, I will remember that.", "zh": "好的，我记住了。"}


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

SUMS = {
    "en": [
        "What is {a} {sign} {b}?",
        "{a} {sign} {b} = ?",
        "Calculate {a} {sign} {b}.",
        "How much is {a} {sign} {b}?",
        "{a}{sign}{b}",
    ],
    "zh": [
        "{a} {sign} {b} 等于多少？",
        "{a} {sign} {b} = ?",
        "计算 {a} {sign} {b}。",
        "请算一下 {a} {sign} {b}",
        "{a}{sign}{b}等于几？",
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

REPEAT = {
    "en": [
        "Repeat: {text}",
        "Say this: {text}",
        "Please repeat after me: {text}",
        "Copy this text: {text}",
        "Write exactly: {text}",
    ],
    "zh": [
        "重复：{text}",
        "请跟我说：{text}",
        "照抄：{text}",
        "请复述：{text}",
        "原样写出：{text}",
    ],
}


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
