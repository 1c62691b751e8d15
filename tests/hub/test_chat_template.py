"""Which chat format a model folder's own template writes is told by what it does."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from danlu.data.settings import DataSettings
from danlu.errors import DataError
from danlu.hub.chat_template import OwnTemplate, own_template, template_remarks
from danlu.hub.names import STARTER, model_folder
from danlu.hub.prompting import Prompting, prompting_of_model, with_template
from danlu.hub.template_default import ANSWERS_AT_ONCE
from danlu.text.conversation import Conversation
from danlu.text.render import TEMPLATES, render
from tests.helpers.chat_templates import OWN_TEMPLATES, PLAIN_CHAT
from tests.parity.test_template import DIALOGUES, TOOL, template_text

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "qwen3" / "tokenizer"


def found(folder: Path, text: str) -> OwnTemplate | None:
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    return own_template(folder)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_format_is_known_by_what_it_writes(tmp_path: Path, name: str) -> None:
    own = found(tmp_path, OWN_TEMPLATES[name])
    assert own is not None
    assert (own.format, own.same_tools) == (name, True)
    assert list(template_remarks(tmp_path, name)) == []
    for other in set(TEMPLATES) - {name}:
        [remark] = template_remarks(tmp_path, other)
        assert f"is {name}; {other} is used" in remark


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_format_has_the_text_of_its_template(tmp_path: Path, name: str) -> None:
    """Against transformers. A template without thoughts shows none that stand apart."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder(STARTER))
    tokenizer.chat_template = OWN_TEMPLATES[name]
    for messages, tools, thinks, prompt in product(
        DIALOGUES, ((), (TOOL,)), (True, False), (True, False)
    ):
        if name == "qwen3_nothink" and any(m.reasoning is not None for m in messages):
            continue
        case = Conversation(messages=messages, tools=tools)
        options: dict[str, Any] = {"enable_thinking": thinks, "add_generation_prompt": prompt}
        spans = render(case, template=name, **options)
        assert "".join(span.text for span in spans) == template_text(tokenizer, case, **options)


def test_the_starter_and_qwen3_are_qwen3() -> None:
    folders = [model_folder(STARTER), *([SHARED] if SHARED.is_dir() else [])]
    for folder in folders:
        own = own_template(folder)
        assert own is not None
        assert (own.format, own.same_tools) == ("qwen3", True)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_default_of_a_template_is_how_its_model_is_prompted(tmp_path: Path, name: str) -> None:
    """A model that was trained to answer at once and exported elsewhere, without danlu's report."""
    found(tmp_path, OWN_TEMPLATES[name])
    thinks = name != "qwen3_nothink"
    assert prompting_of_model(str(tmp_path)) == Prompting(template=name, enable_thinking=thinks)
    found(tmp_path, ANSWERS_AT_ONCE + OWN_TEMPLATES[name])
    if name == "qwen3":  # the others do not ask
        thinks = False
    assert prompting_of_model(str(tmp_path)) == Prompting(template=name, enable_thinking=thinks)


def test_a_template_that_writes_tools_otherwise_is_named(tmp_path: Path) -> None:
    own = found(tmp_path, PLAIN_CHAT)
    assert own is not None
    assert (own.format, own.same_tools) == ("qwen3_nothink", False)
    [remark] = template_remarks(tmp_path, "qwen3_nothink")
    assert "writes tools and calls in another way" in remark


@pytest.mark.parametrize(
    "text",
    [
        "{{ messages[0].content }}",
        "{% for",
        "{{ raise_exception('no') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        # Endless work and memory end the process that renders, and nothing else.
        "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 1 / 0 }}",
        "x" * 200_000,
        PLAIN_CHAT.replace("im_start", "start"),
        # As Qwen3, but earlier thoughts stay.
        OWN_TEMPLATES["qwen3"].replace("loop.index0 > state.query and ", ""),
    ],
)
def test_any_other_template_is_unknown_and_said(tmp_path: Path, text: str) -> None:
    own = found(tmp_path, text)
    assert own is not None
    assert own.format is None
    [remark] = template_remarks(tmp_path, "qwen3")
    assert str(tmp_path / "chat_template.jinja") in remark
    assert prompting_of_model(str(tmp_path)) == Prompting()


def test_where_a_template_stands(tmp_path: Path) -> None:
    assert own_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"

    def written(fields: Any) -> str | None:
        config.write_text(json.dumps(fields), encoding="utf-8")
        own = own_template(tmp_path)
        return own and own.format

    thinking, nothink = OWN_TEMPLATES["qwen3_thinking"], OWN_TEMPLATES["qwen3_nothink"]
    assert written({}) is None
    assert written({"chat_template": thinking}) == "qwen3_thinking"
    several = [{"name": "rag", "template": "x"}, {"name": "default", "template": nothink}]
    assert written({"chat_template": several}) == "qwen3_nothink"
    (tmp_path / "chat_template.jinja").write_text(thinking, encoding="utf-8")
    assert written({"chat_template": nothink}) == "qwen3_thinking"
    (tmp_path / "chat_template.jinja").unlink()
    for broken in ([], {"chat_template": [1]}):
        with pytest.raises(DataError, match=r"tokenizer_config\.json cannot be used"):
            written(broken)


def test_a_model_is_prompted_and_trained_as_its_template_says(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(OWN_TEMPLATES["qwen3_nothink"], encoding="utf-8")
    prompting = prompting_of_model(str(tmp_path))
    assert prompting == Prompting(template="qwen3_nothink", enable_thinking=False)
    assert with_template(DataSettings(), prompting).chat_format == "qwen3_nothink"
    assert with_template(DataSettings(template="qwen3"), prompting).chat_format == "qwen3"
    assert DataSettings().chat_format == "qwen3"
