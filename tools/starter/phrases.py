"""The short sentences of the starter's conversations, in English and Chinese.

Where a sentence has several forms, the answer stays the same: the evaluation compares word by word.
"""

from __future__ import annotations

from tools.starter import entities as e
from tools.starter.entities import Side

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
MAKER = {
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
            MAKER,
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
            MAKER,
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


def identity_groups(lang: str) -> list[list[str]]:
    """List the ways to ask who it is, who made it, and what it is called."""
    return [questions for _reply, questions in _IDENTITY[lang]]


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
            (
                "I can greet you, remember what you tell me, answer questions about a text,"
                " do small sums, write JSON and call functions."
            ),
        ),
        (
            "How can you help me?",
            (
                "I can greet you, remember what you tell me, answer questions about a text,"
                " do small sums, write JSON and call functions."
            ),
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
