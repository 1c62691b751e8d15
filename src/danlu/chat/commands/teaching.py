"""/teach: an answer is corrected and kept as a row that `danlu train` reads as it is.

A row holds the whole conversation in OpenAI's form; only the corrected answer is learned of it.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from danlu.chat.editor import edited
from danlu.chat.talk import Chat, Command
from danlu.dialog.dialog import begun_text
from danlu.dialog.session import message_fields
from danlu.errors import UsageError
from danlu.files.atomic import append_line
from danlu.hub.names import STARTER
from danlu.language import _
from danlu.program import as_typed
from danlu.text.conversation import Message
from danlu.text.render import split_reasoning

# So few rows are learned only if they are seen often, and at a higher rate than many.
_RECIPE = ("--learning_rate", "3e-4", "--num_train_epochs", "30")
_STARTERS_RECIPE = ("--learning_rate", "2e-3", "--num_train_epochs", "100")  # it is tiny


def teaching_commands() -> list[Command]:
    """Return the command."""
    return [
        Command(
            name="teach",
            words=_("[TEXT]"),
            what=_("correct the last answer, and keep it to train on"),
            run=_teach,
        )
    ]


def how_to_train(chat: Chat) -> Iterator[str]:
    """Write the command that learns what was taught, on the model that was corrected last."""
    if not chat.taught:
        return
    rows = _("{count} corrected answers are in {path}. To learn them:").format(
        count=len(chat.taught), path=chat.settings.corrections
    )
    yield rows
    recipe = _STARTERS_RECIPE if STARTER in chat.taught[-1] else _RECIPE
    words = (
        "danlu", "train", *chat.taught[-1], "--dataset", chat.settings.corrections,
        "--output_dir", _free_name(), *recipe,
    )  # fmt: skip
    yield as_typed(f"  {shlex.join(words)}")


def _teach(chat: Chat, argument: str) -> None:
    answer = chat.last_answer
    written = begun_text(answer.message, in_thought=False)
    text = argument or _edited(chat, written)
    if text is None or text.strip() == written.strip():
        chat.screen.say(_("Nothing was changed; nothing was kept."), dim=True)
        return
    reasoning, content = split_reasoning(text)
    if not content.strip():
        raise UsageError(
            _("The corrected answer is empty."),
            why=_("There would be nothing to learn."),
            fix="/teach",
        )
    chat.session.replace_answer(
        Message(role="assistant", content=content, reasoning=reasoning or "")
    )
    append_line(
        Path(chat.settings.corrections).expanduser(), json.dumps(_row(chat), ensure_ascii=False)
    )
    chat.taught.append(tuple(chat.partner.train_words(chat.voice)))
    chat.screen.say(_("Kept in {path}.").format(path=chat.settings.corrections), dim=True)


def _edited(chat: Chat, text: str) -> str | None:
    """Let the user edit in the editor that they have chosen, else at the prompt."""
    if os.environ.get("VISUAL") or os.environ.get("EDITOR"):
        return edited(text)
    return chat.asking.edit(text)


def _row(chat: Chat) -> dict[str, object]:
    messages = chat.session.conversation().messages
    fields: list[dict[str, object]] = [
        # Earlier answers were not corrected: they are what this one follows, and are not learned.
        {**message_fields(message), **({"weight": 0} if message.role == "assistant" else {})}
        for message in messages[:-1]
    ]
    return {"messages": [*fields, dict(message_fields(messages[-1]))]}


def _free_name() -> str:
    number = 1
    while Path(name := "taught" if number == 1 else f"taught-{number}").exists():
        number += 1
    return name
