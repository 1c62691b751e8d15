"""The starter's recipe: nothing of the evaluation is trained, and its formats are Qwen3's."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from danlu.data.datasets import Row, find_datasets
from danlu.text.conversation import Conversation
from danlu.text.render import render
from danlu.text.tokenizer import Tokenizer
from tools.starter import entities as e
from tools.starter.demo_rows import FILES, FOLDER, as_file
from tools.starter.phrases import identity_questions
from tools.starter.skills import SKILLS, draw
from tools.starter.tokenizer import tokenizer_config, train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
QWEN3 = ROOT.parent / "shared" / "qwen3" / "tokenizer"


@pytest.mark.parametrize("skill", SKILLS)
@pytest.mark.parametrize("side", ["train", "eval"])
def test_every_skill_ends_with_an_answer_and_is_the_same_for_a_seed(skill: str, side: Any) -> None:
    first, second = ([draw(random.Random(s), side, skill) for s in range(40)] for _ in range(2))
    assert first == second
    for sample in first:
        last = sample.conversation.messages[-1]
        assert last.role == "assistant"
        assert last.content or last.tool_calls


@pytest.mark.parametrize("language", ["en", "zh"])
def test_entities_of_the_evaluation_never_occur_in_training(language: str) -> None:
    rng = random.Random(0)
    for make in (e.name, e.place):
        trained = {make(rng, language, "train") for _ in range(2000)}
        assert not trained & {make(rng, language, "eval") for _ in range(500)}
    questions = [{q for q, _reply in identity_questions(language, s)} for s in ("train", "eval")]
    assert not questions[0] & questions[1]
    assert questions[1]


def test_reasoning_of_sums_is_true() -> None:
    for seed in range(300):
        message = draw(random.Random(seed), "train", "sums with reasoning").conversation.messages[
            -1
        ]
        equations = [*(message.reasoning or "").split("\n"), message.content]
        for equation in equations:
            left, right = equation.replace(" ", "").split("=")
            total = sum(int(part) for part in left.replace("-", "+-").split("+"))
            assert total == int(right), equation


@pytest.fixture(scope="module")
def starter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starter")
    rng = random.Random(1)
    samples = [draw(rng, "train") for _ in range(300)]
    texts = [message.content for s in samples for message in s.conversation.messages]
    tokenizer = train_tokenizer(texts, 768)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(tokenizer_config(tokenizer), encoding="utf-8")
    template = (ROOT / "tools" / "starter" / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def test_tokenizer_is_qwen3s_but_for_its_vocabulary(starter_folder: Path) -> None:
    if not QWEN3.is_dir():
        pytest.skip("needs the real Qwen3 tokenizer in the folder shared beside the checkout")
    ours, real = (
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        for folder in (starter_folder, QWEN3)
    )
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        assert ours[part] == real[part]
    added = [
        [{k: v for k, v in token.items() if k != "id"} for token in file["added_tokens"]]
        for file in (ours, real)
    ]
    assert added[0] == added[1]


def test_tokenizer_keeps_every_text(starter_folder: Path) -> None:
    tokenizer = Tokenizer.load(starter_folder)
    for text in ("你好，世界！🤖", "x = 12345;\n\n\tend", "naïve café <think> 龘"):
        assert tokenizer.decode(tokenizer.encode_text(text)) == text


def test_chat_template_gives_the_renderers_text(starter_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(starter_folder)
    rng = random.Random(2)
    for number in range(200):
        sample = draw(rng, "train")
        kept = rng.randint(1, len(sample.conversation.messages))
        tools = sample.conversation.tools
        cut = Conversation(messages=sample.conversation.messages[:kept], tools=tools)
        prompt, thinking = number % 2 == 0, sample.thinks
        spans = render(
            cut, template="qwen3", enable_thinking=thinking, add_generation_prompt=prompt
        )
        text = tokenizer.apply_chat_template(
            [_entry(message) for message in cut.messages],
            tools=list(tools) or None,
            tokenize=False,
            add_generation_prompt=prompt,
            enable_thinking=thinking,
        )
        assert text == "".join(span.text for span in spans)


def _entry(message: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        entry["reasoning_content"] = message.reasoning
    if message.tool_calls:
        entry["tool_calls"] = [
            {"type": "function", "function": {"name": c.name, "arguments": dict(c.arguments)}}
            for c in message.tool_calls
        ]
    return entry


def test_demo_rows_can_be_read_and_held_out_ones_are_new() -> None:
    (data,) = find_datasets(str(FOLDER / "rows.json"), FOLDER, max_samples=None, seed=42)
    train = [row for row in data.rows() if isinstance(row, Row)]
    held_out = json.loads((FOLDER / "held_out.json").read_text(encoding="utf-8"))
    asked = {row.conversation.messages[-2].content for row in train}
    new = [row for row in held_out if row["kind"].startswith("new")]
    assert len(new) >= 60
    assert not asked & {row["instruction"] for row in new}
    kinds = [row["kind"] for row in held_out]
    assert min(kinds.count(kind) for kind in kinds) >= 20


def test_demo_rows_are_those_of_their_recipe() -> None:
    for name, make in FILES.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == as_file(make())
