"""Chooses the next token of each request from its logits.

What happens to a row, in this order (vLLM's, whose last steps stand as in transformers'
`generate`):

1. a forced token (the end of a thought that used up its budget) is taken as it is;
2. tokens that the grammar excludes become impossible; then end tokens, before `min_tokens`;
3. logit_bias is added;
4. penalties: repetition, frequency, presence;
5. greedy takes the likeliest; otherwise temperature, top-k, top-p, min-p, and a draw.

Log probabilities are those of the model itself, before all of this. Each request draws from its own
generator, one number for each place of its answer, so the answer depends on its seed, not on who
shares the batch or on where a token is chosen: a device may do that by itself (`ops.draw`) for rows
of which no more is asked than the likeliest token or a draw from few.
What the host needs comes in one copy for the whole batch: the largest logits of each row. A row
that needs more (no top-k, say) asks again.

Shapes: V vocab_size of the model, which may exceed the tokenizer's; N requests.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.device.memory import sent
from danlu.engine.grammar_compiler import Guide
from danlu.engine.request import Request, SamplingSettings, TokenLogprobs
from danlu.engine.sampling.logits import (
    HOTTEST,
    Largest,
    Penalties,
    candidates,
    not_finite,
    token_logprobs,
)
from danlu.engine.sampling.thought import ThoughtTracker
from danlu.errors import UsageError
from danlu.language import _
from danlu.ops import MOST_DRAWN, Draw
from danlu.text.tokenizer import Tokenizer

# Random numbers that are made at once.
_CHANCES = 32


@dataclass(frozen=True, kw_only=True)
class ChosenToken:
    """A chosen token; logprobs only where they were asked for."""

    token: int
    logprobs: TokenLogprobs | None = None


class Sampler:
    """Chooses the tokens of one request: its settings, random numbers and tokens so far.

    request: an admitted one. vocab_size: the model's. guide: a new one for its grammar.
    """

    def __init__(
        self, request: Request, tokenizer: Tokenizer, *, vocab_size: int, guide: Guide | None = None
    ) -> None:
        settings = request.sampling
        self.settings = settings
        self._guide = guide
        self._bias = dict(settings.logit_bias)
        ends = settings.stop_token_ids
        if not settings.ignore_eos:
            ends |= request.end_token_ids
        self._ends = sorted(end for end in ends if end < vocab_size)
        self.end_ids = frozenset(self._ends)
        self._penalties = Penalties(settings, request.prompt)
        self._thought = ThoughtTracker(
            request.thinking,
            is_blank=lambda token: tokenizer.decode([token]).isspace(),
            answer_is_bound=guide is not None,
        )
        self._num_chosen = 0
        # Whether the model's own logits are what is chosen by, once the answer may end.
        self._is_plain = guide is None and not self._bias and self._penalties.change_nothing
        self._draw = _plain_draw(settings) if self._is_plain else None
        # On the CPU whatever the device: the same seed gives the same numbers everywhere.
        self._chances = array("d")
        self._generator = torch.Generator()
        if settings.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(settings.seed)

    @property
    def is_done(self) -> bool:
        """Whether the grammar is complete: nothing may follow, so the answer ends here."""
        return self._guide is not None and self._thought.in_answer and self._guide.is_complete

    @property
    def forced(self) -> int | None:
        """The next token where it is not chosen by its logit."""
        return self._thought.forced

    @property
    def changes_nothing(self) -> bool:
        """Whether the next token is chosen by the model's own logits."""
        return self._is_plain and self._num_chosen >= self.settings.min_tokens

    def draw_of(self, ahead: int) -> Draw | None:
        """Return what a device needs to choose the token behind the next `ahead` by itself.

        None where it takes the host, or may take it once those tokens are known.
        """
        number = self._num_chosen + ahead
        if self._draw is None or number < self.settings.min_tokens:
            return None
        if self._thought.may_force(ahead):
            return None
        if self._draw.top_k == 0:
            return self._draw
        return Draw(*self._draw[:-1], self._chance(number))

    def choose(self, largest: Largest, place: int, row: Tensor) -> int:
        """Choose the next token of a changed row, [V], whose largest logits are on the host."""
        if self.forced is not None:
            return self.forced
        if self.settings.greedy:
            likeliest = largest.likeliest(place)
            return int(row.argmax()) if likeliest is None else likeliest
        found = largest.candidates(place, self.settings)
        return self.draw(row.float()) if found is None else self._draw_of(*found)

    def changed(self, row: Tensor) -> Tensor:
        """Return the row with masks, bias and penalties. row: [V] fp32."""
        too_early = self._num_chosen < self.settings.min_tokens
        if self._guide is None:
            if too_early:
                row = row.index_fill(0, _long(self._ends, row), -torch.inf)
        elif self._thought.in_answer:
            allowed = self._allowed(self._guide, row.shape[0], too_early)
            row = row.masked_fill(sent(~allowed, row.device), -torch.inf)
        else:  # an answer that ended inside its thought would have escaped the grammar
            row = row.index_fill(0, _long(self._ends, row), -torch.inf)
        if self._bias:
            bias = torch.tensor(list(self._bias.values()), dtype=row.dtype)
            row = row.index_add(0, _long(list(self._bias), row), sent(bias, row.device))
        return self._penalties.apply(row)

    def draw(self, row: Tensor) -> int:
        """Draw a token from a changed row [V] fp32."""
        return self._draw_of(*candidates(row, self.settings))

    def _draw_of(self, tokens: Tensor, scores: Tensor) -> int:
        # Candidates stand in the order of their ids: two of nearly equal probability cannot
        # change places through rounding, as they would in order of probability. In float64, so on
        # the CPU: NPUs have next to none.
        cumulated = scores.cpu().double().softmax(dim=0).cumsum(dim=0)
        chance = self._chance(self._num_chosen)
        place = torch.searchsorted(cumulated, chance * cumulated[-1], right=True)
        # Where rounding leads past the end: the last one that is possible at all.
        last = torch.searchsorted(cumulated, cumulated[-1])
        return int(tokens[min(int(place), int(last))])

    def _chance(self, number: int) -> float:
        """Return the random number of a token of the answer: that of the seed and its place."""
        while number >= len(self._chances):
            more = torch.rand(_CHANCES, dtype=torch.float64, generator=self._generator)
            self._chances.extend(more.tolist())
        return self._chances[number]

    def record(self, token: int) -> None:
        """Record the chosen token: grammar, thought and penalties move on."""
        if self._guide is not None and self._thought.in_answer and token not in self._ends:
            self._guide.accept(token)
        self._thought.record(token)
        self._penalties.record(token)
        self._num_chosen += 1

    def _allowed(self, guide: Guide, vocab_size: int, too_early: bool) -> Tensor:
        """Return which tokens the grammar allows: [V] bool on the CPU."""
        allowed = torch.zeros(vocab_size, dtype=torch.bool)
        by_grammar, may_end = guide.allowed()
        allowed[: by_grammar.shape[0]] = by_grammar[:vocab_size]
        if may_end:
            allowed[self._ends] = True
        if too_early:
            going_on = allowed.clone()
            going_on[self._ends] = False
            # A text that the grammar lets grow no longer may end before min_tokens.
            allowed = going_on if going_on.any() else allowed
        if not allowed.any():
            raise UsageError(
                _("The answer is complete, and nothing may end it."),
                why=_("The grammar allows no further text, and the request has no end token."),
                fix=_("Use a grammar that allows some text."),
            )
        return allowed


def sample(logits: Tensor, samplers: Sequence[Sampler]) -> list[ChosenToken | Exception]:
    """Choose and record one token a row. logits: [N, V] in the model's dtype.

    A row that fails, as a grammar can, returns its error and does not affect the others: DataError
    where its logits are not finite. Where this itself raises, nothing is recorded.
    """
    tokens = _each(logits, samplers)
    return _recorded(samplers, tokens, _logprobs(logits, samplers, tokens))


def drawn(chosen: Tensor, samplers: Sequence[Sampler]) -> list[ChosenToken | Exception]:
    """Record what a device has chosen by itself, as `sample` does. chosen: what `ops.draw` gave."""
    tokens: list[int | Exception] = [
        token if is_finite else not_finite()
        for token, is_finite in zip(*chosen.tolist(), strict=True)
    ]
    return _recorded(samplers, tokens, {})


def _recorded(
    samplers: Sequence[Sampler],
    tokens: Sequence[int | Exception],
    logprobs: Mapping[int, TokenLogprobs],
) -> list[ChosenToken | Exception]:
    """Tell each row its token; an error takes the place of a token that it cannot be told."""
    chosen: list[ChosenToken | Exception] = []
    for place, (sampler, token) in enumerate(zip(samplers, tokens, strict=True)):
        if isinstance(token, Exception):
            chosen.append(token)
            continue
        try:
            sampler.record(token)
        except Exception as problem:
            chosen.append(problem)
        else:
            chosen.append(ChosenToken(token=token, logprobs=logprobs.get(place)))
    return chosen


def _plain_draw(settings: SamplingSettings) -> Draw | None:
    """Return what a device is asked where nothing changes the logits; None: it cannot do that."""
    if settings.logprobs is not None:
        return None
    if settings.greedy:
        return Draw()
    if not 1 <= settings.top_k <= MOST_DRAWN:
        return None
    temperature = min(settings.temperature, HOTTEST)
    return Draw(temperature, settings.top_k, settings.top_p, settings.min_p)


def _each(logits: Tensor, samplers: Sequence[Sampler]) -> list[int | Exception]:
    """Choose for each row by its own settings."""
    rows, failed = logits, dict[int, Exception]()
    for place, sampler in enumerate(samplers):
        if sampler.changes_nothing or sampler.forced is not None:
            continue
        try:
            changed = sampler.changed(logits[place].float())
        except Exception as problem:
            failed[place] = problem
        else:
            rows = logits.to(torch.float32, copy=True) if rows is logits else rows
            rows[place] = changed
    largest = Largest(rows, logits)
    chosen: list[int | Exception] = []
    for place, sampler in enumerate(samplers):
        try:
            if not largest.is_finite[place]:
                raise not_finite()
            if place in failed:
                raise failed[place]
            chosen.append(sampler.choose(largest, place, rows[place]))
        except Exception as problem:
            chosen.append(problem)
    return chosen


def _logprobs(
    logits: Tensor, samplers: Sequence[Sampler], chosen: Sequence[int | Exception]
) -> dict[int, TokenLogprobs]:
    """Return log probabilities, by row, where they are wanted: by the model's own logits."""
    wanted: dict[int, dict[int, int]] = {}  # by their number of alternatives
    for place, (sampler, token) in enumerate(zip(samplers, chosen, strict=True)):
        count = sampler.settings.logprobs
        if count is not None and isinstance(token, int):
            wanted.setdefault(count, {})[place] = token
    found: dict[int, TokenLogprobs] = {}
    for count, tokens in wanted.items():
        rows = logits.index_select(0, _long(list(tokens), logits))
        entries = token_logprobs(rows, list(tokens.values()), count)
        found |= zip(tokens, entries, strict=True)
    return found


def _long(ids: Sequence[int], like: Tensor) -> Tensor:
    return sent(torch.tensor(ids, dtype=torch.long), like.device)
