"""The commands of the chat: one table, from which help and completion are made too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from danlu.chat.commands.keeping import keeping_commands
from danlu.chat.commands.teaching import teaching_commands
from danlu.chat.commands.voices import voice_commands
from danlu.chat.editor import edited
from danlu.chat.figures import context_share
from danlu.chat.settings import ChatSettings
from danlu.chat.talk import Chat, Command, nothing_yet
from danlu.errors import UsageError
from danlu.language import _
from danlu.settings.resolve import resolve
from danlu.text.conversation import Message

# What /set changes.
SETTABLE = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "max_new_tokens",
    "do_sample",
)  # fmt: skip


def command_table() -> dict[str, Command]:
    """Return all commands by name, explained in the user's language."""
    listed = [
        Command(name="help", what=_("show the commands and keys"), run=_help),
        Command(name="new", what=_("forget this conversation and begin another"), run=_new),
        Command(
            name="system",
            words=_("TEXT"),
            what=_("set the system prompt; without a text, show it; - removes it"),
            run=_system,
        ),
        Command(
            name="think",
            words="on|off|N",
            what=_("let the model reason or not; a number: for so many tokens"),
            run=_think,
            choices=lambda chat: ("on", "off"),
        ),
        Command(
            name="set",
            words=_("NAME VALUE"),
            what=_("change how answers are drawn; without words, show it"),
            run=_set,
            choices=lambda chat: SETTABLE,
        ),
        Command(name="retry", what=_("answer the last question again"), run=_retry),
        Command(name="undo", what=_("take the last question and its answer back"), run=_undo),
        Command(name="continue", what=_("go on with an answer that was stopped"), run=_continue),
        Command(name="edit", what=_("write a question in $EDITOR"), run=_edit),
        Command(name="tokens", what=_("show how much of the context is used"), run=_tokens),
        Command(name="stats", what=_("show what the answers took"), run=_stats),
        *voice_commands(),
        *keeping_commands(),
        *teaching_commands(),
        Command(name="exit", what=_("leave; so do Ctrl-D, and Ctrl-C twice"), run=_exit),
    ]
    table = {command.name: command for command in listed}
    # What it was called, and what other programs call it.
    return {**table, "clear": table["new"], "bye": table["exit"], "quit": table["exit"]}


def completions(chat: Chat, text: str) -> Iterable[tuple[str, str]]:
    """Complete a text that begins with a slash: the commands, or what may follow one."""
    name, space, rest = text[1:].partition(" ")
    if not space:
        return [
            (f"/{command.name}", command.what)
            for command in _once(chat.commands)
            if command.name.startswith(name)
        ]
    command = chat.commands.get(name)
    if command is None or " " in rest:
        return []
    return [(choice, "") for choice in command.choices(chat) if choice.startswith(rest)]


def _once(commands: Mapping[str, Command]) -> list[Command]:
    return [command for name, command in commands.items() if name == command.name]


def _help(chat: Chat, argument: str) -> None:
    names = [f"/{command.name} {command.words}".rstrip() for command in _once(chat.commands)]
    # A word in another script may be wider than its number of characters; names are no wider.
    width = 2 + max(map(_columns, names))
    for name, command in zip(names, _once(chat.commands), strict=True):
        line = f"  {name}{' ' * (width - _columns(name))}{command.what}"
        chat.screen.say(line, indent=" " * width)
    chat.screen.say("")
    chat.screen.say(_('Several lines: Alt-Enter or Ctrl-J, a paste, or """ before and behind.'))
    chat.screen.say(_("Esc Esc edits an earlier question; Ctrl-R searches what was typed before."))
    chat.screen.say(_("Ctrl-C stops an answer, Ctrl-D leaves."))


def _columns(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _new(chat: Chat, argument: str) -> None:
    chat.session.clear()
    chat.attached.clear()
    chat.file = None
    chat.screen.say(_("A new conversation."), dim=True)


def _system(chat: Chat, argument: str) -> None:
    if argument:
        chat.session.system = "" if argument == "-" else argument
    shown = chat.session.system or _("none")
    chat.screen.say(_("System prompt: {text}").format(text=shown), dim=True)


def _think(chat: Chat, argument: str) -> None:
    changed: dict[str, object] = {}
    if argument in ("on", "off"):
        changed = {"enable_thinking": argument == "on", "thinking_budget": None}
    elif argument:
        budget = _read("thinking_budget", argument)
        changed = {"enable_thinking": True, "thinking_budget": budget}
    chat.settings = chat.settings.model_copy(update=changed)
    modes = {True: _("on"), False: _("off"), None: _("as trained")}
    said = _("Thinking: {mode}").format(mode=modes[chat.settings.enable_thinking])
    if (budget := chat.settings.thinking_budget) is not None:
        said = _("Thinking: on, {count} tokens at most").format(count=budget)
    chat.screen.say(said, dim=True)


def _set(chat: Chat, argument: str) -> None:
    name, _space, value = argument.replace("=", " ").partition(" ")
    if name and (name not in SETTABLE or not value.strip()):
        raise UsageError(
            _("/set {words} cannot be done.").format(words=argument),
            why=_("It takes one of these names, and a value: {names}.").format(
                names=", ".join(SETTABLE)
            ),
            fix="/set temperature 0.7",
        )
    if name:
        changed = {name: _read(name, value.strip())}
        chat.settings = chat.settings.model_copy(update=changed)
    for known in [name] if name else SETTABLE:
        value = getattr(chat.settings, known)
        shown = _("the model's own") if value is None else value
        chat.screen.say(f"  {known} = {shown}", dim=True)


def _read(name: str, text: str) -> object:
    """Read a setting's value as the command line does. Raises UsageError."""
    return getattr(resolve(ChatSettings, [f"--{name}={text}"], {}).values, name)


def _retry(chat: Chat, argument: str) -> None:
    answer = chat.last_answer
    chat.session.back_to(answer)
    try:
        figures = chat.show_answer()
    except BaseException:
        chat.session.end = answer
        raise
    if figures.events:
        chat.session.add(figures.message)
    else:
        chat.session.end = answer


def _undo(chat: Chat, argument: str) -> None:
    questions = chat.session.questions
    if not questions:
        raise nothing_yet()
    chat.session.back_to(questions[-1])
    chat.screen.say(
        _("Taken back; {count} questions are left.").format(count=len(questions) - 1), dim=True
    )


def _continue(chat: Chat, argument: str) -> None:
    answer = chat.last_answer
    begun = answer.message
    chat.session.back_to(answer)
    try:
        figures = chat.show_answer(begun=begun)
    finally:
        chat.session.end = answer
    more = figures.message
    if not more.content and not more.reasoning:
        chat.screen.say(_("The model has nothing to add."), dim=True)
        return
    chat.session.replace_answer(
        Message(
            role="assistant",
            content=begun.content + more.content,
            reasoning=f"{begun.reasoning or ''}{more.reasoning or ''}",
            tool_calls=more.tool_calls,
        )
    )


def _edit(chat: Chat, argument: str) -> None:
    text = edited(argument)
    if text.strip():
        chat.screen.say(text, dim=True)
        chat.ask(text)


def _tokens(chat: Chat, argument: str) -> None:
    count = chat.partner.count(chat.session.conversation(), chat.settings, voice=chat.voice)
    if count is None:
        usage = chat.answers[-1].usage if chat.answers else None
        count = usage.prompt_tokens + usage.completion_tokens if usage else 0
    chat.screen.say(context_share(count, chat.partner.context_tokens))


def _stats(chat: Chat, argument: str) -> None:
    usages = [answer.usage for answer in chat.answers if answer.usage]
    if not usages:
        raise nothing_yet()
    chat.screen.say(
        _(
            "{count} answers, {read:,} tokens read ({cached:,} known before), {written:,} written"
        ).format(
            count=len(chat.answers),
            read=sum(usage.prompt_tokens for usage in usages),
            cached=sum(usage.cached_tokens for usage in usages),
            written=sum(usage.completion_tokens for usage in usages),
        )
    )
    for number, answer in enumerate(chat.answers, 1):
        chat.screen.say(f"  {number}  {answer.line(chat.partner.context_tokens)}", dim=True)


def _exit(chat: Chat, argument: str) -> None:
    chat.is_over = True
