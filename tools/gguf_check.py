"""Whether llama.cpp makes the same prompts of an exported GGUF file as danlu, and answers alike.

python -m tools.gguf_check MODEL FILE.gguf PYTHON: PYTHON is that of an environment with
llama-cpp-python. Prints a line for every probe; exits with 1 where prompt ids differ, or where
the greedy answers of two models of equal numbers do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.device.detect import select
from danlu.dialog.assistant import Assistant
from danlu.dialog.events import End, Text, Thought
from danlu.engine.request import SamplingSettings
from danlu.hub.load import load_model
from danlu.hub.prompting import prompting_of_model
from danlu.text.conversation import Conversation, Message
from danlu.text.render import render

QUESTIONS = ("Who are you?", "你是谁？", "What is 17 + 25?", "请用一句话介绍你自己。  \n\n谢谢")
MAX_TOKENS = 48


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """One question in one thinking mode (None: the template's default), asked on both sides."""

    question: str
    enable_thinking: bool | None
    same_prompt: bool
    same_answer: bool
    ours: str
    theirs: str


def compare(model: str, gguf: Path, python: Path) -> list[ProbeResult]:
    """Ask both sides every question in every mode."""
    loaded = load_model(model, device=select("cpu"), dtype=torch.float32)
    assistant = Assistant.over(loaded, prompting_of_model(model), num_requests=1)
    asked = [(text, thinking) for text in QUESTIONS for thinking in (None, True, False)]
    results = []
    for (text, thinking), theirs in zip(asked, _theirs(asked, gguf, python), strict=True):
        conversation = Conversation(messages=(Message(role="user", content=text),))
        mode = assistant.prompting.enable_thinking if thinking is None else thinking
        prompt = loaded.tokenizer.encode_spans(
            render(conversation, template=assistant.prompting.template, enable_thinking=mode)
        )
        ours = _ours(assistant, conversation, mode)
        answer = _without_end(loaded.tokenizer.decode(theirs["answer_ids"]))
        results.append(
            ProbeResult(
                question=text,
                enable_thinking=thinking,
                same_prompt=prompt == theirs["prompt_ids"],
                same_answer=ours == answer.replace("<think>", "").replace("</think>", "").split(),
                ours=" ".join(ours),
                theirs=answer,
            )
        )
    return results


def _ours(assistant: Assistant, conversation: Conversation, mode: bool | None) -> list[str]:
    """Return the words of danlu's greedy answer, its thought first."""
    sampling = SamplingSettings(temperature=0.0, max_tokens=MAX_TOKENS)
    events = list(assistant.answer(conversation, sampling, enable_thinking=mode))
    assert isinstance(events[-1], End) or any(isinstance(event, End) for event in events)
    thought = "".join(event.text for event in events if isinstance(event, Thought))
    text = "".join(event.text for event in events if isinstance(event, Text))
    return f"{thought} {text}".split()


def _without_end(text: str) -> str:
    return text.partition("<|im_end|>")[0]


def _theirs(asked: list[tuple[str, bool | None]], gguf: Path, python: Path) -> list[Any]:
    probes = []
    for text, thinking in asked:
        probe: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
        probes.append(probe if thinking is None else {**probe, "enable_thinking": thinking})
    task = {"gguf": str(gguf), "max_tokens": MAX_TOKENS, "probes": probes}
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("llamacpp_answers.py"))],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr[-3000:])
    answers: list[Any] = json.loads(done.stdout)
    return answers


def main() -> None:
    """Compare and print."""
    model, gguf, python = sys.argv[1:]
    results = compare(model, Path(gguf), Path(python))
    for each in results:
        words = ("prompt", each.same_prompt), ("answer", each.same_answer)
        verdict = ", ".join(f"{word} {'equal' if same else 'DIFFERS'}" for word, same in words)
        print(f"{each.question!r} thinking={each.enable_thinking}: {verdict}")
        if not each.same_answer:
            print(f"  danlu:     {each.ours!r}\n  llama.cpp: {each.theirs!r}")
    sys.exit(not all(each.same_prompt and each.same_answer for each in results))


if __name__ == "__main__":
    main()
