"""Where the user types: several lines, history with search, completion, earlier questions edited.

TerminalPrompt is prompt_toolkit's line editor, which knows wide characters and input methods;
LinePrompt reads lines that a program sends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from danlu.chat.history import KeptHistory
from danlu.chat.talk import Entered
from danlu.language import _

_MARKS = '"""'
# Completions of a text that begins with a slash: (text to insert, what it is).
Completions = Callable[[str], Iterable[tuple[str, str]]]


class TerminalPrompt:
    """The prompt in a terminal.

    questions: what was asked on this branch, for Esc-Esc. completions: of commands.
    """

    def __init__(self, questions: Callable[[], Sequence[str]], completions: Completions) -> None:
        self._questions = questions
        self._at: int | None = None
        self._session: PromptSession[str] = PromptSession(
            message=self._message,
            multiline=True,
            prompt_continuation=lambda width, _line, _wraps: " " * width,
            history=KeptHistory(),
            key_bindings=self._keys(),
            completer=_Commands(completions),
            complete_while_typing=Condition(self._is_command),
            reserve_space_for_menu=6,
        )

    def read(self) -> Entered:
        """Let the user type. Raises EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C."""
        self._at = None
        text = self._session.prompt()
        return Entered(text=text, at=self._at)

    def edit(self, text: str) -> str | None:
        """Let the user change a text at the prompt; Ctrl-C or Ctrl-D gives it up."""
        inline: PromptSession[str] = PromptSession(
            multiline=True, key_bindings=self._keys(), prompt_continuation="  "
        )
        try:
            return inline.prompt("> ", default=text)
        except (EOFError, KeyboardInterrupt):
            return None

    def _message(self) -> str:
        if self._at is None:
            return "User: "
        count = len(self._questions())
        return _("User (instead of question {number} of {count}): ").format(
            number=self._at + 1, count=count
        )

    def _is_command(self) -> bool:
        return self._session.default_buffer.text.startswith("/")

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _enter(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.complete_state and buffer.complete_state.current_completion:
                buffer.complete_state = None
            elif _is_open_block(buffer.text):
                buffer.newline(copy_margin=False)
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter")
        @keys.add("c-j")
        def _new_line(event: KeyPressEvent) -> None:
            event.current_buffer.newline(copy_margin=False)

        @keys.add("escape", "escape")
        def _earlier(event: KeyPressEvent) -> None:
            self._edit_earlier(event)

        @keys.add("c-c")
        def _interrupt(event: KeyPressEvent) -> None:
            if event.current_buffer.text or self._at is not None:
                self._at = None
                event.current_buffer.reset()
            else:
                event.app.exit(exception=KeyboardInterrupt)

        return keys

    def _edit_earlier(self, event: KeyPressEvent) -> None:
        """Show the question before the one that is shown; behind the first comes the last again."""
        questions = self._questions()
        if not questions:
            return
        self._at = (len(questions) if self._at is None else self._at or len(questions)) - 1
        buffer = event.current_buffer
        buffer.document = Document(questions[self._at])


class LinePrompt:
    """Lines from standard input, for programs; a line is a question or a command."""

    def read(self) -> Entered:
        """Read a line. Raises EOFError at the end."""
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        text = line.rstrip("\n")
        while _is_open_block(text) and (line := sys.stdin.readline()):
            text += "\n" + line.rstrip("\n")
        return Entered(text=text)

    def edit(self, text: str) -> str | None:
        """There is nobody to edit; the next line is the new text."""
        line = sys.stdin.readline()
        return line.rstrip("\n") or None


class _Commands(Completer):
    """Completes commands and what may follow them."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        word = text.rpartition(" ")[2]
        for found, what in self._completions(text):
            yield Completion(found, start_position=-len(word), display_meta=what)


def _is_open_block(text: str) -> bool:
    stripped = text.strip()
    return stripped.startswith(_MARKS) and (
        len(stripped) < 2 * len(_MARKS) or not stripped.endswith(_MARKS)
    )
