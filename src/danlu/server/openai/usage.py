"""What an answer cost, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from danlu.dialog.events import Usage


def usage_fields(prompts: Iterable[Sequence[Usage]]) -> dict[str, Any]:
    """Add up usages. prompts: for each prompt those of its answers; it was read once for all."""
    answers = list(prompts)
    prompt = sum(usages[0].prompt_tokens for usages in answers)
    completion = sum(usage.completion_tokens for usages in answers for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            # The first answer to a prompt may have computed what the others found.
            "cached_tokens": sum(min(u.cached_tokens for u in usages) for usages in answers)
        },
        "completion_tokens_details": {
            "reasoning_tokens": sum(u.reasoning_tokens for usages in answers for u in usages)
        },
    }
