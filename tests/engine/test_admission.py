"""The limits of a request: the ids that a model has, and the length of its context."""

from __future__ import annotations

from typing import Any

import pytest

from danlu.engine.admission import ContextExceeded, UnknownTokens, admitted, check_ids
from danlu.engine.request import Request, SamplingSettings
from danlu.errors import UsageError

SIZE, CONTEXT = 100, 20


def max_tokens(prompt: tuple[int, ...], **sampling: Any) -> int | None:
    request = Request(prompt=prompt, sampling=SamplingSettings(**sampling))
    return admitted(request, vocab_size=SIZE, context_tokens=CONTEXT).sampling.max_tokens


@pytest.mark.parametrize(
    ("length", "wanted", "given"),
    [(1, None, 19), (19, None, 1), (5, 15, 15), (5, 1, 1), (19, 1, 1)],
)
def test_the_answer_gets_what_was_asked_for_or_what_is_left(
    length: int, wanted: int | None, given: int
) -> None:
    assert max_tokens((1,) * length, max_tokens=wanted) == given


@pytest.mark.parametrize(("length", "wanted"), [(20, None), (21, None), (20, 1), (5, 16)])
def test_what_does_not_fit_is_refused_with_its_numbers(length: int, wanted: int | None) -> None:
    with pytest.raises(ContextExceeded) as problem:
        max_tokens((1,) * length, max_tokens=wanted)
    assert problem.value.prompt == length
    assert problem.value.answer == (wanted or 1)
    assert problem.value.context == CONTEXT
    assert (f"{CONTEXT - length} or less" in str(problem.value.fix)) == (length < CONTEXT)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(UsageError):
        max_tokens(())


@pytest.mark.parametrize(
    ("field", "prompt", "sampling"),
    [
        ("prompt", (SIZE,), {}),
        ("prompt", (1, -1), {}),
        ("logit_bias", (1,), {"logit_bias": ((SIZE, 1.0),)}),
        ("stop_token_ids", (1,), {"stop_token_ids": frozenset({-1})}),
    ],
)
def test_ids_that_the_model_lacks_are_refused(
    field: str, prompt: tuple[int, ...], sampling: dict[str, Any]
) -> None:
    with pytest.raises(UnknownTokens) as problem:
        max_tokens(prompt, **sampling)
    assert problem.value.field == field
    assert field in problem.value.what
    assert str(SIZE - 1) in problem.value.why


def test_ids_that_the_model_has() -> None:
    check_ids("tokens", [], SIZE)
    check_ids("tokens", [0, SIZE - 1], SIZE)
