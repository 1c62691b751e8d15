"""Commands about who answers: another model, another adapter, both side by side."""

from __future__ import annotations

import secrets
from collections.abc import Generator

from danlu.chat.figures import AnswerFigures
from danlu.chat.settings import ChatSettings
from danlu.chat.talk import Chat, Command, nothing_yet
from danlu.dialog.events import Event
from danlu.errors import DanluError, UsageError
from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.text.conversation import Conversation, Message

_SEEDS = 2**31


def voice_commands() -> list[Command]:
    """Return these commands."""
    return [
        Command(
            name="model",
            words=_("[NAME]"),
            what=_("talk with another model; without a name, show which answers"),
            run=_model,
            choices=lambda chat: tuple(chat.partner.voices),
        ),
        Command(
            name="adapter",
            words=_("[NAME[=PATH]]"),
            what=_("let another adapter answer, or load one; base: none"),
            run=_adapter,
            choices=lambda chat: tuple(chat.partner.voices),
        ),
        Command(
            name="compare",
            words=_("[TEXT]"),
            what=_("base and adapter side by side, with the same seed"),
            run=_compare,
        ),
    ]


def _model(chat: Chat, argument: str) -> None:
    if argument and argument in chat.partner.voices:
        chat.voice = argument
    elif argument:
        wanted = {"model_name_or_path": argument, "adapter_name_or_path": ()}
        _open_another(chat, chat.settings.model_copy(update=wanted))
    for line in chat.partner.describe(chat.voice):
        chat.screen.say(line, dim=True)


def _open_another(chat: Chat, settings: ChatSettings) -> None:
    """Load a model in the place of the present one, whose memory it needs.

    Where that fails, the former one is loaded again. Raises DanluError.
    """
    former = chat.settings
    with MovingLine(_("Loading the model")) as line:
        chat.partner.close()
        try:
            chat.partner, chat.voice = chat.opened(settings, line.show)
            chat.settings = settings
        except DanluError:
            chat.partner, chat.voice = chat.opened(former, line.show)
            raise


def _adapter(chat: Chat, argument: str) -> None:
    name, equals, path = argument.partition("=")
    if equals:
        if name in chat.partner.voices or not name:
            raise UsageError(
                _("{word} does not name an adapter.").format(word=repr(argument)),
                why=_("The names that are taken: {names}.").format(
                    names=", ".join(chat.partner.voices)
                ),
                fix=_("/adapter NAME=PATH"),
            )
        with MovingLine(_("Loading the adapter")):
            chat.partner.add(name, path)
    elif name and name not in chat.partner.voices:
        raise UsageError(
            _("There is no adapter {name} here.").format(name=name),
            why=_("There are: {names}.").format(names=", ".join(chat.partner.voices)),
            fix=f"/adapter {name}=PATH",
        )
    chat.voice = name or chat.voice
    if not name:
        chat.screen.say(", ".join(chat.partner.voices), dim=True)
    for line in chat.partner.describe(chat.voice):
        chat.screen.say(line, dim=True)


def _compare(chat: Chat, argument: str) -> None:
    """Ask both at once; with a new question, the adapter's answer is kept."""
    others = [voice for voice in chat.partner.voices if voice != chat.partner.base]
    if not others:
        raise UsageError(
            _("There is nothing to compare with."),
            why=_("Only {name} answers here.").format(name=chat.partner.base),
            fix=_("/adapter NAME=PATH"),
        )
    tuned = chat.voice if chat.voice in others else others[0]
    settings = chat.settings
    if settings.seed is None:
        settings = settings.model_copy(update={"seed": secrets.randbelow(_SEEDS)})
    conversation = _asked(chat, argument)
    streams: dict[str, tuple[Generator[Event, None, None], AnswerFigures]] = {
        name: (
            chat.partner.answer(conversation, settings, voice=tuned, as_base=as_base),
            AnswerFigures(),
        )
        for name, as_base in ((chat.partner.base, True), (tuned, False))
    }
    try:
        chat.screen.side_by_side(streams)
    finally:
        for events, _figures in streams.values():
            events.close()
    figures = streams[tuned][1]
    if chat.screen.is_terminal:
        chat.screen.say(_("seed {seed}").format(seed=settings.seed), dim=True)
    if argument and figures.events:
        chat.session.add(Message(role="user", content=argument))
        chat.session.add(figures.message)


def _asked(chat: Chat, text: str) -> Conversation:
    """Return the conversation with a new question, or as it was before its last answer."""
    if text:
        return chat.session.conversation(text)
    end, questions = chat.session.end, chat.session.questions
    if not questions:
        raise nothing_yet()
    try:
        chat.session.end = questions[-1]
        return chat.session.conversation()
    finally:
        chat.session.end = end
