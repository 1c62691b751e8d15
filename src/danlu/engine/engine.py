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
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from danlu.engine.answer import Answer
from danlu.engine.blocks import BlockPool, Contents
from danlu.engine.cache import BlockCache, CachedAttention, Segment, default_tokens
from danlu.engine.grammar import GrammarCompiler
from danlu.engine.request import Output, Request, RequestId
from danlu.engine.sampler import Sampler, sample
from danlu.engine.scheduler import Scheduler, Share, Track
from danlu.engine.stop import StopFinder
from danlu.errors import DataError, UsageError
from danlu.language import _
from danlu.lora.adapter import Adapter
from danlu.lora.bank import AdapterBank
from danlu.model.qwen3 import Qwen3
from danlu.text.detokenize import Detokenizer
from danlu.text.tokenizer import Tokenizer

# An answer without `max_tokens` ends here: Qwen3's recommended output length.
DEFAULT_MAX_TOKENS = 32_768
BLOCK_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What an engine is doing. cache_usage: the share of its blocks that requests use."""

    num_running: int
    num_waiting: int
    cache_usage: float
    num_preemptions: int


class Engine:
    """Runs requests on one model.

    prompt_tokens_per_step: how much of the waiting prompts one step reads; less keeps running
    answers smoother, more reads prompts faster. num_requests: how many run at once. cache_tokens:
    how many tokens all of them may hold together; None takes what free memory suggests.
    """

    def __init__(
        self,
        model: Qwen3,
        tokenizer: Tokenizer,
        *,
        prompt_tokens_per_step: int = 512,
        num_requests: int = 64,
        cache_tokens: int | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        weight = model.embed_tokens
        if cache_tokens is None:
            cache_tokens = default_tokens(model.config, weight.device, weight.dtype)
        num_blocks = -(-cache_tokens // BLOCK_TOKENS)
        self._cache = BlockCache(
            model.config,
            num_blocks=num_blocks,
            block_tokens=BLOCK_TOKENS,
            device=weight.device,
            dtype=weight.dtype,
        )
        self._pool = BlockPool(num_blocks, BLOCK_TOKENS)
        self._scheduler = Scheduler(
            self._pool, prompt_tokens=prompt_tokens_per_step, num_requests=num_requests
        )
        # What an adapter computes continues only what it has computed itself.
        self._plain_root = self._pool.new_root()
        self._roots: WeakKeyDictionary[Adapter, Contents] = WeakKeyDictionary()
        self._grammars = GrammarCompiler(tokenizer)
        self._answers: dict[RequestId, Answer] = {}
        self._next_id = 0
        self._streams: dict[RequestId, deque[Output]] = {}
        self._ready: list[Output] = []

    @property
    def num_unfinished(self) -> int:
        """Count the requests that are running or waiting."""
        return len(self._answers)

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._answers and not self._ready

    @property
    def context_tokens(self) -> int:
        """The longest prompt and answer together."""
        return min(self._model.config.max_position_embeddings, self._pool.num_blocks * BLOCK_TOKENS)

    def figures(self) -> Figures:
        """Say what is going on."""
        return Figures(
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
            cache_usage=self._pool.num_used / self._pool.num_blocks,
            num_preemptions=self._scheduler.num_preemptions,
        )

    def prepare(self, request: Request) -> None:
        """Compile a request's grammar, which may take long; any thread may do so before `add`.

        Raises UsageError for a grammar that cannot be used.
        """
        if request.sampling.grammar is not None:
            self._grammars.guide(request.sampling.grammar)

    def add(self, request: Request) -> RequestId:
        """Queue a request; its outputs come from `step`.

        Raises UsageError where prompt and answer exceed the context, DataError for an empty prompt
        or ids outside the vocabulary.
        """
        max_tokens = self._checked_max_tokens(request)
        request_id = RequestId(self._next_id)
        root = self._plain_root
        if request.adapter is not None:
            root = self._roots.setdefault(request.adapter, self._pool.new_root())
        track = Track(id=request_id, tokens=list(request.prompt), root=root)
        answer = Answer(
            request=request,
            track=track,
            max_tokens=max_tokens,
            sampler=self._sampler(request),
            detokenizer=Detokenizer(self._tokenizer),
            stops=StopFinder(request.sampling.stop),
        )
        self._next_id += 1
        self._answers[request_id] = answer
        self._scheduler.add(track)
        return request_id

    def _sampler(self, request: Request) -> Sampler:
        grammar = request.sampling.grammar
        return Sampler(
            request,
            self._tokenizer,
            vocab_size=self._model.config.vocab_size,
            guide=None if grammar is None else self._grammars.guide(grammar),
        )

    def step(self) -> list[Output]:
        """Compute one step and return its outputs, those of `stream` excepted.

        A request that fails ends with finish_reason "error"; the others go on.
        """
        self._advance()
        ready, self._ready = self._ready, []
        return ready

    def abort(self, request_id: RequestId) -> None:
        """End a request now and free its memory; a finished or unknown one is left alone."""
        answer = self._answers.get(request_id)
        if answer is not None:
            self._deliver(answer.abort())

    def forget(self, adapter: Adapter) -> None:
        """Give up what is kept of an adapter that no new request will use."""
        root = self._roots.pop(adapter, None)
        if root is not None:
            self._pool.forget(root)

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

    def check_invariants(self) -> None:
        """Assert what must hold between two steps; for tests."""
        self._scheduler.check_invariants()
        in_schedule = self._scheduler.num_running + self._scheduler.num_waiting
        assert in_schedule == len(self._answers)
        assert self._answers or self._pool.num_used == 0

    def _deliver(self, output: Output) -> None:
        if output.finish_reason is not None:
            track = self._answers.pop(output.request_id).track
            # What a failing request has computed may be wrong: nobody shall find it.
            self._scheduler.remove(track, trusted=output.error is None)
        self._streams.get(output.request_id, self._ready).append(output)

    def _advance(self) -> None:
        shares = self._scheduler.plan()
        if not shares:
            return
        # Requests of one adapter stand together, so that the bank computes each adapter once.
        shares.sort(key=lambda share: id(self._answers[share.track.id].request.adapter))
        try:
            logits = self._forward(shares)
        except Exception as problem:
            self._advance_alone(shares, problem)
        else:
            self._complete(shares, logits)

    def _advance_alone(self, shares: Sequence[Share], problem: Exception) -> None:
        """Repeat a failed step one request at a time: only the one at fault fails again."""
        for share in shares:
            if len(shares) == 1:
                self._fail(self._answers[share.track.id], problem)
                return
            try:
                logits = self._forward([share])
            except Exception as own_problem:
                self._fail(self._answers[share.track.id], own_problem)
            else:
                self._complete([share], logits)

    @torch.inference_mode()
    def _forward(self, shares: Sequence[Share]) -> Tensor:
        """Compute the batch; return logits [N, V] for the requests that are due a token."""
        model = self._model
        segments: list[Segment] = []
        ids: list[int] = []
        last: list[int] = []
        for share in shares:
            track, start = share.track, share.track.computed
            segments.append(Segment(blocks=track.blocks, computed=start, new=share.tokens))
            ids += track.tokens[start : start + share.tokens]
            if share.tokens == track.pending:
                last.append(len(ids) - 1)
        attend = CachedAttention(model.config, self._cache, segments)
        by_adapter = groupby(
            shares, key=lambda share: self._answers[share.track.id].request.adapter
        )
        linear = AdapterBank(
            [(adapter, sum(share.tokens for share in group)) for adapter, group in by_adapter]
        )
        device = self._cache.device
        hidden = model(torch.tensor(ids, device=device), attend, linear)  # [T, H]
        if len(last) < len(ids):
            hidden = hidden[torch.tensor(last, dtype=torch.long, device=device)]
        return linear(model.head, "lm_head", hidden)

    def _complete(self, shares: list[Share], logits: Tensor) -> None:
        """Count what was computed, and choose the tokens that are due."""
        self._scheduler.commit(shares)
        due = [self._answers[share.track.id] for share in shares if share.track.pending == 0]
        if due:
            self._choose(due, logits)

    @torch.inference_mode()
    def _choose(self, due: Sequence[Answer], logits: Tensor) -> None:
        """Choose a token for each row of logits and deliver what comes of it."""
        # NaN and +infinity both show in the maximum, one pass over the vocabulary.
        valid = torch.isfinite(logits.amax(dim=-1)).tolist()
        for answer, is_valid in zip(due, valid, strict=True):
            if not is_valid:
                self._fail(answer, _not_finite())
        if not all(valid):
            rows = [row for row, is_valid in enumerate(valid) if is_valid]
            due, logits = [due[row] for row in rows], logits[rows]
        if not due:
            return
        choices = sample(logits, [answer.sampler for answer in due])
        for answer, choice in zip(due, choices, strict=True):
            if isinstance(choice, Exception):
                self._fail(answer, choice)
                continue
            try:
                output = answer.accept(choice)
            except Exception as problem:
                self._fail(answer, problem)
            else:
                self._deliver(output)

    def _fail(self, answer: Answer, problem: Exception) -> None:
        self._deliver(Output(request_id=answer.id, finish_reason="error", error=problem))

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
        left = self.context_tokens - len(prompt)
        wanted = request.sampling.max_tokens
        if left < (wanted or 1):
            raise UsageError(
                _("Prompt and answer do not fit into the model's context."),
                why=_(
                    "The prompt has {prompt} tokens, the answer may have {answer}; "
                    "there is room for {context} (max_position_embeddings, or what memory allows)."
                ).format(prompt=len(prompt), answer=wanted or 1, context=self.context_tokens),
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
