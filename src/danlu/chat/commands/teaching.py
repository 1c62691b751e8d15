"""/teach: an answer is corrected and kept as a row that `danlu train` reads as it is.

The row itself is made by `workflows/taught_rows.py`.
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
from danlu.errors import UsageError
from danlu.files.atomic import append_line
from danlu.hub.names import STARTER
from danlu.language import _
from danlu.program import as_typed
from danlu.text.conversation import Message
from danlu.text.render import split_reasoning
from danlu.workflows.taught_rows import recipe, taught_row


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
    base = STARTER if STARTER in chat.taught[-1] else ""
    settings = (word for name, value in recipe(base).items() for word in (f"--{name}", value))
    words = (
        "danlu", "train", *chat.taught[-1], "--dataset", chat.settings.corrections,
        "--output_dir", _free_name(), *settings,
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
    row = taught_row(chat.session.conversation())
    append_line(Path(chat.settings.corrections).expanduser(), json.dumps(row, ensure_ascii=False))
    chat.taught.append(tuple(chat.partner.train_words(chat.voice)))
    chat.screen.say(_("Kept in {path}.").format(path=chat.settings.corrections), dim=True)


def _edited(chat: Chat, text: str) -> str | None:
    """Let the user edit in the editor that they have chosen, else at the prompt."""
    if os.environ.get("VISUAL") or os.environ.get("EDITOR"):
        return edited(text)
    return chat.asking.edit(text)


def _free_name() -> str:
    number = 1
    while Path(name := "taught" if number == 1 else f"taught-{number}").exists():
        number += 1
    return name
