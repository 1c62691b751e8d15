"""The regression prompts: a few general ones that every useful model should still answer.

A fine-tune that forgets them has paid for its new skill with old ones. Eight short prompts give a
hint, not a benchmark; which of them the base answers rightly is shown beside the tuned model's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from danlu.text.conversation import Conversation, Message

_FENCE = re.compile(r"^```\w*\n(.*)\n```$", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class GeneralPrompt:
    """A prompt, and the test of a right answer's visible text."""

    text: str
    passes: Callable[[str], bool]

    @property
    def conversation(self) -> Conversation:
        """The prompt as a conversation."""
        return Conversation(messages=(Message(role="user", content=self.text),))


def _has(*words: str) -> Callable[[str], bool]:
    return lambda text: any(word in text.lower() for word in words)


def _is_number(number: str) -> Callable[[str], bool]:
    return lambda text: number in re.findall(r"\d+", text)


def _is_json_with(**values: object) -> Callable[[str], bool]:
    def passes(text: str) -> bool:
        fenced = _FENCE.match(text.strip())
        try:
            return bool(json.loads(fenced[1] if fenced else text) == values)
        except (ValueError, RecursionError):
            return False

    return passes


def _is_chinese_about(*words: str) -> Callable[[str], bool]:
    def passes(text: str) -> bool:
        letters = [character for character in text if character.isalpha()]
        num_chinese = sum("\u4e00" <= character <= "\u9fff" for character in letters)
        is_chinese = len(letters) > 1 and 2 * num_chinese > len(letters)
        return is_chinese and any(word in text for word in words)

    return passes


GENERAL_PROMPTS = (
    GeneralPrompt(text="What is 17 + 25? Answer with the number only.", passes=_is_number("42")),
    GeneralPrompt(
        text="小明有 12 个苹果，吃了 5 个，还剩几个？只回答数字。", passes=_is_number("7")
    ),
    GeneralPrompt(text="What is the capital of France?", passes=_has("paris")),
    GeneralPrompt(text="水的化学式是什么？", passes=_has("h2o", "h₂o")),
    GeneralPrompt(text="请用一句话介绍北京。", passes=_is_chinese_about("北京", "首都", "故宫")),
    GeneralPrompt(
        text="Translate into Chinese: Good morning!", passes=_has("早上好", "早安", "早晨好")
    ),
    GeneralPrompt(
        text='Write a JSON object with the keys "name" and "age" for Anna, who is 30 years old. '
        "Output only the JSON.",
        passes=_is_json_with(name="Anna", age=30),
    ),
    GeneralPrompt(
        text="Sort these words alphabetically, separated by commas: pear, apple, fig.",
        passes=lambda text: (
            re.findall(r"apple|fig|pear", text.lower())[-3:] == ["apple", "fig", "pear"]
        ),
    ),
)
