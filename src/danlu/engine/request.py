"""What can be asked of the engine, and what it answers: plain data. No torch at run time.

Knows token ids and sampling settings. Must not know messages, templates or HTTP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NewType

from danlu.errors import UsageError
from danlu.language import _

if TYPE_CHECKING:
    from danlu.lora.adapter import Adapter

RequestId = NewType("RequestId", int)
FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How tokens are chosen and when to stop; the names and meanings are transformers'.

    temperature 0 (or next to it) is greedy. top_k 0, top_p 1, min_p 0 and repetition_penalty 1
    change nothing. seed None: another answer each time. max_tokens None: as many as the model's
    context leaves, within the engine's own bound. stop: texts that end the answer and are not
    part of it.
    Raises UsageError for a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0 <= self.temperature < math.inf, "0")
        _check("top_k", self.top_k, self.top_k >= 0, "20")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "0.95")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "0")
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, 0.01 <= penalty <= 100, "1.0")
        _check("seed", self.seed, self.seed is None or 0 <= self.seed < 2**63, "1")
        _check("max_tokens", self.max_tokens, self.max_tokens is None or self.max_tokens > 0, "512")
        _check("stop", self.stop, all(self.stop), "END")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < 1e-5  # where dividing by it would leave fp32's range


# The range of each setting, as the error says it.
_RANGES = {
    "temperature": "0 ...",
    "top_k": "0 (off), 1, 2 ...",
    "top_p": "0 < top_p <= 1",
    "min_p": "0 ... 1",
    "repetition_penalty": "0.01 ... 100",
    "seed": "0 ... 2^63 - 1",
    "max_tokens": "1, 2 ...",
    "stop": '!= ""',
}


def _check(name: str, value: object, valid: bool, example: str) -> None:
    if not valid:
        raise UsageError(
            _("The sampling setting {name} cannot be {value}.").format(name=name, value=value),
            why=_("Its range is: {range}").format(range=_RANGES[name]),
            fix=_("Use a value inside the range, for example --{name} {example}").format(
                name=name, example=example
            ),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A prompt to continue. adapter None is the plain model; end tokens finish the answer."""

    prompt: tuple[int, ...]
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    adapter: Adapter | None = None
    end_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one step brought for one request.

    tokens: the new ids, an end token included. text: what became readable, which may lag behind
    the tokens (half a character, the beginning of a stop text). finish_reason None: there is more
    to come. error: why a request failed, with finish_reason "error".
    """

    request_id: RequestId
    tokens: tuple[int, ...] = ()
    text: str = ""
    finish_reason: FinishReason | None = None
    error: Exception | None = None
