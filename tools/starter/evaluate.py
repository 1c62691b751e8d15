"""Measure the starter model: `python -m tools.starter.evaluate`, greedy answers per skill.

Prompts come from the evaluation's side of `entities.py`: names, places, codes, words, operands and
ways to ask for the identity that never occur in training. An answer counts only when it ends by
itself and its text, after the thought, equals the expected one.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass, replace
from functools import partial

from danlu.device.detect import select
from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request, SamplingSettings
from danlu.hub.generation import generation_defaults
from danlu.hub.load import LoadedModel, load_model
from danlu.hub.names import STARTER
from danlu.text.render import call_text, render, split_reasoning
from tools.starter.skills import SKILLS, Sample, draw

SEED = 7
MAX_TOKENS = 200
# What the project promises of the starter; smaller than this, the table says so.
GOAL, SUMS_GOAL = 0.9, 0.6


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was asked, what the model wrote after its thought, and what it should have written."""

    sample: Sample
    text: str
    expected: str

    @property
    def is_right(self) -> bool:
        return self.text == self.expected


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the starter model per skill.")
    parser.add_argument("--model", default=STARTER, help="a model folder")
    parser.add_argument("--samples", type=int, default=100, help="prompts per skill")
    parser.add_argument("--show_wrong", type=int, default=0, help="wrong answers to show per skill")
    parser.add_argument("--quantization", choices=("int8", "int4"))
    options = parser.parse_args()
    loaded = load_model(options.model, device=select("cpu"), quantization=options.quantization)
    print(f"{'skill':<22}{'right':>7}{'goal':>7}")
    for skill in SKILLS:
        answers = ask(loaded, held_out(skill, options.samples))
        share = sum(answer.is_right for answer in answers) / len(answers)
        goal = SUMS_GOAL if skill.startswith("sums") else GOAL
        print(f"{skill:<22}{share:>7.0%}{goal:>7.0%}{'' if share >= goal else '  missed'}")
        wrong = [answer for answer in answers if not answer.is_right]
        for answer in wrong[: options.show_wrong]:
            question = answer.sample.conversation.messages[-2].content
            print(f"    {question!r}\n    {answer.text!r}, expected {answer.expected!r}")
    return 0


def held_out(skill: str, count: int) -> list[Sample]:
    """Draw the evaluation's samples of one skill, the same ones every time."""
    rng = random.Random(f"{SEED} {skill}")
    return [draw(rng, "eval", skill) for _ in range(count)]


def ask(loaded: LoadedModel, samples: list[Sample]) -> list[Answer]:
    """Let the model answer the last question of every sample; all run in one batch."""
    engine = Engine(loaded.model, loaded.tokenizer)
    defaults = generation_defaults(loaded.folder, loaded.config, enable_thinking=True)
    texts: list[list[str]] = []
    for sample in samples:
        before = replace(sample.conversation, messages=sample.conversation.messages[:-1])
        spans = render(before, template="qwen3", enable_thinking=sample.thinks)
        request = Request(
            prompt=tuple(loaded.tokenizer.encode_spans(spans)),
            sampling=SamplingSettings(temperature=0.0, max_tokens=MAX_TOKENS),
            end_token_ids=defaults.end_token_ids,
        )
        texts.append(pieces := [])
        engine.add(request, partial(_collect, pieces))
    while engine.num_unfinished:
        engine.step()
    return [
        Answer(sample=sample, text=split_reasoning("".join(pieces))[1], expected=_expected(sample))
        for sample, pieces in zip(samples, texts, strict=True)
    ]


def _collect(pieces: list[str], output: Output) -> None:
    pieces.append(output.text)
    if output.finish_reason == "length":
        pieces.append("…")  # an answer without end is never right


def _expected(sample: Sample) -> str:
    message = sample.conversation.messages[-1]
    return message.content + "\n".join(call_text(call) for call in message.tool_calls)


if __name__ == "__main__":
    sys.exit(main())
