"""Scores a model on a data set: loss, ROUGE, BLEU and exact match, with every answer kept.

Files and names are LLaMA-Factory's: generated_predictions.jsonl gets a line after each answer,
predict_results.json the figures at the end. Scores compare visible text, without reasoning. Must
not know terminals.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from danlu.data.datasets import Row
from danlu.data.tokens.examples import Rendering, tokenize_row
from danlu.dialog.assistant import Assistant
from danlu.engine.request import SamplingSettings
from danlu.errors import UsageError
from danlu.files.atomic import append_line, atomic_write, make_folder
from danlu.language import _
from danlu.text.conversation import Message
from danlu.text.render import THOUGHT_END, THOUGHT_START, render
from danlu.train.loop.evaluate import Evaluation
from danlu.workflows.answer_form import count_forms, visible_text
from danlu.workflows.answers import Answer, Asked, Clock, answers
from danlu.workflows.held_out import Question, question_of
from danlu.workflows.losses import joined, losses_in_parts
from danlu.workflows.scores import check_library, score

PREDICTIONS_FILE, RESULTS_FILE = "generated_predictions.jsonl", "predict_results.json"
PART_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class EvaluationProgress:
    """How many of the rows have been evaluated at a stage."""

    stage: Literal["loss", "answers"]
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The result: the figures, and the two files with all answers and all figures."""

    results: dict[str, Any]
    predictions: Path
    results_file: Path


def check_ready(folder: Path) -> None:
    """Check, before a model is loaded, that an evaluation can be written and scored.

    Raises UsageError where `folder` already holds predictions, EnvironmentFault where a library
    is missing.
    """
    if (folder / PREDICTIONS_FILE).exists():
        raise UsageError(
            _("{path} exists already.").format(path=folder / PREDICTIONS_FILE),
            why=_("Its answers would be mixed with those of this evaluation."),
            fix=_("Choose another --output_dir, or remove that folder."),
        )
    check_library()


def evaluate(
    assistant: Assistant,
    rows: Sequence[Row],
    folder: Path,
    *,
    max_new_tokens: int,
    clock: Clock = time.monotonic,
) -> Iterator[EvaluationProgress | Scored]:
    """Measure the loss of the rows' answers, generate answers (greedy) and score them.

    folder: where the files go. max_new_tokens: longest answer. Raises what `check_ready` raises.
    """
    check_ready(folder)
    predictions = folder / PREDICTIONS_FILE
    make_folder(folder)
    start = clock()
    losses: list[Evaluation] = []
    for part in _losses(assistant, rows):
        losses.append(part)
        done = sum(part.num_rows for part in losses)
        yield EvaluationProgress(stage="loss", done=done, total=len(rows))
    came: list[Answer] = []
    questions = [question_of(row) for row in rows]
    sampling = SamplingSettings(temperature=0.0, max_tokens=max_new_tokens)
    asked = (Asked(conversation=question.conversation) for question in questions)
    with closing(answers(assistant, asked, sampling)) as stream:
        for question, answer in zip(questions, stream, strict=True):
            came.append(answer)
            append_line(predictions, _line(assistant, question, answer))
            yield EvaluationProgress(stage="answers", done=len(came), total=len(rows))
    loss = joined(losses)
    results = {
        "predict_loss": round(loss.loss, 6),
        "predict_loss_per_sample": round(loss.loss_per_sample, 6),
        "predict_perplexity": round(math.exp(min(loss.loss, 700.0)), 6),
        "predict_tokens": loss.num_tokens,
        **_answer_figures(questions, came),
        "predict_samples": len(rows),
        "predict_runtime": round(clock() - start, 4),
        "model": assistant.loaded.name,
        "adapter": str(assistant.source.folder) if assistant.source else None,
        "template": assistant.prompting.template,
        "enable_thinking": assistant.prompting.enable_thinking,
        "max_new_tokens": max_new_tokens,
    }
    atomic_write(folder / RESULTS_FILE, json.dumps(results, ensure_ascii=False, indent=1) + "\n")
    yield Scored(results=results, predictions=predictions, results_file=folder / RESULTS_FILE)


def _losses(assistant: Assistant, rows: Sequence[Row]) -> Iterator[Evaluation]:
    prompting = assistant.prompting
    rendering = Rendering(template=prompting.template, enable_thinking=prompting.enable_thinking)
    tokenizer = assistant.loaded.tokenizer
    examples = (
        tokenize_row(row.conversation, tokenizer, rendering, row=index)
        for index, row in enumerate(rows)
    )
    return losses_in_parts(assistant, examples, part_tokens=PART_TOKENS)


def _answer_figures(questions: Sequence[Question], came: Sequence[Answer]) -> dict[str, Any]:
    scores = score(
        [visible_text(answer.message) for answer in came],
        [visible_text(question.reference) for question in questions],
    )
    forms = count_forms(came, enable_thinking=None)
    return {
        "predict_rouge-1": round(scores.rouge_1, 4),
        "predict_rouge-2": round(scores.rouge_2, 4),
        "predict_rouge-l": round(scores.rouge_l, 4),
        "predict_bleu-4": round(scores.bleu_4, 4),
        "predict_bleu_signature": scores.bleu_signature,
        "predict_exact_match": round(scores.exact_match, 4),
        "predict_reached_limit": forms.endless,
        "predict_empty": forms.empty,
        "predict_refused": forms.refused,
    }


def _line(assistant: Assistant, question: Question, answer: Answer) -> str:
    prompting = assistant.prompting
    spans = render(
        question.conversation,
        template=prompting.template,
        enable_thinking=prompting.enable_thinking,
    )
    record = {
        "prompt": "".join(span.text for span in spans),
        "predict": _text(answer.message),
        "label": _text(question.reference),
    }
    return json.dumps(record, ensure_ascii=False)


def _text(message: Message) -> str:
    """Write an answer with its reasoning, if it has any."""
    thought = (
        f"{THOUGHT_START}\n{message.reasoning}\n{THOUGHT_END}\n\n" if message.reasoning else ""
    )
    return thought + visible_text(message)
