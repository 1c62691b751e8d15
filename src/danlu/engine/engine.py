"""The inference engine: requests in, tokens and text out, all running requests in one batch.

One thread calls it; it starts none. Each step computes, in one packed forward pass, the next token
of every answer and a chunk of the prompts that wait. Knows token ids, adapters and the tokenizer's
text pieces. Must not know messages, templates, files or HTTP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from danlu.engine.cache import CachedAttention, KeyValueCache
from danlu.engine.request import FinishReason, Output, Request, RequestId
from danlu.engine.sampler import Sampler, sample
from danlu.engine.scheduler import plan_step
from danlu.engine.stop import StopFinder
from danlu.errors import DataError, UsageError
from danlu.language import _
from danlu.lora.bank import AdapterBank
from danlu.model.qwen3 import Qwen3
from danlu.text.detokenize import Detokenizer
from danlu.text.tokenizer import Tokenizer

# An answer without `max_tokens` ends here: Qwen3's recommended output length.
DEFAULT_MAX_TOKENS = 32_768


@dataclass(kw_only=True, eq=False)
class _Running:
    """One request on its way; `tokens` are the prompt and what was chosen so far."""

    id: RequestId
    request: Request
    tokens: list[int]
    max_tokens: int
    cache: KeyValueCache
    sampler: Sampler
    detokenizer: Detokenizer
    stops: StopFinder

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.cache.length

    @property
    def num_answered(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    def accept(self, token: int) -> Output:
        """Take the next token and say what becomes of it."""
        self.tokens.append(token)
        if token in self.request.end_token_ids:
            return self.finish("stop", tokens=(token,))
        text, stopped = self.stops.feed(self.detokenizer.feed(token))
        if stopped:
            return Output(request_id=self.id, tokens=(token,), text=text, finish_reason="stop")
        if self.num_answered == self.max_tokens:
            return self.finish("length", tokens=(token,), text=text)
        return Output(request_id=self.id, tokens=(token,), text=text)

    def finish(
        self, reason: FinishReason, *, tokens: tuple[int, ...] = (), text: str = ""
    ) -> Output:
        """End the answer with the text that was held back, unless that completes a stop text."""
        last, stopped = self.stops.feed(self.detokenizer.finish())
        if stopped and reason == "length":
            reason = "stop"
        text += last + self.stops.finish()
        return Output(request_id=self.id, tokens=tokens, text=text, finish_reason=reason)


class Engine:
    """Runs requests on one model.

    prompt_tokens_per_step: how much of the waiting prompts one step reads; less keeps running
    answers smoother, more reads prompts faster. num_requests: how many run at once.
    """

    def __init__(
        self,
        model: Qwen3,
        tokenizer: Tokenizer,
        *,
        prompt_tokens_per_step: int = 1024,
        num_requests: int = 64,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._prompt_tokens_per_step = prompt_tokens_per_step
        self._num_requests = num_requests
        self._running: dict[RequestId, _Running] = {}
        self._next_id = 0
        self._streams: dict[RequestId, deque[Output]] = {}
        self._ready: list[Output] = []

    @property
    def num_unfinished(self) -> int:
        """Count the requests that are running or waiting."""
        return len(self._running)

    def add(self, request: Request) -> RequestId:
        """Queue a request; its outputs come from `step`.

        Raises UsageError where prompt and answer exceed the model's context, DataError for an
        empty prompt or ids outside the vocabulary.
        """
        max_tokens = self._checked_max_tokens(request)
        request_id = RequestId(self._next_id)
        self._next_id += 1
        weight = self._model.embed_tokens
        self._running[request_id] = _Running(
            id=request_id,
            request=request,
            tokens=list(request.prompt),
            max_tokens=max_tokens,
            cache=KeyValueCache(
                self._model.config,
                max_tokens=len(request.prompt) + max_tokens,
                device=weight.device,
                dtype=weight.dtype,
            ),
            sampler=Sampler(request.sampling, request.prompt),
            detokenizer=Detokenizer(self._tokenizer),
            stops=StopFinder(request.sampling.stop),
        )
        return request_id

    def step(self) -> list[Output]:
        """Compute one step and return its outputs, those of `stream` excepted.

        A request that fails ends with finish_reason "error"; the others go on.
        """
        self._advance()
        ready, self._ready = self._ready, []
        return ready

    def abort(self, request_id: RequestId) -> None:
        """End a request now and free its memory; a finished or unknown one is left alone."""
        running = self._running.get(request_id)
        if running is not None:
            self._deliver(running.finish("abort"))

    def stream(self, request: Request) -> Generator[Output, None, None]:
        """Yield the outputs of one request; it is added when the iteration starts.

        Other requests advance with it, and their outputs are kept for them. Closing the iterator
        aborts the request. Raises what `add` raises, and the error of a request that fails.
        """
        request_id = self.add(request)
        outputs = self._streams[request_id] = deque()
        try:
            while True:
                while not outputs:
                    self._advance()
                output = outputs.popleft()
                if output.error is not None:
                    raise output.error
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            self.abort(request_id)
            del self._streams[request_id]

    def _deliver(self, output: Output) -> None:
        if output.finish_reason is not None:
            del self._running[output.request_id]
        self._streams.get(output.request_id, self._ready).append(output)

    def _advance(self) -> None:
        pending = [(running.id, running.pending) for running in self._running.values()]
        shares = plan_step(
            pending,
            prompt_tokens=self._prompt_tokens_per_step,
            num_requests=self._num_requests,
        )
        batch = [(self._running[share.request_id], share.tokens) for share in shares]
        # Requests of one adapter stand together, so that the bank computes each adapter once.
        batch.sort(key=lambda part: id(part[0].request.adapter))
        if not batch:
            return
        try:
            logits = self._forward(batch)
        except Exception as problem:
            self._advance_alone(batch, problem)
        else:
            self._choose([part for part, _tokens in batch if part.pending == 0], logits)

    def _advance_alone(self, batch: Sequence[tuple[_Running, int]], problem: Exception) -> None:
        """Repeat a failed step one request at a time: only the one at fault fails again."""
        for running, tokens in batch:
            if len(batch) == 1:
                self._fail(running, problem)
                return
            try:
                logits = self._forward([(running, tokens)])
            except Exception as own_problem:
                self._fail(running, own_problem)
            else:
                self._choose([running] if running.pending == 0 else [], logits)

    @torch.inference_mode()
    def _forward(self, batch: Sequence[tuple[_Running, int]]) -> Tensor:
        """Compute the batch; return logits [N, V] for the requests that are due a token."""
        model = self._model
        attend = CachedAttention(model.config, [(part.cache, n) for part, n in batch])
        by_adapter = groupby(batch, key=lambda part: part[0].request.adapter)
        linear = AdapterBank(
            [(adapter, sum(n for _part, n in group)) for adapter, group in by_adapter]
        )
        ids: list[int] = []
        last: list[int] = []
        for part, tokens in batch:
            start = part.cache.length
            ids += part.tokens[start : start + tokens]
            if tokens == part.pending:
                last.append(len(ids) - 1)
        device = model.embed_tokens.device
        hidden = model(torch.tensor(ids, device=device), attend, linear)  # [T, H]
        logits = linear(model.head, "lm_head", hidden[torch.tensor(last, device=device).long()])
        attend.commit()
        return logits

    @torch.inference_mode()
    def _choose(self, due: Sequence[_Running], logits: Tensor) -> None:
        """Choose a token for each row of logits and deliver what comes of it."""
        # NaN and +infinity both show in the maximum, one pass over the vocabulary.
        valid = torch.isfinite(logits.amax(dim=-1)).tolist()
        for running, is_valid in zip(due, valid, strict=True):
            if not is_valid:
                self._fail(running, _not_finite())
        rows = [row for row, is_valid in enumerate(valid) if is_valid]
        if not rows:
            return
        kept = [due[row] for row in rows]
        tokens = sample(logits[rows], [running.sampler for running in kept])
        for running, token in zip(kept, tokens, strict=True):
            self._deliver(running.accept(token))

    def _fail(self, running: _Running, problem: Exception) -> None:
        self._deliver(Output(request_id=running.id, finish_reason="error", error=problem))

    def _checked_max_tokens(self, request: Request) -> int:
        prompt, config = request.prompt, self._model.config
        if not prompt:
            raise UsageError(
                _("The prompt is empty."),
                why=_("The model needs at least one token to continue."),
                fix=_("Give a prompt."),
            )
        if not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
            raise DataError(
                _("The prompt holds token ids that the model does not have."),
                why=_("Ids go from {low} to {high}; vocab_size in config.json is {size}.").format(
                    low=min(prompt), high=max(prompt), size=config.vocab_size
                ),
                fix=_("Use the tokenizer.json that came with this model."),
            )
        left = config.max_position_embeddings - len(prompt)
        wanted = request.sampling.max_tokens
        if left < (wanted or 1):
            raise UsageError(
                _("Prompt and answer do not fit into the model's context."),
                why=_(
                    "The prompt has {prompt} tokens, the answer may have {answer}; "
                    "max_position_embeddings in config.json is {context}."
                ).format(
                    prompt=len(prompt),
                    answer=wanted or 1,
                    context=config.max_position_embeddings,
                ),
                fix=_("Shorten the prompt, or set --max_tokens to {left} or less.").format(
                    left=left
                )
                if left > 0
                else _("Shorten the prompt, or start a new conversation."),
            )
        return wanted or min(left, DEFAULT_MAX_TOKENS)


def _not_finite() -> DataError:
    return DataError(
        _("The model computed numbers that are not finite."),
        why=_("Its output for this request holds NaN or infinity."),
        fix=_("Check the adapter and the model's files; training may have diverged."),
    )
