"""The demo: the built-in model before and after learning a new name and a new skill.

Calls the same code as a user's own run, in the same order: ask, fine-tune, compare, merge, ask.
Everything it writes is in DANLU_HOME/demo and is made anew each time, so an interrupted demo can
be started again.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import danlu
from danlu.device.detect import Device
from danlu.dialog.assistant import Assistant, open_assistant
from danlu.dialog.events import Event, assistant_message
from danlu.dialog.settings import ModelSettings
from danlu.engine.request import SamplingSettings
from danlu.export.merge import Ingredient, MergeReport, merge
from danlu.files.atomic import make_folder
from danlu.files.committed import discard
from danlu.files.leftovers import clean_leftovers
from danlu.files.lock import FolderLock
from danlu.hub.adapters import find_adapter
from danlu.hub.names import STARTER
from danlu.text.conversation import Conversation, Message
from danlu.train.job.finetune import Finetune
from danlu.train.job.setup import prepare_run
from danlu.train.settings import TrainSettings

DATA = Path(danlu.__file__).parent / "starter" / "demo"


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What the demo asks, in one language: what it learns to answer anew, and what it keeps."""

    new: tuple[str, ...]
    kept: tuple[str, ...]


QUESTIONS = {
    "en": Questions(
        new=("Who are you?", "What is your name?", "Which field? Nora works as a baker."),
        kept=(
            "Good evening, this is Belmarlo.",
            "What is 27 + 15?",
            "Write JSON with name, city, job: Nora lives in Lorvik, works as a baker.",
        ),
    ),
    "zh_CN": Questions(
        new=("你是谁？", "你叫什么名字？", "哪个字段？李娜职业是医生。"),
        kept=(
            "晚上好，我是韩雪梅。",
            "27 + 15 等于多少？",
            "请输出JSON（name, city, job）。李娜住在青溪镇，职业是医生。",
        ),
    ),
}
# Answers are short; a small model that loses the thread must not go on for long.
SAMPLING = SamplingSettings(temperature=0.0, max_tokens=120)


@dataclass(frozen=True, kw_only=True)
class Score:
    """How many prompts of a kind were answered exactly as expected, before and after."""

    kind: str
    count: int
    before: int
    after: int


class Demo:
    """One demo in its folder."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "demo"
        self.run_folder = self.folder / "run"
        self.merged_folder = self.folder / "merged"

    @contextmanager
    def started_over(self) -> Iterator[None]:
        """Lock the folder for this process and remove what an earlier demo left there.

        Raises UsageError while another demo is running.
        """
        make_folder(self.folder)
        with FolderLock(self.folder):
            clean_leftovers(self.folder)
            for path in (self.run_folder, self.merged_folder):
                if path.exists():
                    discard(path)
            yield

    def open_starter(self) -> Assistant:
        """Load the built-in model."""
        return open_assistant(ModelSettings(model_name_or_path=STARTER))

    def finetune(self) -> Finetune:
        """Prepare the fine-tuning job; its rows are short, so a minute suffices on two cores."""
        return Finetune(
            prepare_run(
                TrainSettings(
                    dataset=str(DATA / "rows.json"),
                    output_dir=str(self.run_folder),
                    per_device_train_batch_size=8,
                    gradient_accumulation_steps=1,
                    num_train_epochs=4.0,
                    learning_rate=5e-4,
                    warmup_steps=10,
                    lora_rank=64,
                    lora_alpha=64.0,
                    val_size=0.1,
                    eval_on_start=True,
                    logging_steps=50,
                    seed=7,
                )
            )
        )

    def open_tuned(self) -> Assistant:
        """Load the built-in model with the adapter that was just trained."""
        return open_assistant(ModelSettings(adapter_name_or_path=str(self.run_folder)))

    def merge(self, device: Device) -> MergeReport:
        """Merge the adapter and verify the result."""
        source = find_adapter(str(self.run_folder))
        return merge(STARTER, [Ingredient(source=source)], self.merged_folder, device=device)

    def open_merged(self) -> Assistant:
        """Load the merged model, as any other program could."""
        return open_assistant(ModelSettings(model_name_or_path=str(self.merged_folder)))


def ask(
    assistant: Assistant, question: str, *, with_adapter: bool = True
) -> Generator[Event, None, None]:
    """Yield the events of the answer to one question."""
    return assistant.answer(
        _conversation({"instruction": question}), SAMPLING, with_adapter=with_adapter
    )


def answer_text(assistant: Assistant, question: str, *, with_adapter: bool = True) -> str:
    """Return the visible answer to one question."""
    return assistant_message(ask(assistant, question, with_adapter=with_adapter)).content


def held_out_scores(assistant: Assistant) -> list[Score]:
    """Let the base and the fine-tuned model answer prompts that training never saw.

    An answer is right when it is the expected one, word by word.
    """
    rows = json.loads((DATA / "held_out.json").read_text(encoding="utf-8"))
    asked = [(row, with_adapter) for row in rows for with_adapter in (False, True)]
    answers = _together(
        assistant.answer(_conversation(row), SAMPLING, with_adapter=with_adapter)
        for row, with_adapter in asked
    )
    counts: dict[str, list[int]] = {}
    for (row, with_adapter), events in zip(asked, answers, strict=True):
        tally = counts.setdefault(row["kind"], [0, 0, 0])
        tally[0] += not with_adapter
        is_right = assistant_message(events).content.strip() == row["output"]
        tally[2 if with_adapter else 1] += is_right
    return [
        Score(kind=kind, count=count, before=before, after=after)
        for kind, (count, before, after) in counts.items()
    ]


def _together(answers: Iterable[Iterator[Event]]) -> list[list[Event]]:
    """Collect answers in one batch: each joins it when its first event is taken."""
    started = [(next(answer), answer) for answer in answers]
    return [[first, *rest] for first, rest in started]


def _conversation(row: dict[str, Any]) -> Conversation:
    messages: list[Message] = []
    for question, answer in row.get("history", []):
        messages.append(Message(role="user", content=question))
        messages.append(Message(role="assistant", content=answer))
    return Conversation(messages=(*messages, Message(role="user", content=row["instruction"])))
