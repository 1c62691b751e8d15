"""Chat templates that write danlu's formats: the starter's own, and what follows from it.

`qwen3_thinking` behaves as that of Qwen3's Thinking-2507, `qwen3_nothink` as that of Instruct-2507.
"""

from __future__ import annotations

from danlu.hub.names import STARTER, model_folder
from danlu.text.render import Template


def _replaced(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


_QWEN3 = (model_folder(STARTER) / "chat_template.jinja").read_text(encoding="utf-8")
_EMPTY_THOUGHT = "(thought('') if enable_thinking is defined and enable_thinking is false else '')"
OWN_TEMPLATES: dict[Template, str] = {
    "qwen3": _QWEN3,
    "qwen3_thinking": _replaced(_QWEN3, (_EMPTY_THOUGHT, "'<think>\\n'")),
    "qwen3_nothink": _replaced(
        _QWEN3,
        (_EMPTY_THOUGHT, "''"),
        ("not given and parts | length > 1", "false"),
        ("loop.index0 > state.query and (loop.last or reasoning)", "false"),
    ),
}
# As many fine-tuned models have it: neither thoughts nor tools.
PLAIN_CHAT = """\
{%- for message in messages -%}
{{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
