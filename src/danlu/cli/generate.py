"""`danlu generate`: answer one prompt, or every row of a file."""

from __future__ import annotations

import secrets
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.dialog.settings import AnswerSettings
from danlu.errors import EXIT_OK, DataError, UsageError
from danlu.files.atomic import make_folder
from danlu.files.lock import FolderLock
from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.say import say, say_stopped
from danlu.settings.schema import option
from danlu.settings.show import read_settings

if TYPE_CHECKING:
    from danlu.dialog.assistant import Assistant

_SEEDS = 2**31


class GenerateSettings(AnswerSettings):
    """Answer one prompt, or every row of a file."""

    model_name_or_path: str | None = option(
        None,
        "model folder, or starter (built in, the default); with an adapter its own base is found",
        aliases=("model",),
        position=0,
    )
    prompt: str = option(
        "", "the prompt; read from standard input if it is - or not given", position=-1
    )
    input: str = option("", "answer every row of this file instead: JSONL, JSON, CSV or parquet")
    output: str = option("", "where the answers to --input go: JSONL, a line for each row")
    json_output: bool = option(False, "print one JSON object instead of text", aliases=("json",))


def run(argv: Sequence[str]) -> int:
    """Print the answer, or write all; with --json an object with text, thought, calls and usage."""
    resolved = read_settings(GenerateSettings, "generate", argv)
    settings = resolved.values
    if settings.input or settings.output:
        return _answer_file(settings, argv)
    if _is_a_model(settings):
        settings = settings.model_copy(update={"model_name_or_path": settings.prompt, "prompt": ""})
    prompt = settings.prompt
    if prompt in ("", "-"):
        prompt = "" if sys.stdin.isatty() else sys.stdin.read().strip()
    if not prompt:
        kept = [word for word in argv if word not in ("", "-")]
        raise UsageError(
            _("There is no prompt."),
            why=_("None was given, and standard input is a terminal or empty."),
            fix=f'{shlex.join(["danlu", "generate", *kept])} "..."',
        )
    _answer(settings, prompt)
    return EXIT_OK


def _answer(settings: GenerateSettings, prompt: str) -> None:
    assistant = _opened(settings)
    from danlu.chat.plain import say_if_cut, show_answer
    from danlu.cli.terminal.screen import json_line
    from danlu.dialog.assistant import model_line
    from danlu.dialog.events import End, Usage, assistant_message
    from danlu.hub.names import STARTER
    from danlu.text.conversation import Conversation, Message

    if settings.model_name_or_path is None and assistant.loaded.name != STARTER:
        say(model_line(assistant.loaded), to=sys.stderr)
    messages = [Message(role="user", content=prompt)]
    if settings.system:
        messages.insert(0, Message(role="system", content=settings.system))
    answer = assistant.answer(Conversation(messages=tuple(messages)), assistant.sampling(settings))
    if not settings.json_output:
        show_answer(answer)
        return
    with MovingLine(_("Answering")):
        events = list(answer)
    say_if_cut(events)
    message = assistant_message(events)
    usage = next(event for event in events if isinstance(event, Usage))
    record = {
        "model": assistant.loaded.name,
        "content": message.content,
        "reasoning": message.reasoning or None,
        "tool_calls": [
            {"name": call.name, "arguments": call.arguments} for call in message.tool_calls
        ],
        "finish_reason": next(event.reason for event in events if isinstance(event, End)),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }
    print(json_line(record))


def _opened(settings: GenerateSettings) -> Assistant:
    with MovingLine(_("Loading the model")) as line:
        from danlu.dialog.assistant import open_assistant

        return open_assistant(
            settings,
            template=settings.template,
            enable_thinking=settings.enable_thinking,
            progress=line.show,
        )


def _answer_file(settings: GenerateSettings, argv: Sequence[str]) -> int:
    """Answer all rows of a file, as its only writer."""
    _check_rows(settings)
    path = Path(settings.output).expanduser()
    make_folder(path.parent)
    with FolderLock(path.parent, path.name):
        return _answer_rows(settings, path, argv)


def _answer_rows(settings: GenerateSettings, path: Path, argv: Sequence[str]) -> int:
    """Answer all rows that have no answer yet; 5 where some could not be answered."""
    source = Path(settings.input).expanduser()
    with MovingLine(_("Reading the rows")):
        from danlu.data.reading.rows import data_files, read_rows
        from danlu.workflows.answer_file import AnswerFile

        files = data_files(source)
        total = sum(1 for _row in chain.from_iterable(map(read_rows, files)))
        file = AnswerFile.of_rows(path, chain.from_iterable(map(read_rows, files)))
    assistant = _opened(settings)
    from danlu.workflows.answer_rows import answer_rows, made_with

    seed = file.seed(secrets.randbelow(_SEEDS)) if settings.seed is None else settings.seed
    sampling = assistant.sampling(settings.model_copy(update={"seed": seed}))
    file.begin(made_with(assistant, sampling, system=settings.system))
    say(*assistant.describe())
    done, bad, what = file.num_lines, file.num_refused, _("Answering")
    given = chain.from_iterable(map(read_rows, files))
    rows = answer_rows(assistant, file, given, sampling, system=settings.system)
    try:
        with MovingLine(in_lines=True) as line, closing(rows):
            line.count(what, done, total)
            for problem in rows:
                done += 1
                if problem is not None:
                    bad += 1
                    line.say(str(problem))
                line.count(what, done, total)
    except KeyboardInterrupt:
        command = shlex.join(["danlu", "generate", *argv])
        text = _("Stopped; {count} of {total} rows have their answers. Go on with: {command}")
        # Ctrl-C may come between a row's line and its being counted here.
        count = file.num_written()
        return say_stopped(text.format(count=count, total=total, command=command))
    return _result(path, bad)


def _result(path: Path, bad: int) -> int:
    """Say where all answers are, and how many rows have none; return the exit code."""
    say(_("All answers: {path}").format(path=path))
    if bad:
        text = _(
            "Rows that could not be answered: {count}; their lines say why, in the field error."
        )
        say(text.format(count=bad))
    return DataError.exit_code if bad else EXIT_OK


def _check_rows(settings: GenerateSettings) -> None:
    """Raise UsageError where the words do not fit together."""
    example = "danlu generate --input rows.jsonl --output answers.jsonl"
    for name in ("input", "output"):
        if not getattr(settings, name):
            raise UsageError(
                _("--{name} is missing.").format(name=name),
                why=_("Answering the rows of a file needs that file and one for the answers."),
                fix=example,
            )
    if not Path(settings.input).expanduser().exists():
        raise UsageError(
            _("{path} does not exist.").format(path=settings.input),
            why=_("There is no such file or folder."),
            fix=example,
        )
    if settings.prompt:
        raise UsageError(
            _("A prompt and --input are given."),
            why=_("The prompts are those of the file."),
            fix=example,
        )


def _is_a_model(settings: GenerateSettings) -> bool:
    """Tell whether the one word names a model, and the prompt comes from another program."""
    word = settings.prompt
    if sys.stdin.isatty() or not word or settings.model_name_or_path is not None:
        return False
    from danlu.hub.adapters import place_of

    return settings.adapter_name_or_path is None and len(word) < 256 and place_of(word).is_dir()
