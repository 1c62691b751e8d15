"""The chat template that a trained model carries for other programs.

transformers, vLLM, Ollama and llama.cpp render it without saying whether to think. A model that was
trained to answer at once must be prompted so by default there too, or it gets a prompt that it has
never seen. Knows the template's text and where it is kept; renders nothing.
"""

from __future__ import annotations

import json
from typing import Any

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
ANSWERS_AT_ONCE = (
    "{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif -%}\n"
)


def with_default(name: str, data: bytes, *, at_once: bool) -> bytes:
    """Return a tokenizer's file with the default of `enable_thinking` in every template it holds.

    at_once: the default is false; else it is left to the template, as the base has it. Files
    without a template come back as they are.
    """
    if name == TEMPLATE_FILE:
        return _in_template(data.decode("utf-8"), at_once).encode("utf-8")
    if name != TOKENIZER_CONFIG:
        return data
    config = json.loads(data)
    template = config.get("chat_template")
    changed = _in_field(template, at_once)
    if changed == template:
        return data
    text = json.dumps({**config, "chat_template": changed}, indent=2, ensure_ascii=False)
    return (text + "\n").encode("utf-8")


def _in_field(field: Any, at_once: bool) -> Any:
    """Change the field `chat_template`: one template, or a list of templates with names."""
    if isinstance(field, str):
        return _in_template(field, at_once)
    if isinstance(field, list):
        return [{**entry, "template": _in_template(entry["template"], at_once)} for entry in field]
    return field


def _in_template(text: str, at_once: bool) -> str:
    """Set or remove the line; a model that was merged before may carry it."""
    return (ANSWERS_AT_ONCE if at_once else "") + text.removeprefix(ANSWERS_AT_ONCE)
