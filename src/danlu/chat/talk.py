"""The chat itself: what is typed becomes a question, a command, or the end.

Holds what a chat has: a session, a partner and its voice, settings, a screen and a prompt. Knows
that there are commands, not which.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from danlu.chat.figures import AnswerFigures
from danlu.chat.partner import Answering, Partner
from danlu.chat.rescue import out_of_memory, rescued
from danlu.chat.settings import ChatSettings
from danlu.dialog.session import Session, Turn
from danlu.errors import DanluError, UsageError
from danlu.language import _
from danlu.moving_line import Progress
from danlu.text.conversation import Message

# The share of the context from which on a warning is shown.
_NEARLY_FULL = 0.8
_COMMAND = re.compile(r"/([a-z?]+)(?:\s+(.*))?", re.DOTALL)
# What people type to a program that asks them something.
_BARE = {"exit": "/exit", "clear": "/clear"}


@dataclass(frozen=True, kw_only=True)
class Entered:
    """What was typed. at: the number of the earlier question that it replaces, from 0."""

    text: str
    at: int | None = None


class Asking(Protocol):
    """Where questions and commands are typed."""

    def read(self) -> Entered:
        """Wait for one. Raises EOFError when the user leaves, KeyboardInterrupt for Ctrl-C."""
        ...

    def edit(self, text: str) -> str | None:
        """Let the user change a text; None where that was given up."""
        ...


class Showing(Protocol):
    """Where answers appear; see `Screen` and `PlainScreen`."""

    is_terminal: bool

    def say(self, text: str, *, dim: bool = False, indent: str = "") -> None: ...

    def answer(self, events: Answering, figures: AnswerFigures) -> None: ...

    def side_by_side(self, streams: Mapping[str, tuple[Answering, AnswerFigures]]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of the chat. words: what may follow its name; what: what it does, one line.

    choices: what completes its words.
    """

    name: str
    words: str = ""
    what: str
    run: Callable[[Chat, str], None]
    choices: Callable[[Chat], tuple[str, ...]] = lambda chat: ()


@dataclass(kw_only=True)
class Chat:
    """One chat. voice: who answers. attached: files that go with the next question.

    file: where the session was saved. opened: opens another partner. taught: how `danlu train`
    names whose answers /teach has corrected. is_over: it ends.
    """

    partner: Partner
    voice: str
    settings: ChatSettings
    screen: Showing
    asking: Asking
    commands: Mapping[str, Command]
    opened: Callable[[ChatSettings, Progress], tuple[Partner, str]]
    session: Session = field(default_factory=Session)
    attached: list[str] = field(default_factory=list)
    answers: list[AnswerFigures] = field(default_factory=list)
    file: Path | None = None
    taught: list[tuple[str, ...]] = field(default_factory=list)
    is_over: bool = False

    def run(self) -> None:
        """Answer what is typed until the user leaves."""
        interrupts = 0
        while not self.is_over and interrupts < 2:
            try:
                if interrupts:
                    self.screen.say(_("Ctrl-C again leaves, as Ctrl-D does."), dim=True)
                entered = self.asking.read()
                interrupts = 0
                self.take(entered)
            except EOFError:
                return
            except KeyboardInterrupt:  # at the prompt, or just before or behind it
                interrupts += 1
            except DanluError as problem:
                self.screen.say(str(problem))
            except Exception as fault:
                self._rescue(fault)

    def take(self, entered: Entered) -> None:
        """Do what was typed. Raises DanluError."""
        text = entered.text.strip()
        text = _BARE.get(text, text)
        command = _COMMAND.fullmatch(text)
        if command and entered.at is None:
            self._command(command[1], (command[2] or "").strip())
        elif text:
            before = self.session.questions[entered.at] if entered.at is not None else None
            self.ask(_unquoted(text), instead_of=before)

    def ask(self, text: str, *, instead_of: Turn | None = None) -> None:
        """Ask a question and keep it with its answer; where there is none, nothing has happened.

        instead_of: an earlier question; a branch begins there. Raises DanluError.
        """
        end = self.session.end
        if instead_of is not None:
            self.session.back_to(instead_of)
        question = "\n\n".join([*self.attached, text])
        try:
            figures = self.show_answer(question)
        except BaseException:
            self.session.end = end
            raise
        if not figures.events:
            self.session.end = end
            self.screen.say(_("Stopped before the answer began; nothing was kept."), dim=True)
            return
        self.attached.clear()
        self.session.add(Message(role="user", content=question))
        self.session.add(figures.message)

    def show_answer(
        self, question: str | None = None, *, begun: Message | None = None
    ) -> AnswerFigures:
        """Let the partner answer the session's branch, and a question behind it; show it.

        Raises DanluError.
        """
        figures = AnswerFigures()
        conversation = self.session.conversation(question)
        events = self.partner.answer(conversation, self.settings, voice=self.voice, begun=begun)
        try:
            self.screen.answer(events, figures)
        finally:
            events.close()
        self.answers.append(figures)
        if self.screen.is_terminal:
            self._say_figures(figures)
        return figures

    @property
    def last_answer(self) -> Turn:
        """The answer that the branch ends with. Raises UsageError where there is none."""
        if self.session.answer is None:
            raise nothing_yet()
        return self.session.answer

    def _rescue(self, fault: Exception) -> None:
        """Keep the conversation; go on where only memory was lacking, else raise the fault."""
        kept = rescued(self.session)
        problem = out_of_memory(fault, kept)
        if problem is not None:
            self.screen.say(str(problem))
            return
        if kept is not None:
            self.screen.say(_("This conversation is kept: /load {path}").format(path=kept))
        raise fault

    def _say_figures(self, figures: AnswerFigures) -> None:
        context = self.partner.context_tokens
        if line := figures.line(context):
            self.screen.say(line, dim=True)
        if figures.is_stopped and figures.events:
            self.screen.say(_("Stopped; /continue goes on."), dim=True)
        elif figures.is_cut:
            self.screen.say(_("Cut at the limit of its length; /continue goes on."), dim=True)
        usage = figures.usage
        if usage is not None and context is not None:
            left = context - usage.prompt_tokens - usage.completion_tokens
            if left < (1 - _NEARLY_FULL) * context:
                self.screen.say(
                    _("{left:,} tokens of the context are left; /new begins another one.").format(
                        left=max(left, 0)
                    )
                )

    def _command(self, name: str, argument: str) -> None:
        command = self.commands.get(name)
        if command is None:
            near = difflib.get_close_matches(name, self.commands, 1, 0.5)
            raise UsageError(
                _("There is no command /{name}.").format(name=name),
                why=_("Commands begin with a slash; everything else is a question."),
                fix=_("Did you mean /{name}?").format(name=near[0]) if near else "/help",
            )
        command.run(self, argument)


def _unquoted(text: str) -> str:
    """Take the marks of a block away: three quotes before and behind it."""
    if text.startswith('"""'):
        return text[3:].removesuffix('"""').strip("\n")
    return text


def nothing_yet() -> UsageError:
    """Build the error of a command that needs an answer."""
    return UsageError(
        _("There is nothing yet."),
        why=_("No question of this conversation has an answer."),
        fix=_("Type a question first."),
    )
