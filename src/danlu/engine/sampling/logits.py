"""From logits to numbers: penalties, the largest of each row, which ids may be drawn, log
probabilities.

Shapes: V vocab_size; N rows. A single row is [V] fp32, and a changed row is a new tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.device.memory import sent
from danlu.engine.request import SamplingSettings, TokenLogprobs
from danlu.errors import DataError
from danlu.language import _
from danlu.ops import largest

# Qwen3 draws from 20; the rest is for ties, and for other settings.
_NUM_LARGEST = 64
HOTTEST = torch.finfo(torch.float32).max


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
                known = torch.tensor([*self._prompt, *self._answer], dtype=torch.long)
                self._seen.index_fill_(0, sent(known, row.device), True)
            changed = torch.where(row < 0, row * self._repetition, row / self._repetition)
            row = torch.where(self._seen, changed, row)
        if self._counts_answer:
            if self._counts is None:
                answer = torch.tensor(self._answer, dtype=torch.long)
                counts = torch.bincount(answer, minlength=row.shape[0]).to(row.dtype)
                self._counts = sent(counts, row.device)
            row = row - self._frequency * self._counts - self._presence * (self._counts > 0)
        return row

    def record(self, token: int) -> None:
        """Record the next token of the answer."""
        self._answer.append(token)
        if self._seen is not None:
            self._seen[token] = True
        if self._counts is not None:
            self._counts[token] += 1


class Largest:
    """The largest logits of each row, on the host after a single copy: most tokens need no more.

    rows: [N, V] to choose from. logits: [N, V], the model's own, of which it is kept whether they
    are finite.
    """

    def __init__(self, rows: Tensor, logits: Tensor) -> None:
        self._size = rows.shape[-1]
        values, ids = largest(rows, min(_NUM_LARGEST, self._size))
        # NaN and +infinity both show in the maximum.
        maxima = values[:, :1] if rows is logits else logits.amax(dim=-1, keepdim=True)
        self._values, self._ids, maxima = to_host(values, ids, maxima)
        self.is_finite: list[bool] = maxima.isfinite()[:, 0].tolist()

    def likeliest(self, place: int) -> int | None:
        """Return the first id of a row's largest logit; None where it cannot be told from here."""
        values = self._values[place]
        if self._is_cut(values, values[0]):
            return None
        return int(self._ids[place][values == values[0]].min())

    def candidates(self, place: int, settings: SamplingSettings) -> tuple[Tensor, Tensor] | None:
        """Return what `candidates` does of a row; None where it cannot be told from here."""
        values = self._values[place]
        if not 0 < settings.top_k <= len(values):
            return None
        last = values[settings.top_k - 1]
        if self._is_cut(values, last):
            return None
        ids, order = self._ids[place][values >= last].sort()
        return _narrowed(ids, values[values >= last][order], settings)

    def _is_cut(self, values: Tensor, least: Tensor) -> bool:
        """Whether a logit as large as `least` may stand behind those that are here."""
        return len(values) < self._size and bool(values[-1] >= least)


def to_host(*columns: Tensor) -> list[Tensor]:
    """Copy tensors [N, ...] of one N to the host at once: numbers as fp32, ids as int64."""
    packed = [
        column.to(torch.float32).view(torch.int32)
        if column.is_floating_point()
        else column.to(torch.int32)
        for column in columns
    ]
    parts = torch.cat(packed, dim=1).cpu().split([column.shape[1] for column in columns], dim=1)
    return [
        part.contiguous().view(torch.float32) if column.is_floating_point() else part.long()
        for part, column in zip(parts, columns, strict=True)
    ]


def candidates(row: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """Return the ids that may be drawn, ascending, and their scores (logits / temperature).

    At least one id remains; ids that tie with the last of top-k stay.
    """
    tokens = torch.arange(row.shape[0], device=row.device)
    if 0 < settings.top_k < row.shape[0]:
        tokens = torch.nonzero(row >= row.topk(settings.top_k).values[-1]).squeeze(1)
    return _narrowed(tokens, row[tokens], settings)


def _narrowed(tokens: Tensor, logits: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """Return those of some ids, ascending, that top-p and min-p leave, and their scores."""
    # The largest becomes 0, so that no temperature can lead to infinity; an infinite one would make
    # NaN of what is forbidden.
    scores = (logits - logits.max()) / min(settings.temperature, HOTTEST)
    if settings.top_p < 1.0:
        ascending, order = scores.sort(stable=True)  # of those alike larger ids stay, everywhere
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
    chosen = sent(torch.tensor(tokens, dtype=torch.long), rows.device)
    top = values.topk(min(count, values.shape[-1]), dim=-1)
    columns = to_host(values.gather(1, chosen[:, None]), top.indices, top.values)
    return [
        TokenLogprobs(token=token, logprob=own, top=tuple(zip(ids, likeliest, strict=True)))
        for token, (own,), ids, likeliest in zip(
            tokens, *(column.tolist() for column in columns), strict=True
        )
    ]


def not_finite() -> DataError:
    """Say that a model's logits are no numbers to choose by."""
    return DataError(
        _("The model computed numbers that are not finite."),
        why=_("Its output for this request holds NaN or infinity."),
        fix=_("Check the adapter and the model's files; training may have diverged."),
    )
