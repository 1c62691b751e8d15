"""Measures a run's base and tuned model on the same rows and prompts, in bounded time.

Answers to held-out rows come first, then answers to the general prompts, then losses; each may also
use the time that the one before left over. Losses come last because a forward pass over known text
cannot be interrupted: on a slow machine it would use up the time of what follows. Knows models and
time. Must not know pages.
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
from danlu.moving_line import Progress, no_progress
from danlu.text.conversation import Conversation
from danlu.train.loop.evaluate import Evaluation
from danlu.workflows.answers import Answer, Asked, Clock, answers
from danlu.workflows.losses import losses_in_parts

# Greedy, so that the same run gives the same report.
SAMPLING = SamplingSettings(temperature=0.0, max_tokens=512)
# Tokens of one forward pass over known text: small enough that a deadline is noticed.
PART_TOKENS = 512
# The deadlines of both kinds of answers, as fractions of the time.
_HELD_OUT_UNTIL, _GENERAL_UNTIL = 0.5, 0.75
# Losses get this fraction even where more is left: the rows it suffices for tell enough.
_LOSS_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is being measured now."""

    name: Literal["loss", "held_out", "general"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What both models are measured on, and how.

    rows: the tokenized rows whose loss counts. questions, prompts: what both answer.
    template, enable_thinking: how they are prompted. limit_s: seconds for all, loading excepted.
    """

    rows: Sequence[Sequence[Example]]
    questions: Sequence[Conversation]
    prompts: Sequence[Conversation]
    template: str
    enable_thinking: bool
    limit_s: float
    clock: Clock = time.monotonic


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one model did. losses: of the first parts of the rows, fewer where time ran out."""

    losses: Sequence[Evaluation] = ()
    held_out: Sequence[Answer] = ()
    general: Sequence[Answer] = ()

    @property
    def answers(self) -> list[Answer]:
        """All its answers."""
        return [*self.held_out, *self.general]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to open. with_adapter: measure the plain model (False), its adapter (True), both."""

    settings: ModelSettings
    with_adapter: tuple[bool, ...]


def measure(
    subjects: Sequence[Subject], task: Task, progress: Progress = no_progress
) -> Generator[Stage, None, list[Measured]]:
    """Open one subject after the other and measure it; return one result per measured model.

    Only one subject is in memory at a time, and each has the same share of the time. Raises what
    loading raises.
    """
    found: list[Measured] = []
    for subject in subjects:
        assistant = open_assistant(
            subject.settings,
            template=task.template,
            enable_thinking=task.enable_thinking,
            progress=progress,
        )
        share = task.limit_s / len(subjects)
        found += yield from _measure(assistant, subject.with_adapter, task, share)
        del assistant
    return found


def _measure(
    assistant: Assistant, flags: Sequence[bool], task: Task, limit_s: float
) -> Generator[Stage, None, list[Measured]]:
    start = task.clock()

    def answered(conversations: Sequence[Conversation], until: float) -> list[Answer]:
        """Let the models answer in one batch; the answers to each conversation stand together."""
        asked = [
            Asked(conversation=conversation, with_adapter=flag)
            for conversation in conversations
            for flag in flags
        ]
        deadline = start + until * limit_s
        return list(answers(assistant, asked, SAMPLING, deadline=deadline, clock=task.clock))

    yield Stage(name="held_out")
    held_out = answered(task.questions, _HELD_OUT_UNTIL)
    yield Stage(name="general")
    general = answered(task.prompts, _GENERAL_UNTIL)
    yield Stage(name="loss")
    deadline = min(start + limit_s, task.clock() + _LOSS_SHARE * limit_s)
    streams = [
        losses_in_parts(assistant, task.rows, part_tokens=PART_TOKENS, with_adapter=flag)
        for flag in flags
    ]
    losses: list[tuple[Evaluation, ...]] = []
    # Part after part with each model in turn, so that both have the same rows.
    for part in zip(*streams, strict=True):
        losses.append(part)
        if task.clock() >= deadline:
            break
    return [
        Measured(
            losses=[part[index] for part in losses],
            held_out=held_out[index :: len(flags)],
            general=general[index :: len(flags)],
        )
        for index in range(len(flags))
    ]
