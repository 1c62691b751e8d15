"""The inference engine: requests in, tokens and text out, all running requests in one batch.

One thread calls it; it starts none. Each step computes, in one packed forward pass, the next token
of every answer and a chunk of the prompts that wait. Knows token ids, adapters and the tokenizer's
text pieces. Must not know messages, templates, files or HTTP.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from danlu.device.arriving import Arriving
from danlu.engine.admission import admitted
from danlu.engine.blocks import BlockPool, Contents
from danlu.engine.cache import CachedAttention, default_tokens, empty_cache
from danlu.engine.grammar_compiler import GrammarCompiler
from danlu.engine.graphs import DecodingGraphs
from danlu.engine.request import Deliver, Output, Request, RequestId, TokenLogprobs
from danlu.engine.sampling.logits import not_finite, token_logprobs
from danlu.engine.sampling.prompt_lookup import MOST_TRIED
from danlu.engine.sampling.sampler import ChosenToken, Sampler
from danlu.engine.scheduler import Scheduler
from danlu.engine.sequence import RequestSequence
from danlu.engine.step_in_flight import Scores, StepInFlight
from danlu.engine.step_inputs import Step, StepInputs
from danlu.engine.step_linears import Batch, StepLinears
from danlu.lora.adapter import Adapter
from danlu.lora.stack import MOST_STACKED
from danlu.model.attention import rotary_table_of
from danlu.model.quantized import floats_bytes
from danlu.model.qwen3 import Linear, Qwen3
from danlu.ops import Draw, cache_of, draw, draws_at_once, draws_rows, recorder_for
from danlu.text.detokenize import Detokenizer
from danlu.text.stop import StopFinder
from danlu.text.tokenizer import Tokenizer

# Rows of logits that are held at once for the log probabilities of prompts: with Qwen3's vocabulary
# 20 MB in float32.
_SCORED_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What an engine is doing. cache_usage: the share of its blocks that requests use.

    num_tried: tokens that were tried because they had followed before; num_taken: those of them
    that were chosen.
    """

    num_running: int
    num_waiting: int
    cache_usage: float
    num_preemptions: int
    num_tried: int = 0
    num_taken: int = 0


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
        if cache_tokens is None:
            cache_tokens = default_tokens(
                model.config,
                model.device,
                model.dtype,
                step_tokens=prompt_tokens_per_step + num_requests,
                rows=num_requests,
                floats=floats_bytes(model),
            )
        kind = cache_of(model.device)
        num_blocks = -(-cache_tokens // kind.block_tokens)
        self._pool = BlockPool(num_blocks, kind.block_tokens)
        scratch = num_blocks  # one more, for the filler of a step
        self._cache = empty_cache(
            model.config, num_blocks + 1, device=model.device, dtype=model.dtype
        )
        # Recorded steps read it where it is, so that it must live as long as they do.
        self._rotary_table = rotary_table_of(
            model.config, self.context_tokens, model.device, model.dtype
        )
        self._inputs = StepInputs(
            kind,
            max_tokens=prompt_tokens_per_step + num_requests,
            max_requests=num_requests,
            max_blocks=-(-self.context_tokens // kind.block_tokens),
            max_groups=1 + MOST_STACKED,
            scratch=scratch,
            device=model.device,
        )
        self._num_tried = self._num_taken = 0
        self._most_tried = MOST_TRIED
        self._linears = StepLinears(model)
        self._graphs = DecodingGraphs(recorder_for(model.dtype, model.device))
        self._scheduler: Scheduler[RequestSequence] = Scheduler(
            self._pool, prompt_tokens=prompt_tokens_per_step, num_requests=num_requests
        )
        # What an adapter computes continues only what it has computed itself, for the same owner.
        self._plain_roots: dict[str, Contents] = {}
        self._roots: WeakKeyDictionary[Adapter, dict[str, Contents]] = WeakKeyDictionary()
        self._grammars = GrammarCompiler(tokenizer)
        self._sequences: dict[RequestId, RequestSequence] = {}
        self._draws_rows = draws_rows(model.device)
        self._draws_at_once = draws_at_once(model.device)
        # Started, and not read yet, between two calls of `step`.
        self._flight: StepInFlight | None = None
        self._ids = itertools.count()

    @property
    def num_unfinished(self) -> int:
        """Count the requests that are running or waiting."""
        return len(self._sequences)

    @property
    def context_tokens(self) -> int:
        """The longest prompt and answer together."""
        num_cached = self._pool.num_blocks * self._pool.block_tokens
        return min(self._model.config.max_position_embeddings, num_cached)

    def figures(self) -> Figures:
        """Return what the engine is doing."""
        return Figures(
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
            cache_usage=self._pool.num_used / self._pool.num_blocks,
            num_preemptions=self._scheduler.num_preemptions,
            num_tried=self._num_tried,
            num_taken=self._num_taken,
        )

    def prepare(self, request: Request) -> Request:
        """Compile a request's grammar, which may take long; any thread may do so before `add`.

        Raises UsageError for a grammar that cannot be used, CapacityError where it has no room.
        """
        grammar = request.sampling.grammar
        if grammar is None or request.compiled is not None:
            return request
        return replace(request, compiled=self._grammars.compiled(grammar))

    def new_id(self) -> RequestId:
        """Return the id of a request that is to be added; any thread may ask."""
        return RequestId(next(self._ids))

    def add(
        self, request: Request, deliver: Deliver, *, request_id: RequestId | None = None
    ) -> RequestId:
        """Queue a request; `deliver` gets its outputs while `step` or `abort` runs.

        request_id: from `new_id`; None takes a new one. Raises what `admitted` and `prepare` raise.
        """
        vocab_size = self._model.config.vocab_size
        request = admitted(request, vocab_size=vocab_size, context_tokens=self.context_tokens)
        request = self.prepare(request)
        sampler = Sampler(
            request,
            self._tokenizer,
            vocab_size=vocab_size,
            guide=None if request.compiled is None else request.compiled.guide(),
        )
        sequence = RequestSequence(
            id=self.new_id() if request_id is None else request_id,
            tokens=list(request.prompt),
            root=self._root(request),
            request=request,
            deliver=deliver,
            sampler=sampler,
            detokenizer=Detokenizer(self._tokenizer),
            stops=StopFinder(request.sampling.stop),
        )
        self._sequences[sequence.id] = sequence
        self._scheduler.add(sequence)
        return sequence.id

    def step(self) -> None:
        """Compute one step and deliver its outputs.

        Where the device chooses the tokens, the next step is started before they are read: so it
        computes while they are delivered. A request that fails ends with finish_reason "error"; the
        others go on.
        """
        flight = self._under_way()
        if flight is None:
            flight = self._start(self._with_tried(self._linears.arranged(self._scheduler.plan())))
        if flight is not None:
            self._flight = self._start_next(flight)
            self._finish(flight)

    def abort(self, request_id: RequestId) -> None:
        """End a request now and free its memory; a finished or unknown one is left alone."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._deliver(sequence, sequence.abort())

    def forget(self, adapter: Adapter) -> None:
        """Drop what is kept of an adapter that no new request will use."""
        # What a step reads must not go before it has ended.
        if self._flight is not None and not self._flight.ends_well():
            self._flight = None  # the next step computes it again
        self._linears.forget(adapter)
        self._graphs.forget(adapter)
        for root in self._roots.pop(adapter, {}).values():
            self._pool.forget(root)

    def _root(self, request: Request) -> Contents:
        """Return the beginning of all that was computed for an owner by an adapter."""
        roots = self._plain_roots
        if request.adapter is not None:
            roots = self._roots.setdefault(request.adapter, {})
        return roots.setdefault(request.owner, self._pool.new_root())

    def _deliver(self, sequence: RequestSequence, output: Output) -> None:
        if output.finish_reason is not None:
            del self._sequences[sequence.id]
            # What a failing request has computed may be wrong: it must not be found again.
            self._scheduler.remove(sequence, trusted=output.error is None)
        sequence.deliver(output)

    def _under_way(self) -> StepInFlight | None:
        """Return the step that was started ahead; None where nobody is left who wants its tokens.

        Even then it is waited for: what it reads may go now.
        """
        flight, self._flight = self._flight, None
        if flight is None or self._alive(flight.batch):
            return flight
        flight.ends_well()  # where it does not, a step that somebody wants will say so
        return None

    def _start(self, batch: Batch) -> StepInFlight | None:
        """Start a step; None where there is none, or where it failed and is dealt with."""
        if not batch:
            return None
        try:
            return self._forward(batch)
        except Exception as problem:
            self._compute_singly(batch, problem)
            return None

    def _compute_singly(self, batch: Batch, problem: Exception) -> None:
        """Compute what failed together one request at a time, so only the one at fault fails."""
        for sequence, num_tokens in batch.items():
            if len(batch) == 1:
                self._fail(sequence, problem)
            elif (flight := self._start({sequence: num_tokens})) is not None:
                self._finish(flight)

    def _start_next(self, flight: StepInFlight) -> StepInFlight | None:
        """Start the step behind one whose tokens are not known yet.

        None where that must wait for them, and where it fails: then no other is started so.
        """
        if not flight.may_be_followed:
            return None
        if len(flight.batch) == 1 and self._tokens_behind(*flight.batch):
            return None  # what follows may be known soon, and more than one token
        going_on = [sequence for sequence in self._alive(flight.batch) if sequence.goes_on]
        batch = going_on and self._scheduler.plan_ahead(flight.batch, going_on)
        if not batch:
            return None
        try:
            return self._forward(batch, after=flight)
        except Exception as problem:
            self._graphs.give_up(problem)
            return None

    def _finish(self, flight: StepInFlight) -> None:
        """Read what a step came to and deliver it; those that have ended meanwhile get nothing."""
        if any(sequence.tried for sequence in flight.batch):
            self._take_tried(flight)
            return
        choices = self._choices(flight)
        if choices is None:
            return
        batch = self._alive(flight.batch)
        self._scheduler.commit(batch)
        for sequence in batch:
            self._tell_progress(sequence, flight.scores.get(sequence, []))
        self._take(flight.writing, choices)

    @torch.inference_mode()
    def _choices(self, flight: StepInFlight) -> Sequence[ChosenToken | Exception] | None:
        """Return the tokens that a step came to; None where that failed, and is dealt with."""
        try:
            return flight.choices()
        except Exception as problem:
            self._flight = None  # it builds on what has failed
            self._compute_singly(self._alive(flight.batch), problem)
            return None

    def _with_tried(self, batch: Batch) -> Batch:
        """Add what may follow the next token of a request that writes alone."""
        if len(batch) != 1:
            return batch
        (sequence,) = batch
        sequence.tried = self._tokens_behind(sequence)
        count = 1 + len(sequence.tried)
        if count == 1 or not self._scheduler.make_room(sequence, count):
            sequence.tried = ()
            return batch
        return {sequence: count}

    def _tokens_behind(self, sequence: RequestSequence) -> Sequence[int]:
        if sequence.pending != 1 or not sequence.num_written:
            return ()
        left = sequence.num_left - 1  # behind the next one
        return sequence.lookup.tokens_behind(sequence.tokens, min(self._most_tried, left))

    def _take_tried(self, flight: StepInFlight) -> None:
        """Deliver what a step with tried tokens has come to, as far as they are what is chosen."""
        (sequence,) = flight.batch
        tried, sequence.tried = sequence.tried, ()
        for row, behind in enumerate([*tried, None]):
            choices = self._choices(flight.of_row(row))
            if choices is None:
                return
            self._scheduler.commit({sequence: 1})
            self._take(flight.writing, choices)
            if not self._has(sequence) or sequence.tokens[-1] != behind:
                break
        self._num_tried += len(tried)
        self._num_taken += row
        sequence.lookup.tried(row, len(sequence.tokens))

    def _alive(self, batch: Batch) -> dict[RequestSequence, int]:
        """Return what of a batch has not ended."""
        return {sequence: count for sequence, count in batch.items() if self._has(sequence)}

    def _has(self, sequence: RequestSequence) -> bool:
        return sequence.id in self._sequences

    def _tell_progress(self, sequence: RequestSequence, scores: list[TokenLogprobs]) -> None:
        """Deliver what a step came to where it has read a part of a prompt."""
        sequence.num_scored += len(scores)
        progress = sequence.progress
        if scores or progress is not None:
            output = Output(
                request_id=sequence.id, prompt_logprobs=tuple(scores), progress=progress
            )
            self._deliver(sequence, output)

    @torch.inference_mode()
    def _forward(self, batch: Batch, after: StepInFlight | None = None) -> StepInFlight | None:
        """Start a step; after: the one before it, whose tokens are not known yet.

        None where there is such a one, and the step can only be started once they are.
        """
        ahead = 0 if after is None else 1
        writing = [s for s, count in batch.items() if ahead or s.pending <= count]
        draws = None if any(s.tried for s in batch) else self._draws(writing, ahead)
        if after is not None and draws is None:
            return None
        step = self._inputs.prepare(
            batch, self._linears.groups(batch), draws, () if after is None else after.batch
        )
        linear, whose = self._linears.of(batch, step)
        logits, scores = None, Scores()
        if step.only_decodes and whose is not None and not any(s.is_read_whole for s in batch):
            logits = self._graphs.run(
                step,
                whose,
                lambda: self._recordable(step, linear),
                may_record=after is None,
            )
        is_recorded = logits is not None
        if logits is None:
            if after is not None:
                return None
            draws = draws if self._draws_at_once else None
            hidden = self._hidden(step, step.tokens, linear)
            logits = self._logits(hidden, step, linear)
            scores = self._score(batch, hidden, linear)
            if draws is not None:
                self._choose(logits, step)
        return StepInFlight(
            batch=batch,
            writing=writing,
            logits=logits[: step.num_rows],
            chosen=None if draws is None else Arriving(self._inputs.chosen),
            scores=scores,
            may_be_followed=is_recorded and draws is not None,
        )

    def _draws(self, writing: Sequence[RequestSequence], ahead: int) -> list[Draw] | None:
        """Return what the device needs to choose all tokens; None where the host chooses them."""
        if not (self._draws_rows and writing):
            return None
        draws: list[Draw] = []
        for sequence in writing:
            draw = sequence.sampler.draw_of(ahead)
            if draw is None:
                return None
            draws.append(draw)
        return draws

    def _recordable(self, step: Step, linear: Linear) -> Tensor:
        """Compute a step that only decodes, reading everything from the device; return its logits.

        Tokens are chosen from these, too, if the device does that; whether it was asked to, the
        reader knows.
        """
        tokens = self._inputs.tokens_of(step) if self._draws_rows else step.tokens
        hidden = self._hidden(step, tokens, linear)
        logits = self._logits(hidden, step, linear)
        if self._draws_rows:
            self._choose(logits, step)
        return logits

    def _choose(self, logits: Tensor, step: Step) -> None:
        """Choose tokens on the device, and leave them where the next step may read them."""
        self._inputs.chosen[:, : len(logits)].copy_(draw(logits, step.asked))

    def _hidden(self, step: Step, tokens: Tensor, linear: Linear) -> Tensor:
        """Return the last residual stream [T, H] of a step's tokens."""
        attend = CachedAttention(self._model.config, self._cache, step, self._rotary_table)
        hidden: Tensor = self._model(tokens, attend, linear)
        return hidden

    def _logits(self, hidden: Tensor, step: Step, linear: Linear) -> Tensor:
        """Return the logits [R, V] of the rows that a token follows."""
        if step.rows is not None:
            hidden = hidden.index_select(0, step.rows)
        return linear(self._model.head, "lm_head", hidden)

    def _score(self, batch: Batch, hidden: Tensor, linear: Linear) -> Scores:
        """Return log probabilities of the prompts' tokens; a few rows of logits at a time.

        hidden: [T, H] of all T tokens of the batch. Raises DataError where they are not finite.
        """
        scores: Scores = {}
        row = 0
        for sequence, num_tokens in batch.items():
            start, tokens = sequence.unscored(num_tokens)
            for place in range(0, len(tokens), _SCORED_ROWS):
                part = tokens[place : place + _SCORED_ROWS]
                first = row + start + place
                rows = hidden[first : first + len(part)]
                logits = linear(self._model.head, "lm_head", rows)
                if not torch.isfinite(logits.amax(dim=-1)).all():
                    raise not_finite()
                count = sequence.request.prompt_logprobs or 0
                scores.setdefault(sequence, []).extend(token_logprobs(logits, part, count))
            row += num_tokens
        return scores

    def _take(
        self, writing: Sequence[RequestSequence], choices: Sequence[ChosenToken | Exception]
    ) -> None:
        """Deliver what the tokens make that a step has come to."""
        for sequence, choice in zip(writing, choices, strict=True):
            if not self._has(sequence):
                continue
            if isinstance(choice, Exception):
                self._fail(sequence, choice)
                continue
            try:
                output = sequence.accept(choice)
            except Exception as problem:
                self._fail(sequence, problem)
            else:
                self._deliver(sequence, output)

    def _fail(self, sequence: RequestSequence, problem: Exception) -> None:
        output = Output(request_id=sequence.id, finish_reason="error", error=problem)
        self._deliver(sequence, output)
