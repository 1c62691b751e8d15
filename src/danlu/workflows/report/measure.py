"""Measures a run's base and tuned model on the same rows and prompts, in bounded time.

Answers to rows that were held out first, then the probe, then losses; what one leaves unused of its
share of the time is the next one's. Losses come last because a pass over known text is never broken
off: on a slow machine it would take the time of all that follows. Knows models and time. Must not
know pages.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from danlu.data.tokens.examples import Example
from danlu.dialog.assistant import Assistant, open_assistant
from danlu.dialog.settings import ModelSettings
from danlu.engine.request import SamplingSettings
from danlu.text.conversation import Conversation
from danlu.train.loop.evaluate import Evaluation
from danlu.workflows.answers import Answer, Asked, Clock, answers
from danlu.workflows.losses import losses_in_parts

# Greedy, so that the same run gives the same report.
SAMPLING = SamplingSettings(temperature=0.0, max_tokens=512)
# Tokens of one forward pass over known text: small enough that a deadline is noticed.
PART_TOKENS = 512
# When the answers must be over, as a part of the time.
_HELD_OUT_UNTIL, _PROBE_UNTIL = 0.5, 0.75
# Losses get this part even where all the rest is left: so many rows tell enough.
_LOSS_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is being measured now."""

    name: Literal["loss", "held_out", "probe"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What both models are measured on, and how long that may take (seconds, loading excepted)."""

    rows: Sequence[Sequence[Example]]
    questions: Sequence[Conversation]
    probes: Sequence[Conversation]
    limit_s: float
    clock: Clock = time.monotonic


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one model did. losses: of the first parts of the rows, fewer where time ran out."""

    losses: Sequence[Evaluation] = ()
    held_out: Sequence[Answer] = ()
    probes: Sequence[Answer] = ()


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to open and who answers: with False the plain model, with True its adapter.

    template and enable_thinking: how it is prompted.
    """

    settings: ModelSettings
    with_adapter: tuple[bool, ...]
    template: str
    enable_thinking: bool | None


def measure(subjects: Sequence[Subject], task: Task) -> Generator[Stage, None, list[Measured]]:
    """Open one subject after the other and measure it; return one result per answering model.

    Only one subject is in memory at a time, and each has the same share of the time. Raises what
    loading raises.
    """
    found: list[Measured] = []
    for subject in subjects:
        assistant = open_assistant(
            subject.settings,
            template=subject.template,
            enable_thinking=subject.enable_thinking,
        )
        share = task.limit_s / len(subjects)
        found += yield from _measure(assistant, subject.with_adapter, task, share)
        del assistant
    return found


def _measure(
    assistant: Assistant, flags: Sequence[bool], task: Task, limit_s: float
) -> Generator[Stage, None, list[Measured]]:
    start, clock = task.clock(), task.clock
    parts: list[list[list[Answer]]] = []
    for stage, conversations, until in (
        (Stage(name="held_out"), task.questions, _HELD_OUT_UNTIL),
        (Stage(name="probe"), task.probes, _PROBE_UNTIL),
    ):
        yield stage
        asked = [
            Asked(conversation=conversation, with_adapter=flag)
            for conversation in conversations
            for flag in flags
        ]
        deadline = start + until * limit_s
        came = list(answers(assistant, asked, SAMPLING, deadline=deadline, clock=clock))
        parts.append([came[index :: len(flags)] for index in range(len(flags))])
    yield Stage(name="loss")
    deadline = min(start + limit_s, clock() + _LOSS_SHARE * limit_s)
    losses = _losses(assistant, flags, task.rows, deadline, clock)
    return [
        Measured(losses=losses[index], held_out=parts[0][index], probes=parts[1][index])
        for index in range(len(flags))
    ]


def _losses(
    assistant: Assistant,
    flags: Sequence[bool],
    rows: Sequence[Sequence[Example]],
    deadline: float,
    clock: Clock,
) -> list[list[Evaluation]]:
    """Measure part after part with each model in turn, so that all have the same rows."""
    streams = [
        losses_in_parts(assistant, rows, part_tokens=PART_TOKENS, with_adapter=flag)
        for flag in flags
    ]
    found: list[list[Evaluation]] = [[] for _flag in flags]
    for losses in zip(*streams, strict=True):
        for one, loss in zip(found, losses, strict=True):
            one.append(loss)
        if clock() >= deadline:
            break
    return found
