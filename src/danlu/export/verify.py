"""Whether a merged model answers like its base and adapters side by side.

The two are computed in different ways: there the adapters' products are added to the base's, and no
weight is merged. Logits of a few prompts are compared. Knows nothing of files.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from danlu.hub.prompting import Prompting
from danlu.text.conversation import Conversation, Message
from danlu.text.render import render
from danlu.text.tokenizer import Tokenizer

VERIFICATION_PROMPTS = (
    "Who are you?",
    "你是谁？",
    "What is 17 + 25?",
    "请用一句话介绍你自己。",
    "Write a short poem about the sea.",
)


def probe_prompts(tokenizer: Tokenizer, prompting: Prompting) -> list[list[int]]:
    """Write the prompts as the model is prompted in use."""
    return [
        tokenizer.encode_spans(
            render(
                Conversation(messages=(Message(role="user", content=text),)),
                template=prompting.template,
                enable_thinking=prompting.enable_thinking,
            )
        )
        for text in VERIFICATION_PROMPTS
    ]


def compare(expected: Tensor, logits: Tensor) -> tuple[float, float, float]:
    """Return the largest difference, the mean divergence and the share of equal top tokens."""
    before, after = F.log_softmax(expected, -1), F.log_softmax(logits, -1)
    kl = F.kl_div(after, before, log_target=True, reduction="none").sum(-1)
    same = (before.argmax(-1) == after.argmax(-1)).float()
    return float((expected - logits).abs().max()), float(kl.mean()), float(same.mean())
