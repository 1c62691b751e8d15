"""Whether a merged model answers like its base and adapters side by side.

The two are computed in different ways: here the adapters' products are added to the base's, and
no weight is merged. Logits of a few prompts are compared. Knows nothing of files that are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.hub.load import LoadedModel
from danlu.hub.prompting import Prompting
from danlu.lora.stored import EMBEDDING, OUTPUT, Change
from danlu.model.attention import PackedAttention
from danlu.model.layout import layout
from danlu.model.qwen3 import (
    Head,
    Layer,
    Linear,
    empty_weight,
    product,
    projection_input,
    replace_weight,
)
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


class Unmerged(Linear):
    """Each product of a base model, and what adapters do to it, one after the other.

    changes: by Hugging Face's names. Embeddings, norms and whole modules are changed in the loaded
    model itself, which is of no other use then; of the embedding only the rows of `tokens`.
    """

    def __init__(
        self, base: LoadedModel, changes: Mapping[str, Sequence[Change]], tokens: Tensor
    ) -> None:
        model, device = base.model, base.device.torch_device
        output, embedding = f"{OUTPUT}.weight", f"{EMBEDDING}.weight"
        if base.config.tie_word_embeddings and {output, embedding} & set(changes):
            room = empty_weight(
                *model.embed_tokens.shape, device=device, dtype=model.embed_tokens.dtype
            )
            room.copy_(model.embed_tokens)
            replace_weight(model.head, "lm_head", room)
        self._changes = changes
        self._pieces = layout(base.config)
        weights = {**dict(model.hf_tensors()), output: model.head.lm_head.detach()}
        for name, several in changes.items():
            for change in several:
                if change.whole is not None:
                    weights[name].copy_(change.whole)
        for change in changes.get(embedding, ()):
            if change.a is not None and change.b is not None:
                ids = tokens.unique().cpu()
                added = (change.b[ids] @ change.a) * change.scaling
                weights[embedding][ids.to(device)] += added.to(device, base.dtype)

    def __call__(self, layer: Layer | Head, name: str, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        n = projection_input(layer, name, x)
        y = product(layer, name, n)
        weight: Tensor = getattr(layer, name)
        if isinstance(layer, Head):
            self._change(f"{OUTPUT}.weight", n, y, weight)
            return y
        for piece in self._pieces[f"layers.{layer.index}.{name}"]:
            rows = slice(piece.start, piece.start + piece.shape[0])
            self._change(piece.hf_name, n, y[:, rows], weight[rows])
        return y

    def _change(self, name: str, n: Tensor, y: Tensor, weight: Tensor) -> None:
        """Change the product y = n W^T of one weight in place."""
        for change in self._changes.get(name, ()):
            if change.a is None or change.b is None:
                continue
            a, b = (each.to(n.device, n.dtype) for each in (change.a, change.b))
            y += F.linear(F.linear(n, a) * change.scaling, b)
            if change.magnitude is not None:
                lengths = _row_lengths(weight.float(), a.float(), b.float(), change.scaling)
                y *= (change.magnitude.to(n.device) / lengths).to(y.dtype)


def _row_lengths(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Return the lengths [out] of the rows of W + scaling B A, without adding the matrices."""
    squares = weight.square().sum(1)
    mixed = (F.linear(weight, a) * b).sum(1)
    added = ((b @ (a @ a.t())) * b).sum(1)
    return (squares + 2 * scaling * mixed + scaling**2 * added).sqrt()


@torch.inference_mode()
def prompt_logits(loaded: LoadedModel, linear: Linear, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return the logits of every prompt token, fp32 [tokens, vocab] on the CPU."""
    device = loaded.device.torch_device
    tokens = torch.tensor([token for ids in prompts for token in ids], device=device)
    positions = torch.tensor([p for ids in prompts for p in range(len(ids))], device=device)
    attend = PackedAttention(loaded.config, positions, [len(ids) for ids in prompts])
    hidden = loaded.model(tokens, attend, linear)
    logits: Tensor = linear(loaded.model.head, "lm_head", hidden).float().cpu()
    return logits


def compare(expected: Tensor, logits: Tensor) -> tuple[float, float, float]:
    """Return the largest difference, the mean divergence and the share of equal top tokens."""
    before, after = F.log_softmax(expected, -1), F.log_softmax(logits, -1)
    kl = F.kl_div(after, before, log_target=True, reduction="none").sum(-1)
    same = (before.argmax(-1) == after.argmax(-1)).float()
    return float((expected - logits).abs().max()), float(kl.mean()), float(same.mean())
