"""From logits to numbers: penalties, which ids may be drawn, log probabilities.

Shapes: V vocab_size; every row is [V] fp32, and a changed row is a new tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.engine.request import SamplingSettings, TokenLogprobs

_HOTTEST = torch.finfo(torch.float32).max


class Penalties:
    """Makes tokens less likely that the prompt (repetition) or the answer (all three) holds."""

    def __init__(self, settings: SamplingSettings, prompt: Sequence[int]) -> None:
        self._repetition = settings.repetition_penalty
        self._presence = settings.presence_penalty
        self._frequency = settings.frequency_penalty
        self._prompt = tuple(prompt)
        self._answer: list[int] = []
        self._seen: Tensor | None = None  # [V] bool: in the prompt or the answer
        self._counts: Tensor | None = None  # [V] fp32: how often in the answer

    @property
    def change_nothing(self) -> bool:
        """Whether every row stays as it is."""
        return self._repetition == 1.0 and not self._counts_answer

    @property
    def _counts_answer(self) -> bool:
        return self._presence != 0.0 or self._frequency != 0.0

    def apply(self, row: Tensor) -> Tensor:
        """Return the penalised row: repetition (Keskar et al. 2019, CTRL), frequency, presence."""
        if self._repetition != 1.0:
            if self._seen is None:
                self._seen = torch.zeros(row.shape, dtype=torch.bool, device=row.device)
                self._seen[[*self._prompt, *self._answer]] = True
            changed = torch.where(row < 0, row * self._repetition, row / self._repetition)
            row = torch.where(self._seen, changed, row)
        if self._counts_answer:
            if self._counts is None:
                answer = torch.tensor(self._answer, dtype=torch.long, device=row.device)
                self._counts = torch.bincount(answer, minlength=row.shape[0]).to(row.dtype)
            row = row - self._frequency * self._counts - self._presence * (self._counts > 0)
        return row

    def record(self, token: int) -> None:
        """Record the next token of the answer."""
        self._answer.append(token)
        if self._seen is not None:
            self._seen[token] = True
        if self._counts is not None:
            self._counts[token] += 1


def candidates(row: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """Return the ids that may be drawn, ascending, and their scores (logits / temperature).

    At least one id remains; ids that tie with the last of top-k stay.
    """
    tokens = torch.arange(row.shape[0], device=row.device)
    if 0 < settings.top_k < row.shape[0]:
        tokens = torch.nonzero(row >= row.topk(settings.top_k).values[-1]).squeeze(1)
    # The largest becomes 0, so that no temperature can lead to infinity; an infinite one would make
    # NaN of what is forbidden.
    scores = (row[tokens] - row.max()) / min(settings.temperature, _HOTTEST)
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


def token_logprobs(rows: Tensor, tokens: Sequence[int], count: int) -> list[TokenLogprobs]:
    """Return the log probability of a token in each row, and the `count` likeliest of the row.

    rows: [R, V], the model's own logits in its dtype, for R tokens.
    """
    values = rows.float().log_softmax(dim=-1)
    chosen = torch.tensor(tokens, dtype=torch.long, device=rows.device)
    top = values.topk(min(count, values.shape[-1]), dim=-1)
    columns = (
        values.gather(1, chosen[:, None])[:, 0].tolist(),
        top.indices.tolist(),
        top.values.tolist(),
    )
    return [
        TokenLogprobs(token=token, logprob=logprob, top=tuple(zip(ids, likeliest, strict=True)))
        for token, logprob, ids, likeliest in zip(tokens, *columns, strict=True)
    ]
