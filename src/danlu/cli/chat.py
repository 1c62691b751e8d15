"""`danlu chat`: talk to a model in the terminal. Ctrl-C stops the answer, Ctrl-D leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from danlu.errors import EXIT_OK, DanluError
from danlu.language import _
from danlu.settings.show import read_settings


def run(argv: Sequence[str]) -> int:
    """Answer line after line until Ctrl-D."""
    from danlu.dialog.settings import AnswerSettings

    resolved = read_settings(AnswerSettings, "chat", argv)
    if resolved is None:
        return EXIT_OK
    settings = resolved.values
    from danlu.cli.terminal.screen import show_answer
    from danlu.dialog.assistant import open_assistant
    from danlu.dialog.events import assistant_message
    from danlu.text.conversation import Conversation, Message

    assistant = open_assistant(
        settings, template=settings.template, enable_thinking=settings.enable_thinking
    )
    print("\n".join(assistant.describe()))
    print(_("Ctrl-C stops an answer, Ctrl-D leaves, /clear starts over."))
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  input() then knows the arrow keys and its history
    opening = [Message(role="system", content=settings.system)] if settings.system else []
    messages = opening
    sampling = assistant.sampling(settings)
    while True:
        try:
            text = input("> ")
        except EOFError:
            print()
            return EXIT_OK
        except KeyboardInterrupt:
            print("\n" + _("Ctrl-D leaves."))
            continue
        if text.strip() == "/clear":
            messages = opening
        if not text.strip() or text.strip() == "/clear":
            continue
        asked = [*messages, Message(role="user", content=text)]
        try:
            events = show_answer(assistant.answer(Conversation(messages=tuple(asked)), sampling))
        except DanluError as problem:
            print(problem)
            continue
        messages = [*asked, assistant_message(events)]
