"""The sequence of one request: what its new tokens become as text, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from danlu.engine.request import Deliver, FinishReason, Output, PromptProgress, Request
from danlu.engine.sampling.prompt_lookup import PromptLookup
from danlu.engine.sampling.sampler import ChosenToken, Sampler
from danlu.engine.scheduler import TokenSequence
from danlu.text.detokenize import Detokenizer
from danlu.text.stop import StopFinder


@dataclass(kw_only=True, eq=False)
class RequestSequence(TokenSequence):
    """A request that runs or waits. deliver: gets its outputs.

    num_scored: how many tokens of the prompt, from the second on, have their log probabilities.
    """

    request: Request
    deliver: Deliver
    sampler: Sampler
    detokenizer: Detokenizer
    stops: StopFinder
    num_scored: int = 0
    lookup: PromptLookup = field(default_factory=PromptLookup)

    @property
    def is_read_whole(self) -> bool:
        """Whether log probabilities of the prompt are still wanted."""
        wanted = self.request.prompt_logprobs is not None
        return wanted and self.num_scored < len(self.request.prompt) - 1

    def unscored(self, num_tokens: int) -> tuple[int, Sequence[int]]:
        """Return which of the next tokens precede some whose log probabilities are wanted.

        The place of the first among the next `num_tokens`, and the tokens behind it and those
        that follow it. After a preemption tokens are computed again, but not scored again.
        """
        if not self.is_read_whole:
            return 0, ()
        first = max(self.num_scored, self.computed)
        end = min(self.computed + num_tokens, len(self.request.prompt) - 1)
        return first - self.computed, self.request.prompt[first + 1 : end + 1]

    @property
    def num_written(self) -> int:
        """Count the tokens of the answer."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def num_left(self) -> int:
        """How many tokens the answer may still get; what is admitted says how long it may be."""
        return (self.request.sampling.max_tokens or 0) - self.num_written

    @property
    def goes_on(self) -> bool:
        """Whether a token follows the one that is being chosen, unless that ends the answer."""
        return self.num_left > 1

    @property
    def progress(self) -> PromptProgress | None:
        """How much of the prompt is read; None where it is whole, or was before a preemption."""
        if self.num_written or not self.pending:
            return None
        return PromptProgress(num_read=self.computed, num_found=self.num_found)

    def accept(self, choice: ChosenToken) -> Output:
        """Append the next token; return the output that it makes."""
        token = choice.token
        self.tokens.append(token)
        logprobs = () if choice.logprobs is None else (choice.logprobs,)
        found = self.num_found if self.num_written == 1 else 0
        reason = self._end_by(token)
        piece = "" if token in self.sampler.end_ids else self.detokenizer.feed(token)
        text, stopped = self.stops.feed(piece)
        if stopped:
            reason = "stop"
        elif reason is not None:
            rest, reason = self._last(reason)
            text += rest
        return Output(
            request_id=self.id,
            tokens=(token,),
            text=text,
            logprobs=logprobs,
            cached_tokens=found,
            finish_reason=reason,
        )

    def abort(self) -> Output:
        """Return a last output with the text that was held back."""
        text, _reason = self._last("abort")
        return Output(request_id=self.id, text=text, finish_reason="abort")

    def _end_by(self, token: int) -> FinishReason | None:
        if token in self.sampler.end_ids or self.sampler.is_done:
            return "stop"
        return "length" if self.num_written == self.request.sampling.max_tokens else None

    def _last(self, reason: FinishReason) -> tuple[str, FinishReason]:
        """Return the text that was held back, unless it completes a stop text, and the reason."""
        text, stopped = self.stops.feed(self.detokenizer.finish())
        if stopped and reason == "length":
            reason = "stop"
        return text + self.stops.finish(), reason
