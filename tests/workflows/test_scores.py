"""ROUGE, BLEU and exact match against values computed by hand, ROUGE against rouge_score too."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from danlu.errors import EnvironmentFault
from danlu.workflows.scores import check_library, is_exact, rouge_l, score, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World_1!", ["hello", "world", "1"]),
        ("我是 GPT助手。", ["我", "是", "gpt", "助", "手"]),
        ("ＡＢＣ１２", ["abc12"]),
        ("こんにちは 한국", ["こ", "ん", "に", "ち", "は", "한", "국"]),
        ("，。！", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_rouge_in_english() -> None:
    # Unigrams: 2 of 3 and 2 of 4. Bigrams: "the cat" of 2 and of 3. Longest common: "the cat".
    found = score(["the cat ran"], ["the cat sat down"])
    assert found.rouge_1 == pytest.approx(100 * 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert found.rouge_2 == pytest.approx(100 * 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert found.rouge_l == pytest.approx(found.rouge_1)


def test_rouge_in_chinese_counts_characters() -> None:
    # Four characters, all of them in order among the reference's six; of three pairs 我是 and 助手
    # are among the reference's five.
    found = score(["我是助手。"], ["我是一个助手。"])
    assert found.rouge_1 == found.rouge_l == pytest.approx(100 * 2 * 1.0 * (4 / 6) / (1 + 4 / 6))
    assert found.rouge_2 == pytest.approx(100 * 2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5))


class Words:
    """Our words, as rouge_score takes a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


TEXTS = st.lists(st.sampled_from(["a", "b", "c", "我", "是"]), max_size=12).map(" ".join)


@given(TEXTS, TEXTS)
def test_rouge_is_that_of_rouge_score(answer: str, reference: str) -> None:
    kinds = ("rouge1", "rouge2", "rougeL")
    oracle = RougeScorer(list(kinds), tokenizer=Words()).score(reference, answer)
    found = score([answer], [reference])
    ours = (found.rouge_1, found.rouge_2, found.rouge_l)
    assert ours == pytest.approx([100 * oracle[kind].fmeasure for kind in kinds], abs=1e-9)


def test_rouge_of_long_answers_takes_no_time() -> None:
    """The longest common subsequence of 20,000 words each would be 400 million table cells."""
    text = " ".join(f"w{number % 977}" for number in range(20_000))
    assert rouge_l(text, text) == pytest.approx(100)


def test_bleu_in_chinese_by_hand() -> None:
    # Six characters against eight. Of the six all are in the reference, of the five pairs three,
    # of the four triples one, of the three fours none, which smoothing counts as a half.
    found = score(["我是个助手。"], ["我是一个小助手。"])
    product = (6 / 6) * (3 / 5) * (1 / 4) * (0.5 / 3)
    brevity = math.exp(1 - 8 / 6)
    assert found.bleu_4 == pytest.approx(100 * brevity * product**0.25)
    assert "tok:zh" in found.bleu_signature


def test_bleu_in_english_uses_words() -> None:
    found = score(["the cat sat on the mat"], ["the cat sat on the mat"])
    assert found.bleu_4 == pytest.approx(100)
    assert "tok:13a" in found.bleu_signature


def test_averages_over_the_answers() -> None:
    found = score(["a b", "x"], ["a b", "y"])
    assert found.rouge_1 == pytest.approx(50)
    assert found.exact_match == pytest.approx(50)
    assert rouge_l("x", "y") == 0


def test_nothing_scores_nothing() -> None:
    found = score(["", "，"], ["a", "。"])
    assert (found.rouge_1, found.rouge_l, found.bleu_4, found.exact_match) == (0, 0, 0, 0)


def test_exact_leaves_white_space_aside_only() -> None:
    assert is_exact(" 42\n", "42")
    assert not is_exact("42.", "42")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(EnvironmentFault) as caught:
        check_library()
    assert caught.value.fix == "pip install sacrebleu"
