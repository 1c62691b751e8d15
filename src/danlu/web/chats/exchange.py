"""Chats as files of this and other programs: read from whatever form, written in the one asked for.

Forms: danlu chat's own (/save), OpenAI's messages and the export of its web page, Open WebUI's
export, Markdown to read. Sources: OpenAI's API reference (messages), the files that both pages
export (a tree of nodes with parent and children each).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from danlu.dialog.session import Session, Turn
from danlu.errors import DanluError, DataError
from danlu.language import _
from danlu.server.openai.tool_calls import CallBody, ToolBody, arguments_text, call_fields
from danlu.text.conversation import Message, message_fields
from danlu.web.chats.kept_chats import KeptChats, KeptTurn, conversation_of

Json = dict[str, Any]
Form = Literal["danlu", "openai", "open_webui", "markdown"]
MOST_TURNS = 10_000
_ROLES = ("user", "assistant")


def session_of(value: Any) -> tuple[str, Session]:
    """Read one chat of any known form: its title, and its turns with all branches.

    Raises DataError where the form is none of them, or nothing was said in it.
    """
    try:
        title, session = _read(value)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise _unknown() from None
    if not session.turns or len(session.turns) > MOST_TURNS:
        raise _unknown()
    return title, session


def _read(value: Any) -> tuple[str, Session]:
    if isinstance(value, list):
        return "", _of_messages(value)
    title = _text(str(value.get("title") or ""))[:200]
    if "danlu_chat" in value:
        return title, Session.of_record(_with_whole_texts(value), _("The file"))
    if isinstance(value.get("mapping"), dict):
        return title, _of_tree(value["mapping"], value.get("current_node"), _openai_node)
    chat = value["chat"] if isinstance(value.get("chat"), dict) else value
    history = chat.get("history")
    if isinstance(history, dict) and isinstance(history.get("messages"), dict):
        tree = _of_tree(history["messages"], history.get("currentId"), _open_webui_node)
        return title or _text(str(chat.get("title") or ""))[:200], tree
    return title, _of_messages(chat["messages"], chat.get("tools") or ())


def _of_messages(messages: Sequence[Any], tools: Sequence[Any] = ()) -> Session:
    """Read a list of OpenAI's messages; what is neither said nor answered is left out."""
    session = Session(tools=tuple(tools))
    for entry in messages:
        if entry["role"] in ("system", "developer"):
            session.system = _text(entry["content"])
        elif entry["role"] in (*_ROLES, "tool"):
            session.add(_message(entry))
    return session


def _of_tree(nodes: Mapping[str, Any], last: Any, read: Any) -> Session:
    """Read a tree of nodes, which may stand in any order. read: gives (message, parent) of one."""
    session, turns = Session(), dict[str, Turn | None]()

    def turn_of(name: Any) -> Turn | None:
        # Without recursion: a chat of thousands of messages is as deep as it is long.
        path = []
        while name is not None and name not in turns:
            path.append(name)
            if len(path) > len(nodes):
                raise ValueError("the nodes stand in a circle")
            name = read(nodes[name])[1]
        before = None if name is None else turns[name]
        for step in reversed(path):
            message = read(nodes[step])[0]
            if message is not None:
                before = Turn(message=message, before=before)
                session.turns.append(before)
            turns[step] = before
        return before

    for name in nodes:
        turn_of(name)
    session.end = turn_of(last) if last in nodes else None
    session.end = session.end or (session.turns[-1] if session.turns else None)
    return session


def _openai_node(node: Mapping[str, Any]) -> tuple[Message | None, Any]:
    message = node.get("message")
    if not message or message["author"]["role"] not in _ROLES:
        return None, node.get("parent")
    parts = message.get("content", {}).get("parts") or []
    text = "\n".join(part for part in parts if isinstance(part, str))
    if not text:
        return None, node.get("parent")
    return _message({"role": message["author"]["role"], "content": text}), node.get("parent")


def _open_webui_node(node: Mapping[str, Any]) -> tuple[Message | None, Any]:
    message = _message(node) if node.get("role") in _ROLES else None
    return message, node.get("parentId")


def _message(entry: Mapping[str, Any]) -> Message:
    has_calls = bool(entry.get("tool_calls"))
    content = _text(entry.get("content") or "" if has_calls else entry["content"])
    if entry["role"] != "assistant":
        return Message(role=entry["role"], content=content)
    reasoning = entry.get("reasoning_content") or entry.get("reasoning") or ""
    calls = tuple(CallBody.model_validate(call).call() for call in entry.get("tool_calls") or ())
    return Message(role="assistant", content=content, reasoning=_text(reasoning), tool_calls=calls)


def _with_whole_texts(value: Any) -> Any:
    """Return a JSON value in which half characters of texts have become marks."""
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()
    return json.loads(text)


def _text(content: Any) -> str:
    """Return a text, or the texts of a list of parts."""
    if isinstance(content, str):
        return content.encode("utf-8", "replace").decode()
    parts = [part["text"] for part in content if isinstance(part.get("text"), str)]
    return _text("".join(parts))


def keep(chats: KeptChats, value: Any, settings: Json) -> str:
    """Keep an imported chat with all its branches; return its id. Raises DataError."""
    title, session = session_of(value)
    try:
        tools = [ToolBody.model_validate(tool).shown() for tool in session.tools]
    except ValueError:
        raise _unknown() from None
    chat = chats.create({**settings, "system": session.system, "tools": tools}, title=title)
    numbers: dict[int, int] = {}
    for turn in session.turns:
        numbers[id(turn)] = chats.add(
            chat,
            before=numbers[id(turn.before)] if turn.before else None,
            role=turn.message.role,
            content=turn.message.content,
            reasoning=turn.message.reasoning or "",
            tool_calls=[call_fields(call) for call in turn.message.tool_calls],
        )
    if session.end is not None:
        chats.change(chat, shown=numbers[id(session.end)])
    return chat


def written(chat: Json, turns: Sequence[KeptTurn], form: Form) -> Any:
    """Write a chat in a form: text for Markdown, else what becomes JSON.

    turns: all of it; the shown branch is what Markdown and OpenAI's messages hold.
    """
    session = _as_session(chat, turns)
    if form == "danlu":
        return {**session.record(), "title": chat["title"]}
    if form == "openai":
        fields = [message_fields(message) for message in session.conversation().messages]
        tools = {"tools": list(session.tools)} if session.tools else {}
        return {"title": chat["title"], "messages": fields, **tools}
    if form == "open_webui":
        return [{"title": chat["title"], "chat": _open_webui(chat, turns)}]
    names = {
        "user": _("You"),
        "assistant": _("Answer"),
        "system": _("System prompt"),
        "tool": _("Result of a tool"),
    }
    parts = [
        f"## {names[message.role]}\n\n{_as_markdown(message)}"
        for message in session.conversation().messages
    ]
    return "\n\n".join([f"# {chat['title']}", *parts]) + "\n"


def _as_markdown(message: Message) -> str:
    calls = [
        f"`{call.name}`\n\n```json\n{arguments_text(call.arguments)}\n```"
        for call in message.tool_calls
    ]
    return "\n\n".join([message.content, *calls] if message.content else calls)


def _as_session(chat: Json, turns: Sequence[KeptTurn]) -> Session:
    settings = chat["settings"]
    session = Session(system=settings.get("system", ""), tools=tuple(settings.get("tools", ())))
    made: dict[int, Turn] = {}
    messages = conversation_of(turns).messages
    for kept, message in zip(turns, messages, strict=True):
        before = made[kept.before] if kept.before is not None else None
        made[kept.id] = Turn(message=message, before=before)
        session.turns.append(made[kept.id])
    session.end = made.get(chat["shown"] or 0)
    return session


def _open_webui(chat: Json, turns: Sequence[KeptTurn]) -> Json:
    children: dict[int | None, list[str]] = {}
    for turn in turns:
        children.setdefault(turn.before, []).append(str(turn.id))
    nodes = {
        str(turn.id): {
            "id": str(turn.id),
            "parentId": None if turn.before is None else str(turn.before),
            "childrenIds": children.get(turn.id, []),
            "role": turn.role,
            "content": turn.content,
            "timestamp": int(turn.created),
        }
        for turn in turns
    }
    shown = None if chat["shown"] is None else str(chat["shown"])
    return {"title": chat["title"], "history": {"messages": nodes, "currentId": shown}}


def _unknown() -> DanluError:
    return DataError(
        _("The file holds no chat that can be read."),
        why=_(
            "Known are files of danlu chat and of this page, OpenAI's messages and its export, and "
            "Open WebUI's export."
        ),
        fix=_("Choose another file."),
    )
