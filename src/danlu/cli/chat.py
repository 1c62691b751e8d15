"""`danlu chat`: talk to a model in the terminal. Ctrl-C stops the answer, Ctrl-D leaves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from danlu.errors import EXIT_OK
from danlu.language import _
from danlu.moving_line import MovingLine, Progress
from danlu.say import say
from danlu.settings.show import read_settings

if TYPE_CHECKING:
    from danlu.chat.partner import Partner
    from danlu.chat.settings import ChatSettings
    from danlu.chat.talk import Chat, Showing


def run(argv: Sequence[str]) -> int:
    """Answer what is typed until Ctrl-D; with a prompt, answer it and stop."""
    from danlu.chat.settings import ChatSettings

    resolved = read_settings(ChatSettings, "chat", argv)
    settings = resolved.values
    if settings.model_name_or_path == "-" and settings.prompt is None:  # danlu chat -
        settings = settings.model_copy(update={"model_name_or_path": None, "prompt": "-"})
    from danlu.chat.plain import PlainScreen

    if settings.prompt is not None:
        chat = _opened(settings, PlainScreen())
        say(*chat.partner.describe(chat.voice), to=sys.stderr)
        chat.ask(sys.stdin.read().strip() if settings.prompt == "-" else settings.prompt)
        return EXIT_OK
    from danlu.chat.commands.teaching import how_to_train

    is_plain = settings.plain or not sys.stdout.isatty()
    chat = _opened(settings, PlainScreen() if is_plain else _screen())
    for line in chat.partner.describe(chat.voice):
        chat.screen.say(line)
    chat.screen.say(_("Ctrl-C stops an answer, Ctrl-D leaves, /help shows the commands."))
    try:
        chat.run()
    finally:
        for line in how_to_train(chat):
            chat.screen.say(line)
    return EXIT_OK


def _screen() -> Showing:
    from danlu.chat.screen import Screen

    return Screen()


def _partner(settings: ChatSettings, progress: Progress) -> tuple[Partner, str]:
    """Reach the server that the settings name, or load a model."""
    if settings.url is not None:
        from danlu.chat.remote_partner import connect

        return connect(settings)
    from danlu.chat.local import open_partner

    return open_partner(settings, progress)


def _opened(settings: ChatSettings, screen: Showing) -> Chat:
    """Load the model and put the chat together."""
    with MovingLine(_("Loading the model")) as line:
        from danlu.chat.commands.table import command_table, completions
        from danlu.chat.prompt import LinePrompt, TerminalPrompt
        from danlu.chat.talk import Chat
        from danlu.dialog.session import Session

        partner, voice = _partner(settings, line.show)
    chat = Chat(
        partner=partner,
        voice=voice,
        settings=settings,
        screen=screen,
        asking=LinePrompt(),
        commands=command_table(),
        opened=_partner,
        session=Session(system=settings.system or ""),
    )
    if sys.stdin.isatty() and sys.stdout.isatty():
        chat.asking = TerminalPrompt(
            lambda: [turn.message.content for turn in chat.session.questions],
            lambda text: completions(chat, text),
        )
    return chat
