"""Commands that keep a conversation, bring one back, or bring a file into it."""

from __future__ import annotations

import base64
import json
import re
import sys
from datetime import datetime
from pathlib import Path

from danlu.chat.talk import Chat, Command
from danlu.dialog.session import Session
from danlu.errors import DataError, UsageError
from danlu.files.atomic import atomic_write
from danlu.files.json_file import read_json_file
from danlu.files.os_errors import readable
from danlu.files.regular import read_regular
from danlu.language import _
from danlu.text.conversation import message_fields

# A text of more than this fits no model's context.
_MOST_FILE_BYTES = 4 << 20
_CODE = re.compile(r"^ {0,3}```[^\n]*\n(.*?)^ {0,3}```\s*$", re.DOTALL | re.MULTILINE)


def keeping_commands() -> list[Command]:
    """Return these commands."""
    return [
        Command(
            name="save",
            words=_("[FILE]"),
            what=_("write this conversation, all branches"),
            run=_save,
        ),
        Command(name="load", words=_("FILE"), what=_("go on with a saved conversation"), run=_load),
        Command(
            name="export",
            words=_("md|json [FILE]"),
            what=_("write this branch to read, or in OpenAI's form"),
            run=_export,
            choices=lambda chat: ("md", "json"),
        ),
        Command(
            name="file",
            words=_("FILE"),
            what=_("put a text file before the next question"),
            run=_file,
        ),
        Command(name="copy", what=_("copy the last code block, or the whole answer"), run=_copy),
    ]


def _save(chat: Chat, argument: str) -> None:
    path = _new_path(argument, "json") if argument or chat.file is None else chat.file
    if path != chat.file:
        _refuse_existing(path)
    atomic_write(path, json.dumps(chat.session.record(), ensure_ascii=False, indent=1) + "\n")
    chat.file = path
    chat.screen.say(_("Saved: {path}").format(path=path), dim=True)


def _load(chat: Chat, argument: str) -> None:
    if not argument:
        raise _no_file("/load")
    path = Path(argument).expanduser().absolute()
    fix = _("Name another file: /load FILE")
    chat.session = Session.of_record(read_json_file(path, fix=fix).fields, path)
    chat.file = path
    chat.screen.say(
        _("{count} questions from {path}").format(count=len(chat.session.questions), path=path),
        dim=True,
    )


def _export(chat: Chat, argument: str) -> None:
    kind, _space, name = argument.partition(" ")
    if kind not in ("md", "json"):
        raise UsageError(
            _("/export needs a form."),
            why=_("md is to be read, json holds messages in OpenAI's form."),
            fix="/export md",
        )
    path = _new_path(name.strip(), kind)
    _refuse_existing(path)
    messages = chat.session.conversation().messages
    if kind == "md":
        parts = [f"## {message.role.capitalize()}\n\n{message.content}" for message in messages]
        text = "\n\n".join(parts) + "\n"
    else:
        record = {"messages": [message_fields(message) for message in messages]}
        text = json.dumps(record, ensure_ascii=False, indent=1) + "\n"
    atomic_write(path, text)
    chat.screen.say(_("Written: {path}").format(path=path), dim=True)


def _file(chat: Chat, argument: str) -> None:
    if not argument:
        raise _no_file("/file")
    path = Path(argument).expanduser()
    with readable(path):
        data = read_regular(path, most_bytes=_MOST_FILE_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(
            _("{file} cannot be read.").format(file=path),
            why=_("It is not UTF-8 text."),
            fix=_("Name a text file."),
        ) from None
    fence = "```"
    while fence in text:
        fence += "`"
    chat.attached.append(f"{path.name}:\n{fence}\n{text.rstrip()}\n{fence}")
    chat.screen.say(
        _("{name} goes with the next question ({count:,} characters).").format(
            name=path.name, count=len(text)
        ),
        dim=True,
    )


def _copy(chat: Chat, argument: str) -> None:
    text = chat.last_answer.message.content
    blocks = _CODE.findall(text)
    copied = blocks[-1] if blocks else text
    if not chat.screen.is_terminal:
        raise UsageError(
            _("There is no clipboard here."),
            why=_("Only a terminal has one."),
            fix="/export md",
        )
    # OSC 52: the terminal puts it into its clipboard, over SSH too. Base64 holds no controls.
    data = base64.b64encode(copied.encode()).decode()
    sys.stdout.write(f"\x1b]52;c;{data}\x07")
    sys.stdout.flush()
    chat.screen.say(
        _("Handed to the terminal's clipboard: {count:,} characters.").format(count=len(copied)),
        dim=True,
    )


def _new_path(name: str, kind: str) -> Path:
    if not name:
        name = f"chat-{datetime.now():%Y%m%d-%H%M%S}.{kind}"
    return Path(name).expanduser().absolute()


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise UsageError(
            _("{path} exists already.").format(path=path),
            why=_("It would be lost."),
            fix=_("Name another file."),
        )


def _no_file(command: str) -> UsageError:
    return UsageError(
        _("{command} needs a file.").format(command=command),
        why=_("None was named."),
        fix=_("{command} FILE").format(command=command),
    )
