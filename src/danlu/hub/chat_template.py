"""Which of danlu's chat formats a model folder's own chat template writes.

Told by what it does, not by its name or its text: the template renders a few conversations, in a
process of its own (`template_trial`), and the renderer (text/render.py) does. Templates that differ
in anything that a probe shows are not known. Must not know weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from danlu.data.settings import DataSettings
from danlu.files.os_errors import readable
from danlu.files.regular import read_regular
from danlu.hub.template_default import TEMPLATE_FILE, TOKENIZER_CONFIG
from danlu.language import _
from danlu.model.config import read_model_json
from danlu.program import as_typed
from danlu.reasons import library_reason
from danlu.text.conversation import Conversation, Message, ToolCall
from danlu.text.render import TEMPLATES, TURN_END, Template, render

_TRIAL = Path(__file__).with_name("template_trial.py")
_TRIAL_SECONDS = 20.0  # of waiting; the trial itself ends after two seconds of work
# Far above those of real models; compiling time grows with it.
_MOST_CHARACTERS = 100_000
_MOST_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class OwnTemplate:
    """What a folder's own template writes.

    format: None where it is none of danlu's. same_tools: tools and calls are written alike too.
    answers_at_once: a prompt that does not say whether to think ends with an empty thought.
    """

    path: Path
    format: Template | None
    same_tools: bool = True
    answers_at_once: bool = False

    @property
    def name(self) -> str:
        """What to call it."""
        return self.format or _("unknown")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Probe:
    conversation: Conversation
    add_generation_prompt: bool = True
    enable_thinking: bool | None = True  # None: not said


_SYSTEM = Message(role="system", content="Be brief.")
_ASKED = Message(role="user", content="Name a nut.")
_ANSWERED = Message(role="assistant", content="A hazelnut.")
_THOUGHT = Message(role="assistant", content="A walnut.", reasoning="It has to be a nut.")
_AGAIN = Message(role="user", content="Another one.")
_CALLED = Message(
    role="assistant", tool_calls=(ToolCall(name="nuts", arguments={"hard": True, "名": "核"}),)
)
_RESULTS = (Message(role="tool", content="1"), Message(role="tool", content="2"))
_TOOL = {"type": "function", "function": {"name": "nuts", "parameters": {"type": "object"}}}


def _of(*messages: Message, tools: Sequence[dict[str, Any]] = ()) -> Conversation:
    return Conversation(messages=messages, tools=tools)


_CHATS = (
    _Probe(conversation=_of(_ASKED)),
    _Probe(conversation=_of(_SYSTEM, _ASKED)),
    _Probe(conversation=_of(_ASKED), enable_thinking=False),
    _Probe(conversation=_of(_ASKED, _ANSWERED, _AGAIN)),
    _Probe(conversation=_of(_ASKED, _ANSWERED), add_generation_prompt=False),
)
# Only of templates that know thoughts: what the others make of one, no prompt of theirs shows.
_THOUGHTS = (
    _Probe(conversation=_of(_ASKED, _THOUGHT, _AGAIN)),
    _Probe(conversation=_of(_ASKED, _THOUGHT, _AGAIN, _THOUGHT), add_generation_prompt=False),
)
_CALLS = (
    _Probe(conversation=_of(_ASKED, tools=(_TOOL,))),
    _Probe(conversation=_of(_SYSTEM, _ASKED, _CALLED, *_RESULTS, tools=(_TOOL,))),
)

_UNSAID = _Probe(conversation=_of(_ASKED), enable_thinking=None)


def own_template(folder: Path) -> OwnTemplate | None:
    """Say what a model folder's own template writes; None without one. Takes 0.2 seconds.

    Raises DataError where its file cannot be read.
    """
    found = template_text(folder)
    if found is None:
        return None
    path, text = found
    every = (*_CHATS, *_THOUGHTS, *_CALLS, _UNSAID)
    texts = dict(zip(every, _rendered(text, every), strict=True))
    for name in TEMPLATES:
        probes = _CHATS if name == "qwen3_nothink" else (*_CHATS, *_THOUGHTS)
        if all(texts[probe] == _expected(probe, name) for probe in probes):
            same_tools = all(texts[probe] == _expected(probe, name) for probe in _CALLS)
            # To the renderer, None means to answer at once.
            at_once = name == "qwen3" and texts[_UNSAID] == _expected(_UNSAID, name)
            return OwnTemplate(
                path=path, format=name, same_tools=same_tools, answers_at_once=at_once
            )
    return OwnTemplate(path=path, format=None)


def training_remarks(folder: Path, settings: DataSettings) -> Iterator[str]:
    """Say what a user should know of the format of the rows. Raises DataError."""
    yield from template_remarks(folder, settings.chat_format)
    if settings.chat_format != "qwen3" and settings.enable_thinking is not True:
        yield _("--enable_thinking changes nothing in {used}: thoughts in the rows stay.").format(
            used=settings.chat_format
        )


def template_remarks(folder: Path, used: str) -> Iterator[str]:
    """Say in what a model's own template differs from the one that is used. Raises DataError."""
    own = own_template(folder)
    if own is None:
        return
    if own.format is None:
        text = _(
            "The model's own chat template ({path}) is none that danlu knows; {used} is used, in "
            "training and in answers. Compare them with danlu data preview."
        )
        yield as_typed(text.format(path=own.path, used=used))
    elif own.format != used:
        yield _("The model's own chat template is {own}; {used} is used.").format(
            own=own.format, used=used
        )
    elif not own.same_tools:
        yield _(
            "The model's own chat template ({path}) writes tools and calls in another way than "
            "{used}."
        ).format(path=own.path, used=used)


def template_text(folder: Path) -> tuple[Path, str] | None:
    """Find the template as transformers does: its own file before tokenizer_config.json."""
    path = folder / TEMPLATE_FILE
    if path.exists():
        with readable(path):
            content = read_regular(path, most_bytes=_MOST_BYTES)
        return path, content.decode("utf-8", "replace")
    path = folder / TOKENIZER_CONFIG
    if not path.exists():
        return None
    file = read_model_json(path)
    found = file.fields.get("chat_template")
    if isinstance(found, list):  # several by name
        try:
            found = {entry["name"]: entry["template"] for entry in found}.get("default")
        except (TypeError, KeyError) as problem:
            raise file.broken(
                "chat_template: " + library_reason(f"{type(problem).__name__}: {problem}")
            ) from problem
    return (path, found) if isinstance(found, str) and found else None


@lru_cache(maxsize=8)
def _rendered(text: str, probes: tuple[_Probe, ...]) -> Sequence[str | None]:
    """Render probes by a template; None for each where it fails, for whatever reason."""
    nothing = [None] * len(probes)
    if len(text) > _MOST_CHARACTERS:
        return nothing
    task = {"template": text, "probes": [_variables(probe) for probe in probes]}
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_TRIAL)],
            input=json.dumps(task).encode(),
            capture_output=True,
            check=True,
            timeout=_TRIAL_SECONDS,
        )
        texts: list[str | None] = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError):
        return nothing
    return texts


def _expected(probe: _Probe, name: Template) -> str:
    spans = render(
        probe.conversation,
        template=name,
        enable_thinking=probe.enable_thinking,
        add_generation_prompt=probe.add_generation_prompt,
    )
    return "".join(span.text for span in spans)


def _variables(probe: _Probe) -> dict[str, Any]:
    said = {} if probe.enable_thinking is None else {"enable_thinking": probe.enable_thinking}
    return {
        "messages": [_entry(message) for message in probe.conversation.messages],
        "tools": list(probe.conversation.tools) or None,
        "add_generation_prompt": probe.add_generation_prompt,
        "eos_token": TURN_END,
        **said,
    }


def _entry(message: Message) -> dict[str, Any]:
    entry: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        entry["reasoning_content"] = message.reasoning
    if message.tool_calls:
        entry["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return entry
