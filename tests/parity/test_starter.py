"""The shipped starter is a Qwen3 like any other, for transformers too, and keeps its promises."""

from __future__ import annotations

import random

import torch

from danlu.device.detect import select
from danlu.hub.load import load_model
from danlu.hub.names import STARTER, model_folder
from danlu.model.qwen3 import plain_linear
from danlu.text.render import render
from danlu.weights.sharded import WeightFolder
from tests.helpers.models.packed import packed_attention
from tools.starter.evaluate import ask, held_out
from tools.starter.skills import draw

CPU = select("cpu")


def test_limits_of_size_and_shape() -> None:
    loaded = load_model(STARTER, device=CPU)
    config = loaded.config
    assert sum(p.numel() for p in loaded.model.parameters()) <= 8_000_000
    assert WeightFolder(loaded.folder).num_bytes <= 16 * 2**20
    assert config.hidden_size % 64 == config.intermediate_size % 64 == config.vocab_size % 64 == 0
    assert config.head_dim in (64, 128)
    assert config.max_position_embeddings >= 4096
    assert 2000 <= config.vocab_size <= 6000


def test_transformers_loads_it_and_agrees() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(model_folder(STARTER), dtype=torch.float32)
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    tokenizer = AutoTokenizer.from_pretrained(model_folder(STARTER))
    ours = load_model(STARTER, device=CPU, dtype=torch.float32)
    rng = random.Random(5)
    for _ in range(8):
        sample = draw(rng, "eval")
        spans = render(
            sample.conversation,
            template="qwen3",
            enable_thinking=True,
            add_generation_prompt=False,
        )
        ids = ours.tokenizer.encode_spans(spans)
        text = "".join(span.text for span in spans)
        assert tokenizer(text)["input_ids"] == ids
        tokens = torch.tensor(ids)
        with torch.no_grad():
            expected = theirs(tokens[None]).logits[0]
            attend = packed_attention(ours.config, [len(ids)])
            hidden = ours.model(tokens, attend, plain_linear)
            logits = plain_linear(ours.model.head, "lm_head", hidden)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_it_knows_who_it_is_and_copies_unseen_names() -> None:
    loaded = load_model(STARTER, device=CPU)
    for skill, least in (("identity", 0.8), ("greeting", 0.8), ("tool call", 0.8)):
        answers = ask(loaded, held_out(skill, 20))
        assert sum(answer.is_right for answer in answers) >= least * len(answers), skill
