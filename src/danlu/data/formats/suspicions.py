"""Texts of a row that are probably not what its author meant: thoughts and control tokens.

Such a row can be learned, and is; the findings are warnings and notes. Knows the chat format's
marks and those of other models. Must not know token ids or files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import partial

from danlu.data.findings import Finding
from danlu.language import _
from danlu.text.conversation import Conversation, Message
from danlu.text.render import THOUGHT_END, THOUGHT_START

# The template writes these by itself; other models' names mean that a text was rendered before.
_OF_TEMPLATE = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_OF_OTHERS = ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
_OTHER_THOUGHT = re.compile(
    r"</?(?:thinking|thoughts?|reasoning|reflection|seed:think)>"
    r"|\[/?THINK\]|<\|(?:begin|end)_of_thought\|>"
    r"|<\s*/?\s*think\s*/?\s*>",
    re.IGNORECASE,
)
# LLaMA-Factory's identity.json is meant to be edited; many train it as it is.
_PLACEHOLDER = re.compile(r"\{\{ ?(?:name|author) ?\}\}")


class Suspicions:
    """What to look for in texts. control_tokens: the names that the tokenizer keeps for itself."""

    def __init__(self, control_tokens: Collection[str]) -> None:
        names = {*control_tokens, *_OF_TEMPLATE, *_OF_OTHERS}
        # Longer names first: one may begin another.
        ordered = sorted(filter(None, names), key=lambda name: (-len(name), name))
        self._control = re.compile("|".join(map(re.escape, ordered)))
        # No mark is without one of these: most texts are passed over quickly.
        self._signs = {"<", "[", "{"} | {name[0] for name in ordered}

    def of(
        self, conversation: Conversation, place: str, *, half_thought: bool = False
    ) -> Collection[Finding]:
        """Return what is suspicious in the texts of a row, each kind once.

        half_thought: an answer closed a thought that it did not open.
        """
        found: dict[str, Finding] = {}
        signed: list[str] = []
        for message in conversation.messages:
            for text in (message.content, message.reasoning or ""):
                if not any(sign in text for sign in self._signs):
                    continue
                signed.append(text)
                for finding in _in_text(text, message, place):
                    found.setdefault(finding.kind, finding)
        # All of a row at once: who takes one out should not meet the next.
        for finding in self._control_tokens("\n".join(signed), place):
            found.setdefault(finding.kind, finding)
        if half_thought:
            found.setdefault("open_thought", _open_thought(place))
        return found.values()

    def _control_tokens(self, text: str, place: str) -> Iterator[Finding]:
        of_template: dict[str, None] = {}
        others: dict[str, None] = {}
        for name in self._control.findall(text):
            (of_template if name in (*_OF_TEMPLATE, *_OF_OTHERS) else others)[name] = None
        for names, kind, fix in (
            (of_template, "control_token_text", _("Remove it: the template adds the real ones.")),
            (
                others,
                "special_token_text",
                _(
                    'Remove it; or, if the model is to know it as one token, write "special": '
                    "false for it in tokenizer.json."
                ),
            ),
        ):
            if names:
                yield Finding(
                    place=place,
                    kind=kind,
                    what=_(
                        "The text {text} stands in the data, where it stays ordinary text."
                    ).format(text=", ".join(names)),
                    fix=fix,
                    severity="warning",
                )


def _open_thought(place: str) -> Finding:
    return Finding(
        place=place,
        kind="open_thought",
        what=_("A thought is opened and not closed, or closed and not opened."),
        fix=_("Write <think>, the reasoning, </think>, and then the answer."),
        severity="warning",
    )


def _in_text(text: str, message: Message, place: str) -> Iterator[Finding]:
    warning = partial(Finding, place=place, severity="warning")
    if placeholder := _PLACEHOLDER.search(text):
        yield warning(
            kind="placeholder",
            what=_("The placeholder {text} was not filled in.").format(text=placeholder[0]),
            fix=_("Write the real name in its place."),
        )
    has_thought = THOUGHT_START in text or THOUGHT_END in text
    if message.role != "assistant" and has_thought:
        yield Finding(
            place=place,
            kind="thought_in_question",
            what=_("A think tag stands in a message of the role {role}.").format(role=message.role),
            fix=_("Remove it, unless it is meant to be there."),
            severity="note",
        )
    elif has_thought:
        # Whole thoughts have been taken out of the answer: this is half of one.
        yield _open_thought(place)
    elif message.role == "assistant" and (other := _OTHER_THOUGHT.search(text)):
        yield warning(
            kind="foreign_thought",
            what=_("The tag {tag} is not Qwen3's: it is learned as visible text.").format(
                tag=other[0]
            ),
            fix=_("Write reasoning between <think> and </think>."),
        )
