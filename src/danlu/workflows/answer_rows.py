"""Answers every row of a file, many at once, each line written as soon as it is its turn.

A row that cannot be answered has a line that says why, and stops no other. Knows models. Must not
know terminals.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from danlu.data.findings import BadRow, Finding
from danlu.data.reading.rows import RawRow
from danlu.dialog.assistant import Assistant
from danlu.engine.request import SamplingSettings
from danlu.files.atomic import read_in_pieces
from danlu.lora.stored import WEIGHTS_FILE
from danlu.text.conversation import Message
from danlu.workflows.answer_file import AnswerFile
from danlu.workflows.answers import Answer, Asked, answers
from danlu.workflows.asked_rows import question_of_row

_SEEDS = 2**63
Item = RawRow | Finding


def made_with(
    assistant: Assistant, sampling: SamplingSettings, *, system: str | None
) -> dict[str, Any]:
    """Say what answers depend on, beside the rows: as JSON can hold it."""
    source = assistant.source
    chosen = asdict(sampling)
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "max_tokens")
    return {
        "model": assistant.loaded.name,
        "fingerprint": assistant.loaded.fingerprint,
        "dtype": str(assistant.loaded.dtype).removeprefix("torch."),
        "quantization": assistant.loaded.quantization,
        "adapter": None if source is None else str(source.folder),
        "adapter_sha256": None if source is None else _sha256(source.folder / WEIGHTS_FILE),
        "template": assistant.prompting.template,
        "enable_thinking": assistant.prompting.enable_thinking,
        "system": system,
        **{name: chosen[name] for name in names},
    }


def answer_rows(
    assistant: Assistant,
    file: AnswerFile,
    rows: Iterable[Item],
    sampling: SamplingSettings,
    *,
    system: str | None,
) -> Generator[Finding | None, None, None]:
    """Answer the rows that have no answer yet; yield after each line, a Finding for a bad row.

    rows: all rows of the input. The draws of row n have the seed `sampling.seed` + n, from 0, so
    that they are the same whenever it is answered. Raises what writing raises.
    """
    waiting: deque[tuple[Item, Finding | None]] = deque()
    asked = _asked(rows, file.num_lines, sampling.seed or 0, waiting, system)
    with closing(answers(assistant, asked, sampling)) as stream:
        for answer in stream:
            yield from _refused(file, waiting)
            item, _problem = waiting.popleft()
            problem = None
            if answer.ended == "refused":
                problem = _refusal(item, answer)
            file.add(item, _answered(answer) if problem is None else _unanswered(problem))
            yield problem
        yield from _refused(file, waiting)


def _asked(
    rows: Iterable[Item],
    start: int,
    seed: int,
    waiting: deque[tuple[Item, Finding | None]],
    system: str | None,
) -> Iterator[Asked]:
    """Yield the questions of the usable rows; `waiting` gets all rows, in their order."""
    for number, item in enumerate(islice(rows, start, None), start=start):
        if isinstance(item, Finding):
            waiting.append((item, item))
            continue
        try:
            conversation = question_of_row(item.content, system=system)
        except BadRow as problem:
            waiting.append((item, problem.at(item.place)))
        else:
            waiting.append((item, None))
            yield Asked(conversation=conversation, seed=(seed + number) % _SEEDS)


def _refused(file: AnswerFile, waiting: deque[tuple[Item, Finding | None]]) -> Iterator[Finding]:
    """Write the lines of the bad rows that come next."""
    while waiting and (problem := waiting[0][1]) is not None:
        file.add(waiting.popleft()[0], _unanswered(problem))
        yield problem


def _refusal(item: Item, answer: Answer) -> Finding:
    assert isinstance(item, RawRow)
    what, _line, rest = answer.problem.partition("\n")
    return Finding(place=item.place, kind="refused", what=what, fix=rest.replace("\n", " "))


def _unanswered(problem: Finding) -> dict[str, Any]:
    return {"answer": None, "error": f"{problem.what} {problem.fix}".strip()}


def _answered(answer: Answer) -> Mapping[str, Any]:
    message = answer.message
    return {
        "answer": message.content,
        **_thought_and_calls(message),
        "finish_reason": answer.ended,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
    }


def _thought_and_calls(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if message.reasoning:
        found["reasoning"] = message.reasoning
    if message.tool_calls:
        found["tool_calls"] = [
            {"name": call.name, "arguments": call.arguments} for call in message.tool_calls
        ]
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in read_in_pieces(path):
        digest.update(piece)
    return digest.hexdigest()
