"""Other programs prompt a trained model as danlu does, without being told how."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from danlu.files.committed import committed_folder
from danlu.hub.names import STARTER, model_folder
from danlu.hub.prompting import Prompting
from danlu.hub.save import TOKENIZER_FILES, copy_tokenizer
from danlu.hub.template_default import ANSWERS_AT_ONCE, TEMPLATE_FILE, TOKENIZER_CONFIG
from danlu.text.conversation import Conversation, Message
from danlu.text.render import render

DIALOGS = [
    [("user", "Who are you?")],
    [("system", "Be short."), ("user", "1 + 1?"), ("assistant", "2"), ("user", "And 2 + 2?")],
]


def tokenizer_folder(folder: Path, *, inside_config: bool) -> Path:
    """The starter's tokenizer, its template in its own file or, as older models have it, inside."""
    folder.mkdir()
    for name in TOKENIZER_FILES:
        if (model_folder(STARTER) / name).is_file():
            shutil.copy(model_folder(STARTER) / name, folder)
    if inside_config:
        template = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
        config = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
        (folder / TOKENIZER_CONFIG).write_text(json.dumps({**config, "chat_template": template}))
        (folder / TEMPLATE_FILE).unlink()
    return folder


def written(folder: Path, like: Path, prompting: Prompting) -> Path:
    with committed_folder(folder) as draft:
        copy_tokenizer(draft, like=like, at_once=prompting.answers_at_once)
    return folder


@pytest.mark.parametrize("inside_config", [False, True], ids=["own file", "tokenizer_config"])
@pytest.mark.parametrize("template", ["qwen3", "qwen3_nothink"])
@pytest.mark.parametrize("thinking", [True, False, None])
def test_transformers_prompts_as_danlu_does(
    tmp_path: Path, template: str, thinking: bool | None, inside_config: bool
) -> None:
    from transformers import AutoTokenizer

    prompting = Prompting(template=template, enable_thinking=thinking)
    like = tokenizer_folder(tmp_path / "like", inside_config=inside_config)
    tokenizer = AutoTokenizer.from_pretrained(written(tmp_path / "model", like, prompting))
    for dialog in DIALOGS:
        messages = [{"role": role, "content": content} for role, content in dialog]
        theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        conversation = Conversation(
            messages=tuple(Message(role=role, content=text) for role, text in dialog)
        )
        spans = render(conversation, template=template, enable_thinking=thinking)
        assert theirs == "".join(span.text for span in spans)
        # Whoever says so still gets the other mode.
        asked = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        assert asked.endswith("<|im_start|>assistant\n")


def test_a_model_that_is_trained_again_has_the_last_mode(tmp_path: Path) -> None:
    like = tokenizer_folder(tmp_path / "like", inside_config=False)
    first = written(tmp_path / "1", like, Prompting(enable_thinking=False))
    second = written(tmp_path / "2", first, Prompting(enable_thinking=None))
    text = (second / TEMPLATE_FILE).read_text(encoding="utf-8")
    assert text.startswith(ANSWERS_AT_ONCE)
    assert text.count(ANSWERS_AT_ONCE) == 1
    third = written(tmp_path / "3", second, Prompting(enable_thinking=True))
    assert (third / TEMPLATE_FILE).read_bytes() == (like / TEMPLATE_FILE).read_bytes()
    assert (third / TOKENIZER_CONFIG).read_bytes() == (like / TOKENIZER_CONFIG).read_bytes()
