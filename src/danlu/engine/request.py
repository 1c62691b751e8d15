"""What is asked of the engine, and what it returns: plain data. No torch at run time.

Knows token ids and sampling settings. Must not know messages, templates or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, NewType

from danlu.engine.grammar import Grammar
from danlu.errors import UsageError
from danlu.language import _
from danlu.settings.ranges import NonNegativeInt, PositiveInt, Range, Seed, Share, out_of_range

if TYPE_CHECKING:
    from danlu.engine.grammar_compiler import CompiledGrammar
    from danlu.lora.adapter import Adapter

RequestId = NewType("RequestId", int)
FinishReason = Literal["stop", "length", "abort", "error"]


BIAS = Range(least=-100, greatest=100)
Penalty = Annotated[float, Range(least=-2, greatest=2)]
Temperature = Annotated[float, Range(least=0)]
TopP = Annotated[float, Range(least=0, above=True, greatest=1)]
RepetitionPenalty = Annotated[float, Range(least=0.01, greatest=100)]


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How tokens are chosen and when to stop.

    The names and meanings are transformers' (temperature, top_k, top_p, min_p, repetition_penalty)
    and OpenAI's (presence_penalty, frequency_penalty, which count the answer's tokens only;
    logit_bias as (id, bias)). temperature 0 (or next to it) is greedy. top_k 0, top_p 1, min_p 0,
    repetition_penalty 1 and the other penalties 0 change nothing. seed None: another answer each
    time. max_tokens None: as many as the model's context leaves.
    min_tokens: no end before that many. stop: texts that end the answer and are not part of it;
    stop_token_ids: further ids that end it; ignore_eos: the request's end tokens do not. logprobs:
    None, or how many alternatives to give with each token's log probability. grammar: what the
    answer must look like, its thought excepted.
    Raises UsageError for a value out of range.
    """

    temperature: Temperature = 1.0
    top_k: NonNegativeInt = 0
    top_p: TopP = 1.0
    min_p: Share = 0.0
    repetition_penalty: RepetitionPenalty = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: Seed | None = None
    max_tokens: PositiveInt | None = None
    min_tokens: NonNegativeInt = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: Annotated[int | None, Range(least=0, greatest=20)] = None
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        for name, value, allowed in out_of_range(self):
            raise _refusal(name, value, allowed.rule())
        biases = [bias for _token, bias in self.logit_bias]
        if not all(BIAS.holds(bias) for bias in biases):
            raise _refusal("logit_bias", biases, BIAS.rule())
        if not all(self.stop):
            raise _refusal("stop", self.stop, _("an empty text ends nothing"))

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < 1e-5  # where dividing by it would leave fp32's range


def _refusal(name: str, value: object, why: str) -> UsageError:
    return UsageError(
        _("The sampling setting {name} cannot be {value}.").format(name=name, value=value),
        why=why,
        fix=_("Use another {name}, or leave it out.").format(name=name),
    )


@dataclass(frozen=True, kw_only=True)
class Thinking:
    """The tags of a thought that the answer may begin with, as ids.

    is_open: the prompt has opened the thought already. closing: the ids, end_id among them, that
    end a thought of more than `budget` tokens. budget None: no limit.
    """

    start_id: int
    end_id: int
    closing: tuple[int, ...]
    is_open: bool = False
    budget: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A prompt to continue, as token ids.

    adapter None: the plain model. end_token_ids: ids that end the answer. thinking None: the answer
    has no thought. prompt_logprobs: None, or how many alternatives to give with the log probability
    of each of the prompt's tokens but the first; nothing of such a prompt is taken from the cache.
    compiled: the grammar of `sampling`, by `Engine.prepare`; None: it is compiled when added.
    owner: who asks; what was computed for one is not used for another, who could tell from the time
    and the count of cached tokens what the first has asked.
    """

    prompt: tuple[int, ...]
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    adapter: Adapter | None = None
    end_token_ids: frozenset[int] = frozenset()
    thinking: Thinking | None = None
    prompt_logprobs: int | None = None
    compiled: CompiledGrammar | None = None
    owner: str = ""


@dataclass(frozen=True, kw_only=True)
class TokenLogprobs:
    """A token's log probability by the model itself, and the likeliest alternatives, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class PromptProgress:
    """How much of a prompt is read. num_found: the part of num_read that was computed already."""

    num_read: int
    num_found: int


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one step computed for one request.

    tokens: the new ids, an end token included. text: what became readable, which may lag behind
    the tokens (half a character, the beginning of a stop text). logprobs: one entry a token where
    they were asked for. prompt_logprobs: the same for the next tokens of the prompt, before the
    first token of the answer. cached_tokens: how much of the prompt was found computed already,
    with the first token; else 0. progress: where a step has read a part of the prompt and left the
    rest to the next. finish_reason None: there is more to come. error: why a request
    failed, with finish_reason "error".
    """

    request_id: RequestId
    tokens: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    cached_tokens: int = 0
    progress: PromptProgress | None = None
    finish_reason: FinishReason | None = None
    error: Exception | None = None


# Gets every output of a request, on the engine's thread; must return at once and raise nothing.
Deliver = Callable[[Output], None]
