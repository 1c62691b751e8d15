"""Renders a conversation as spans of text: the only place where the Qwen3 chat format is written.

A span is a piece that is tokenized alone. Joined, the spans of `render` are exactly the text of
the chat template of a Qwen3 model (the `chat_template` of its tokenizer_config.json): `qwen3` of
those that think or not, `qwen3_thinking` of those that always think (Thinking-2507: the prompt
opens the thought), `qwen3_nothink` of those that never do (Instruct-2507). There is a cut at every
generation boundary, in history too, so that training and use see the same token ids.

Knows the chat format and which text is learned. Must not know token ids, files or models.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from typing import Any, Literal, get_args

from danlu.errors import UsageError
from danlu.language import _
from danlu.text.conversation import Conversation, Message, ToolCall

Template = Literal["qwen3", "qwen3_thinking", "qwen3_nothink"]
TEMPLATES: tuple[Template, ...] = get_args(Template)
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
THOUGHT_START = "<think>"
THOUGHT_END = "</think>"
CALL_START = "<tool_call>"
CALL_END = "</tool_call>"
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


@dataclass(frozen=True, kw_only=True)
class SoftPart:
    """Characters [start, end) of a span that may be shortened: reasoning, or a question's text."""

    start: int
    end: int
    is_reasoning: bool = False


@dataclass(frozen=True, kw_only=True)
class Span:
    """A rendered piece, tokenized alone.

    control: the text is one control token. supervised: the model learns to write it.
    in_answer: it is part of what the model writes, learned or not. soft: what a policy for
    over-long rows may shorten, in order.
    """

    text: str
    control: bool = False
    supervised: bool = False
    in_answer: bool = False
    soft: tuple[SoftPart, ...] = ()


# How the prompt opens a thought in the name of the model. Compared by identity: it is no part of
# what the model writes, although it stands inside of an answer's text.
_OPENING = Span(text=f"{THOUGHT_START}\n")


def check_template(name: str) -> None:
    """Raise UsageError, naming the nearest template, unless `name` is one of TEMPLATES."""
    if name in TEMPLATES:
        return
    nearest = difflib.get_close_matches(name.lower(), TEMPLATES, n=1, cutoff=0.0)[0]
    raise UsageError(
        _("Template {name} is unknown.").format(name=name),
        why=_("danlu renders these templates: {names}.").format(names=", ".join(TEMPLATES)),
        fix=_("Use --template {nearest}").format(nearest=nearest),
    )


def render(
    conversation: Conversation,
    *,
    template: str,
    enable_thinking: bool | None,
    add_generation_prompt: bool = True,
) -> list[Span]:
    """Render the text that the model is fed, in Qwen3's chat format; nothing is supervised.

    enable_thinking: with False the generation prompt ends with an empty thought, so the model
    answers at once. None does the same, as LLaMA-Factory does for models trained with None. It
    means nothing to the other two: `qwen3_thinking` ends every generation prompt with an open
    thought, `qwen3_nothink` never adds or removes a thought. Raises UsageError for an
    unknown template and ValueError for a conversation without messages.
    """
    check_template(template)
    messages = conversation.messages
    if not messages:
        raise ValueError("a conversation needs at least one message")
    spans = _joined(_turns(conversation, template))
    if add_generation_prompt:
        spans += _generation_prompt(template, enable_thinking)
    return spans


def render_training(
    conversation: Conversation,
    *,
    template: str,
    enable_thinking: bool | None,
    mask_history: bool = False,
    train_on_prompt: bool = False,
) -> list[list[Span]]:
    """Render the fewest examples in which every answer follows its true inference prefix.

    Supervised are each answer, its end token and the newline after it; of an answer that is not to
    be learned nothing is, and what stands behind the last learned one is left out. enable_thinking:
    True: an answer without reasoning learns to write an empty thought; False: reasoning is
    removed everywhere and the empty thought belongs to the prompt; None: reasoning is learned
    where the row has it, elsewhere the empty thought belongs to the prompt. mask_history: only
    the last of these answers is learned. train_on_prompt: the rest of the row is learned too, each
    message in the first example that shows it. The prefix of an answer is `render` of the messages
    before it, with enable_thinking False where the empty thought belongs to the prompt. Without an
    answer to learn the list is empty. Raises UsageError for an unknown template.
    """
    check_template(template)
    messages = conversation.messages
    if template == "qwen3" and enable_thinking is False:
        messages = tuple(_without_reasoning(message) for message in messages)
    answers = [i for i, m in enumerate(messages) if m.role == "assistant" and m.is_learned]
    turns_before = _turns_before(replace(conversation, messages=messages), template)
    examples: list[_TrainingText] = []
    # Backwards: a longer example exists before the shorter ones that it may contain. The prefixes
    # of one sequence form a chain, so every answer joining any such example gives the fewest.
    for index in answers[: -2 if mask_history else None : -1]:
        message = messages[index]
        thinks = template != "qwen3" or not _answers_at_once(message, enable_thinking)
        turns = turns_before(index)
        prefix = _joined(turns) + _generation_prompt(template, thinks)
        body = [span for span in _answer(message, template, thinks) if span is not _OPENING]
        answer = [replace(span, supervised=True) for span in _written(body)]
        whole = prefix + answer
        home = next((e for e in examples if _begins_with(e.spans, whole)), None)
        if home is None:
            examples.append(_TrainingText(spans=whole, turns=turns))
        else:
            home.spans[len(prefix) : len(whole)] = answer
    examples.reverse()
    if train_on_prompt:
        num_learned = 0
        for example in examples:
            start = len(_joined(example.turns[:num_learned]))
            # Answers are learned already, each in its own example.
            example.spans[start:] = [
                span if span.in_answer else replace(span, supervised=True)
                for span in example.spans[start:]
            ]
            # The answer after these turns has been learned too.
            num_learned = len(example.turns) + 1
    return [example.spans for example in examples]


@dataclass(frozen=True, kw_only=True)
class _TrainingText:
    """An example: its spans, and the turns before its last answer, as `_turns` gives them."""

    spans: list[Span]
    turns: list[list[Span]]


def ends_in_open_thought(spans: Sequence[Span]) -> bool:
    """Tell whether a rendered prompt leaves the model inside a thought that it has to close."""
    start = max((i for i, s in enumerate(spans) if s.control and s.text == TURN_START), default=0)
    prompt = "".join(span.text for span in spans[start:])
    return prompt.rfind(THOUGHT_START) > prompt.rfind(THOUGHT_END)


def split_reasoning(content: str) -> tuple[str | None, str]:
    """Split an answer's text into its reasoning (None where it has no closed thought) and the rest.

    The rule is that of Qwen3's template; it accepts `<think>r</think>A` without newlines, too.
    """
    if THOUGHT_END not in content:
        return None, content
    reasoning = content.split(THOUGHT_END)[0].rstrip("\n").split(THOUGHT_START)[-1].lstrip("\n")
    return reasoning, content.split(THOUGHT_END)[-1].lstrip("\n")


def call_text(call: ToolCall) -> str:
    """Render one tool call with its tags; arguments given as text stand as they are."""
    arguments = call.arguments if isinstance(call.arguments, str) else _json(call.arguments)
    return f'{CALL_START}\n{{"name": "{call.name}", "arguments": {arguments}}}\n{CALL_END}'


def _json(value: Mapping[str, Any]) -> str:
    # As transformers' `tojson` does: keys in their order, Chinese unescaped.
    return json.dumps(dict(value), ensure_ascii=False)


def _turns(conversation: Conversation, template: str) -> list[list[Span]]:
    """Render the opening and then each message; a message shown with another one has no spans."""
    return _turns_before(conversation, template)(len(conversation.messages))


def _turns_before(conversation: Conversation, template: str) -> Callable[[int], list[list[Span]]]:
    """Return a function that gives `_turns` of the messages before a message, an answer or the end.

    Each form of a turn is rendered once: what a conversation costs is then what its examples hold.
    """
    messages = conversation.messages
    opening = _opening(conversation)

    @cache
    def turn(index: int, after_last_query: bool, is_last: bool) -> list[Span]:
        message = messages[index]
        if message.role == "assistant":
            body = _history_body(message, template, after_last_query, is_last)
            return [*_answer_start(), *_written(body)]
        if message.role == "tool":
            return _tool_result(messages, index)
        if message.role == "user" or index > 0:
            return _turn(message.role, message.content)
        return []

    def turns(end: int) -> list[list[Span]]:
        last_query = _last_query_index(messages[:end])
        return [opening, *(turn(i, i > last_query, i == end - 1) for i in range(end))]

    return turns


def _joined(turns: Iterable[list[Span]]) -> list[Span]:
    return [span for turn in turns for span in turn]


def _written(body: Sequence[Span]) -> list[Span]:
    """Render what the model writes: an answer and its end."""
    return [replace(s, in_answer=s is not _OPENING) for s in [*body, *_turn_end()]]


def _text(text: str) -> list[Span]:
    return [Span(text=text)] if text else []


def _turn_end() -> list[Span]:
    return [Span(text=TURN_END, control=True), Span(text="\n")]


def _turn(role: str, content: str) -> list[Span]:
    text = f"{role}\n{content}"
    soft = (SoftPart(start=len(role) + 1, end=len(text)),) if role == "user" else ()
    return [Span(text=TURN_START, control=True), Span(text=text, soft=soft), *_turn_end()]


def _answer_start() -> list[Span]:
    return [Span(text=TURN_START, control=True), Span(text="assistant\n")]


def _generation_prompt(template: str, enable_thinking: bool | None) -> list[Span]:
    if template == "qwen3_thinking":
        return [*_answer_start(), _OPENING]
    at_once = template == "qwen3" and not enable_thinking
    return [*_answer_start(), *_text(EMPTY_THOUGHT if at_once else "")]


def _opening(conversation: Conversation) -> list[Span]:
    """Render the system message and the tools."""
    messages = conversation.messages
    system = messages[0].content if messages and messages[0].role == "system" else None
    if not conversation.tools:
        return [] if system is None else _turn("system", system)
    tools = "".join(f"\n{_json(tool)}" for tool in conversation.tools)
    head = "" if system is None else f"{system}\n\n"
    return _turn("system", head + TOOLS_HEAD + tools + TOOLS_TAIL)


def _last_query_index(messages: Sequence[Message]) -> int:
    """Find the user's last question; reasoning is kept only in answers after it."""
    for index in range(len(messages) - 1, -1, -1):
        content = messages[index].content
        is_result = content.startswith("<tool_response>") and content.endswith("</tool_response>")
        if messages[index].role == "user" and not is_result:
            return index
    return len(messages) - 1


def _tool_result(messages: Sequence[Message], index: int) -> list[Span]:
    """Render a whole group of tool results as one turn of the user, at its first message."""
    if index and messages[index - 1].role == "tool":
        return []
    text, soft = "user", []
    following = (messages[i] for i in range(index, len(messages)))
    for message in takewhile(lambda message: message.role == "tool", following):
        text += "\n<tool_response>\n"
        soft.append(SoftPart(start=len(text), end=len(text) + len(message.content)))
        text += f"{message.content}\n</tool_response>"
    span = Span(text=text, soft=tuple(soft))
    return [Span(text=TURN_START, control=True), span, *_turn_end()]


def _reasoning_and_content(message: Message) -> tuple[str | None, str]:
    if message.reasoning is not None:
        return message.reasoning, message.content
    return split_reasoning(message.content)


def _without_reasoning(message: Message) -> Message:
    if message.role != "assistant":
        return message
    # "" rather than None: a `</think>` that is left in the content is text, not a thought's end.
    return replace(message, reasoning="", content=_reasoning_and_content(message)[1])


def _answers_at_once(message: Message, enable_thinking: bool | None) -> bool:
    """Tell whether the empty thought before this answer belongs to the prompt."""
    if enable_thinking is None:
        return _reasoning_and_content(message)[0] is None
    return not enable_thinking


def _thoughtful(reasoning: str, text: str, start: str = f"{THOUGHT_START}\n") -> Span:
    """Render a thought and the text behind it. start: empty where the prompt opens the thought."""
    soft = SoftPart(start=len(start), end=len(start) + len(reasoning), is_reasoning=True)
    return Span(
        text=f"{start}{reasoning}\n{THOUGHT_END}\n\n{text}", soft=(soft,) if reasoning else ()
    )


def _calls(content: str, calls: Sequence[ToolCall]) -> str:
    text = "\n".join(call_text(call) for call in calls)
    return f"\n{text}" if text and content else text


def _answer(message: Message, template: str, thinks: bool) -> list[Span]:
    """Render what stands behind the start of an answer, an opening that the prompt wrote too."""
    if template == "qwen3_nothink":
        return _plain_body(message)
    reasoning, content = _reasoning_and_content(message)
    text = content.lstrip("\n") + _calls(content, message.tool_calls)
    if not thinks:
        return _text(text)
    reasoning = (reasoning or "").strip("\n")
    if template == "qwen3_thinking":
        return [_OPENING, _thoughtful(reasoning, text, start="")]
    # An empty thought is cut off even where the model wrote it: the answer's ids are then the
    # same as behind a prompt that ends with one.
    return [_thoughtful(reasoning, text)] if reasoning else _text(EMPTY_THOUGHT) + _text(text)


def _history_body(
    message: Message, template: str, after_last_query: bool, is_last: bool
) -> list[Span]:
    """Render an answer as the template shows it, which may depend on where it stands."""
    reasoning, content = _reasoning_and_content(message)
    if template == "qwen3_nothink" or (after_last_query and (is_last or reasoning)):
        return _answer(message, template, thinks=True)
    return _text(content + _calls(content, message.tool_calls))


def _plain_body(message: Message) -> list[Span]:
    """Render an answer with just the thought that it has; the same everywhere."""
    text = message.content + _calls(message.content, message.tool_calls)
    if message.reasoning is None:
        return _text(text)
    return [_thoughtful(message.reasoning.strip("\n"), text)]


def _begins_with(spans: Sequence[Span], beginning: Sequence[Span]) -> bool:
    """Compare texts from the end of `beginning`: an answer in history is what differs, if any."""
    return len(beginning) <= len(spans) and all(
        spans[i] is beginning[i]
        or (spans[i].text == beginning[i].text and spans[i].control == beginning[i].control)
        for i in reversed(range(len(beginning)))
    )
