"""`danlu generate`: answer one prompt, given as an argument or on standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from danlu.dialog.settings import AnswerSettings
from danlu.errors import EXIT_OK, UsageError
from danlu.language import _
from danlu.settings.schema import option
from danlu.settings.show import read_settings


class GenerateSettings(AnswerSettings):
    """Answer one prompt."""

    model_name_or_path: str | None = option(
        None,
        "model folder, or starter (built in, the default); with an adapter its own base is found",
        aliases=("model",),
        position=0,
    )
    prompt: str = option(
        "", "the prompt; read from standard input if it is - or not given", position=-1
    )
    json_output: bool = option(False, "print one JSON object instead of text", aliases=("json",))


def run(argv: Sequence[str]) -> int:
    """Print the answer; with --json an object with text, reasoning, tool calls and usage."""
    resolved = read_settings(GenerateSettings, "generate", argv)
    if resolved is None:
        return EXIT_OK
    settings = resolved.values
    if _is_a_model(settings):
        settings = settings.model_copy(update={"model_name_or_path": settings.prompt, "prompt": ""})
    prompt = settings.prompt
    if prompt in ("", "-"):
        prompt = "" if sys.stdin.isatty() else sys.stdin.read().strip()
    if not prompt:
        raise UsageError(
            _("There is no prompt."),
            why=_("None was given, and standard input is a terminal or empty."),
            fix='danlu generate "..."',
        )
    from danlu.chat.plain import say_if_cut, show_answer
    from danlu.cli.terminal.screen import json_line
    from danlu.dialog.assistant import model_line, open_assistant
    from danlu.dialog.events import End, Usage, assistant_message
    from danlu.hub.names import STARTER
    from danlu.text.conversation import Conversation, Message

    assistant = open_assistant(
        settings, template=settings.template, enable_thinking=settings.enable_thinking
    )
    if settings.model_name_or_path is None and assistant.loaded.name != STARTER:
        print(model_line(assistant.loaded), file=sys.stderr)
    messages = [Message(role="user", content=prompt)]
    if settings.system:
        messages.insert(0, Message(role="system", content=settings.system))
    answer = assistant.answer(Conversation(messages=tuple(messages)), assistant.sampling(settings))
    if not settings.json_output:
        show_answer(answer)
        return EXIT_OK
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
    return EXIT_OK


def _is_a_model(settings: GenerateSettings) -> bool:
    """Tell whether the one word names a model, and the prompt comes from another program."""
    word = settings.prompt
    if sys.stdin.isatty() or not word or settings.model_name_or_path is not None:
        return False
    from danlu.hub.adapters import place_of

    return settings.adapter_name_or_path is None and len(word) < 256 and place_of(word).is_dir()
