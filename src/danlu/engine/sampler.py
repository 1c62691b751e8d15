"""Chooses the next token of each request from its logits.

The order and the meaning of the settings are those of transformers' `generate`: repetition
penalty, temperature, top-k, top-p, min-p. Each request draws from its own generator, one number a
token, so its answer depends on its seed and not on who shares the batch.

Shapes: V vocab_size, N requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.engine.request import Request, SamplingSettings, TokenLogprobs


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A chosen token, and its log probability where that was asked for."""

    token: int
    logprobs: TokenLogprobs | None = None


class Sampler:
    """The choices of one request: its settings, its random numbers, the tokens it has seen."""

    def __init__(self, request: Request) -> None:
        settings, prompt = request.sampling, request.prompt
        self.settings = settings
        self.end_ids = request.end_token_ids
        self.is_complete = False
        # On the CPU whatever the device: the same seed gives the same numbers everywhere.
        self._generator = torch.Generator()
        if settings.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(settings.seed)
        self._prompt = tuple(prompt)
        self._seen: Tensor | None = None  # [V] bool, only where a repetition penalty needs it

    def penalised(self, logits: Tensor) -> Tensor:
        """Make tokens seen before less likely (Keskar et al. 2019, CTRL). logits: [V] fp32."""
        penalty = self.settings.repetition_penalty
        if penalty == 1.0:
            return logits
        if self._seen is None:
            self._seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
            self._seen[list(self._prompt)] = True
        changed = torch.where(logits < 0, logits * penalty, logits / penalty)
        return torch.where(self._seen, changed, logits)

    def draw(self, logits: Tensor) -> int:
        """Draw a token from penalised logits [V] fp32."""
        tokens, scores = candidates(logits, self.settings)
        # Candidates stand in the order of their ids: two of nearly equal probability cannot
        # change places through rounding, as they would in order of probability. In float64, so on
        # the CPU: NPUs have next to none.
        cumulated = scores.cpu().double().softmax(dim=0).cumsum(dim=0)
        chance = torch.rand((), dtype=torch.float64, generator=self._generator)
        place = torch.searchsorted(cumulated, chance * cumulated[-1], right=True)
        return int(tokens[min(int(place), tokens.shape[0] - 1)])

    def record(self, token: int) -> None:
        """Note a chosen token for the repetition penalty."""
        if self._seen is not None:
            self._seen[token] = True


def candidates(logits: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """Return the ids that may be drawn, ascending, and their scores (logits / temperature).

    logits: [V] fp32. At least one id remains; ids that tie with the last of top-k stay.
    """
    # The largest becomes 0, so that no temperature can lead to infinity.
    scores = (logits - logits.max()) / settings.temperature
    tokens = torch.arange(scores.shape[0], device=scores.device)
    if 0 < settings.top_k < scores.shape[0]:
        tokens = torch.nonzero(scores >= scores.topk(settings.top_k).values[-1]).squeeze(1)
        scores = scores[tokens]
    if settings.top_p < 1.0:
        ascending, order = scores.sort()
        keep = ascending.softmax(dim=0).cumsum(dim=0) > 1 - settings.top_p
        keep[-1] = True
        chosen = order[keep].sort().values
        tokens, scores = tokens[chosen], scores[chosen]
    if settings.min_p > 0.0:
        probabilities = scores.softmax(dim=0)
        kept = probabilities >= settings.min_p * probabilities.max()
        tokens, scores = tokens[kept], scores[kept]
    return tokens, scores


def sample(logits: Tensor, samplers: Sequence[Sampler]) -> list[Choice]:
    """Choose one token a row. logits: [N, V] in the model's dtype."""
    rows = [sampler.penalised(row) for row, sampler in zip(logits.float(), samplers, strict=True)]
    greedy = torch.stack(rows).argmax(dim=-1).tolist()
    tokens = [
        best if sampler.settings.greedy else sampler.draw(row)
        for row, sampler, best in zip(rows, samplers, greedy, strict=True)
    ]
    for sampler, token in zip(samplers, tokens, strict=True):
        sampler.record(token)
    return [Choice(token=token) for token in tokens]
