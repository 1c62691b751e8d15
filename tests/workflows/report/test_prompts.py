"""The general prompts accept right answers in the forms that models give them, and no others."""

from __future__ import annotations

import pytest

from danlu.workflows.report.prompts import GENERAL_PROMPTS

RIGHT = (
    ("42", "17 + 25 = 42.", "The answer is **42**"),
    ("7", "还剩 7 个苹果。"),
    ("Paris", "The capital of France is Paris."),
    ("H2O", "水的化学式是 H₂O。"),
    ("北京是中国的首都，历史悠久。", "北京 (Beijing) 是首都，有故宫和长城。"),
    ("早上好！", "“早安”"),
    ('{"name": "Anna", "age": 30}', '```json\n{\n  "age": 30,\n  "name": "Anna"\n}\n```'),
    ("apple, fig, pear", "Sorted: apple, fig, pear."),
)
WRONG = (
    ("17 + 25", "142", "forty-two", ""),
    ("12 - 5", "17", "七", ""),
    ("Lyon", ""),
    ("CO2", ""),
    ("Beijing is the capital of China.", "我是一个小助手。", "北", ""),
    ("Good morning!", "晚上好", ""),
    ("Here it is: {}", '{"name": "Anna"}', '{"name": "Anna", "age": "30"}', "[" * 100_000, ""),
    ("pear, apple, fig", "apple, pear, fig", ""),
)


@pytest.mark.parametrize("index", range(len(GENERAL_PROMPTS)))
def test_each_prompt_knows_its_answer(index: int) -> None:
    for text in RIGHT[index]:
        assert GENERAL_PROMPTS[index].passes(text), text
    for text in WRONG[index]:
        assert not GENERAL_PROMPTS[index].passes(text), text
