"""Figures for answers that have a reference: ROUGE, BLEU, exact match, all from 0 to 100.

ROUGE is the F-measure, averaged over the answers (Lin 2004). BLEU is sacrebleu's corpus BLEU-4
(Papineni et al. 2002, Post 2018). Chinese characters count one by one, other text as words,
so a language without spaces is scored like one with them. Must not know models.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from danlu.errors import EnvironmentFault
from danlu.language import _
from danlu.workflows import rouge

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(f"[{_CJK}]|[^\\W_{_CJK}]+")
_CJK_CHARACTER = re.compile(f"[{_CJK}]")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How close answers are to their references, from 0 to 100.

    bleu_signature: sacrebleu's own description, which makes the figure comparable.
    """

    rouge_1: float
    rouge_2: float
    rouge_l: float
    bleu_4: float
    exact_match: float
    bleu_signature: str


def words(text: str) -> list[str]:
    """Split text into lower-case words; each Chinese, Japanese or Korean character is one."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def is_exact(answer: str, reference: str) -> bool:
    """Tell whether an answer equals its reference, ignoring white space around both."""
    return answer.strip() == reference.strip()


def rouge_l(answer: str, reference: str) -> float:
    """Return the ROUGE-L F-measure of one answer, 0 to 100."""
    return 100.0 * rouge.rouge_l(words(answer), words(reference))


def score(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Score answers against their references, one each and at least one.

    Raises EnvironmentFault where sacrebleu is missing.
    """
    pairs = [(words(a), words(r)) for a, r in zip(answers, references, strict=True)]
    bleu, signature = _bleu(answers, references)
    exact = sum(map(is_exact, answers, references))
    return Scores(
        rouge_1=_mean([rouge.rouge_n(*pair, n=1) for pair in pairs]),
        rouge_2=_mean([rouge.rouge_n(*pair, n=2) for pair in pairs]),
        rouge_l=_mean([rouge.rouge_l(*pair) for pair in pairs]),
        bleu_4=bleu,
        exact_match=100.0 * exact / len(answers),
        bleu_signature=signature,
    )


def check_library() -> None:
    """Raise EnvironmentFault where sacrebleu is missing."""
    _bleu_metric()


def _bleu_metric() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as problem:
        raise EnvironmentFault(
            _("The library {name} is missing.").format(name="sacrebleu"),
            why=_("BLEU is computed by sacrebleu."),
            fix="pip install sacrebleu",
        ) from problem
    return BLEU


def _mean(parts: Sequence[float]) -> float:
    """Return the mean of figures from 0 to 1, in per cent."""
    return 100.0 * sum(parts) / len(parts)


def _bleu(answers: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    # sacrebleu's zh splits characters of Chinese and words of the rest; 13a is its usual tokenizer.
    has_cjk = sum(bool(_CJK_CHARACTER.search(text)) for text in references)
    metric = _bleu_metric()(tokenize="zh" if 2 * has_cjk >= len(references) else "13a")
    result = metric.corpus_score(list(answers), [list(references)])
    return float(result.score), str(metric.get_signature())
