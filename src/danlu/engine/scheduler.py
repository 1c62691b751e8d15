"""Decides which requests get how many tokens computed in one step. Plain Python, no tensors.

Every request that is writing gets its next token, so a long prompt delays nobody; what is left to
read of the prompts is cut into chunks that share a budget, first come first served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from danlu.engine.request import RequestId


@dataclass(frozen=True, kw_only=True)
class Share:
    """A request's tokens in one step: how many of those not yet computed."""

    request_id: RequestId
    tokens: int


def plan_step(
    pending: Sequence[tuple[RequestId, int]], *, prompt_tokens: int, num_requests: int
) -> list[Share]:
    """Share out one step.

    pending: (request, tokens not yet computed, at least 1) in order of arrival; a single token
    counts as the next of an answer. prompt_tokens: the budget of prompt chunks, at least 1.
    num_requests: how many run at once; the others wait.
    """
    shares = []
    left = prompt_tokens
    for request_id, tokens in pending[:num_requests]:
        chunk = tokens if tokens == 1 else min(tokens, left)
        if tokens > 1:
            left -= chunk
        if chunk:
            shares.append(Share(request_id=request_id, tokens=chunk))
    return shares
