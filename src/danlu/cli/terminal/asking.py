"""A question that a command asks before it does what cannot be undone, or is rarely meant."""

from __future__ import annotations

import sys

from danlu.errors import UsageError


def agreed(question: str, refusal: UsageError) -> bool:
    """Ask on the terminal; no is the answer of everyone who says nothing else.

    Raises the refusal where nobody can be asked.
    """
    if not sys.stdin.isatty():
        raise refusal
    try:
        answer = input(question)
    except (EOFError, KeyboardInterrupt):
        print()
        return False
    return answer.strip().lower() in ("y", "yes", "是")
