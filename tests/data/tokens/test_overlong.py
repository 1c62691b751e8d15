"""Rows over the cutoff: what is cut, what never is, and LLaMA-Factory's rule in its own numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from danlu.data.tokens.examples import Pieces, Rendering, encode_conversations, num_tokens
from danlu.data.tokens.overlong import (
    KEPT_TOKENS,
    MARK,
    fit_row,
    shares,
    shorten,
    truncate_like_llamafactory,
)
from danlu.text.conversation import Conversation, Message
from danlu.text.render import Span
from danlu.text.tokenizer import Tokenizer
from tests.helpers.conversations import conversations
from tests.helpers.models.tiny_tokenizer import write_tiny_tokenizer

RENDERING = Rendering(template="qwen3", enable_thinking=True, cutoff_len=80)
LONG = "".join(f"{n}你好🤖e\u0301 \n" for n in range(60))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(folder)
    return Tokenizer.load(folder)


def row(question: str, answer: str, reasoning: str | None = None) -> Conversation:
    return Conversation(
        messages=(
            Message(role="user", content=question),
            Message(role="assistant", content=answer, reasoning=reasoning),
        )
    )


def encoded(conversation: Conversation, tokenizer: Tokenizer) -> list[Pieces]:
    (examples,) = encode_conversations([conversation], tokenizer, RENDERING)
    return examples


def text_of(pieces: Pieces) -> str:
    return "".join(span.text for span, _ids in pieces)


def test_the_middle_of_a_long_question_is_cut_visibly(tokenizer: Tokenizer) -> None:
    (example,) = encoded(row(f"Begin. {LONG} End?", "Yes."), tokenizer)
    cut = shorten(example, tokenizer, 80)
    assert cut is not None
    assert 70 < num_tokens(cut) <= 80
    asked = text_of(cut).split("user\n")[1].split("<|im_end|>")[0]
    head, tail = asked.split(MARK)
    assert f"Begin. {LONG} End?".startswith(head)
    assert f"Begin. {LONG} End?".endswith(tail)
    assert text_of(cut).endswith("<think>\n\n</think>\n\nYes.<|im_end|>\n")


def test_long_reasoning_loses_its_end_and_stays_closed(tokenizer: Tokenizer) -> None:
    (example,) = encoded(row("Why?", "Because.", reasoning=f"First. {LONG}"), tokenizer)
    cut = shorten(example, tokenizer, 80)
    assert cut is not None
    assert 70 < num_tokens(cut) <= 80
    assert "user\nWhy?<|im_end|>" in text_of(cut)
    thought = text_of(cut).split("<think>\n")[1]
    reasoning, answer = thought.split("\n</think>\n\n")
    assert f"First. {LONG}".startswith(reasoning)
    assert answer == "Because.<|im_end|>\n"


def test_every_limit_is_kept_and_nearly_used(tokenizer: Tokenizer) -> None:
    for conversation in (row(LONG, "Yes."), row("Why?", "Because.", reasoning=LONG)):
        (example,) = encoded(conversation, tokenizer)
        for limit in range(60, 140):
            cut = shorten(example, tokenizer, limit)
            assert cut is not None
            # A character of up to five tokens may be the one that no longer fits.
            assert limit - 10 < num_tokens(cut) <= limit
            assert "\n\n</think>" not in text_of(cut).replace("<think>\n\n</think>", "")


def test_the_longer_one_is_cut_first(tokenizer: Tokenizer) -> None:
    question = "What is the name of the quick brown fox?"
    (example,) = encoded(row(question, "A.", reasoning=LONG), tokenizer)
    cut = shorten(example, tokenizer, 120)
    assert cut is not None
    assert question in text_of(cut)


def test_a_row_whose_answer_does_not_fit_is_left_out(tokenizer: Tokenizer) -> None:
    examples = encoded(row("Q" * 100, LONG), tokenizer)
    left, finding = fit_row(examples, "a:1", tokenizer, RENDERING)
    assert left == []
    assert finding is not None
    assert (finding.kind, finding.severity) == ("overlong_left_out", "warning")
    assert str(num_tokens(examples[0])) in finding.what


def test_what_was_cut_is_counted(tokenizer: Tokenizer) -> None:
    examples = encoded(row(LONG, "Yes."), tokenizer)
    left, finding = fit_row(examples, "a:7", tokenizer, RENDERING)
    assert finding is not None
    assert (finding.place, finding.kind, finding.severity) == ("a:7", "shortened", "warning")
    assert f"cut out: {num_tokens(examples[0]) - num_tokens(left[0])}." in finding.what


def test_a_row_that_fits_is_untouched(tokenizer: Tokenizer) -> None:
    examples = encoded(row("Q", "A"), tokenizer)
    assert fit_row(examples, "a:1", tokenizer, RENDERING) == (examples, None)


@pytest.mark.parametrize(
    ("policy", "kind", "severity"),
    [("drop", "overlong_left_out", "warning"), ("error", "overlong", "error")],
)
def test_drop_and_error(tokenizer: Tokenizer, policy: str, kind: str, severity: str) -> None:
    examples = encoded(row(LONG, "A"), tokenizer)
    rendering = replace(RENDERING, overlong=policy)  # type: ignore[arg-type]
    left, finding = fit_row(examples, "a:1", tokenizer, rendering)
    assert left == []
    assert finding is not None
    assert (finding.kind, finding.severity) == (kind, severity)


def test_a_huge_text_is_cut_by_looking_at_its_ends(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(f"{n} " for n in range(50_000))
    (example,) = encoded(row(text, "A"), tokenizer)
    looked_at: list[int] = []
    starts = Tokenizer.token_starts

    def counted(self: Tokenizer, seen: str) -> list[int]:
        looked_at.append(len(seen))
        return starts(self, seen)

    monkeypatch.setattr(Tokenizer, "token_starts", counted)
    cut = shorten(example, tokenizer, 80)
    assert cut is not None
    asked = text_of(cut).split("user\n")[1].split("<|im_end|>")[0]
    assert shortened_of(text, asked, is_reasoning=False)
    assert 70 < num_tokens(cut) <= 80
    assert max(looked_at) < 3000


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [
        ((100, 3000), 1024, (100, 924)),
        ((900, 300), 1024, (724, 300)),
        ((600, 900), 1024, (410, 614)),
        ((10, 10), 1024, (10, 10)),
        ((5, 5), 0, (0, 0)),
    ],
)
def test_shares_are_those_of_llamafactory(
    lengths: tuple[int, int], room: int, kept: tuple[int, int]
) -> None:
    assert shares(*lengths, room) == kept


def turns(*lengths: tuple[int, int]) -> Pieces:
    """Turns of so many tokens in question and answer, each token another number."""
    pieces: Pieces = []
    for source, target in lengths:
        start = sum(len(ids) for _span, ids in pieces)
        pieces.append((Span(text="q"), list(range(start, start + source))))
        ids = list(range(start + source, start + source + target))
        pieces.append((Span(text="a", in_answer=True, supervised=True), ids))
    return pieces


def test_llamafactory_serves_turns_in_order_until_nothing_is_left() -> None:
    pieces = turns((100, 300), (900, 300), (50, 50))
    cut = truncate_like_llamafactory(pieces, 1024, last_first=False)
    kept = [(len(cut[0][1]), len(cut[1][1])), (len(cut[2][1]), len(cut[3][1]))]
    assert kept == [(100, 300), (324, 300)]
    assert num_tokens(cut) == 1024
    assert all(list(ids) == list(pieces[i][1][: len(ids)]) for i, (_span, ids) in enumerate(cut))


def test_with_mask_history_the_first_turns_vanish() -> None:
    pieces = turns((100, 300), (900, 300))
    cut = truncate_like_llamafactory(pieces, 1000, last_first=True)
    assert [span.text for span, _ids in cut] == ["q", "a"]
    assert [len(ids) for _span, ids in cut] == [700, 300]


def test_llamafactory_may_cut_off_the_end_of_the_answer(tokenizer: Tokenizer) -> None:
    examples = encoded(row("Q", LONG), tokenizer)
    rendering = replace(RENDERING, overlong="llamafactory")
    (left,), finding = fit_row(examples, "a:1", tokenizer, rendering)
    assert num_tokens(left) == RENDERING.cutoff_len
    assert "<|im_end|>" not in text_of(left[4:])
    assert finding is not None
    assert finding.kind == "shortened"


@given(
    conversation=conversations,
    extra=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 200)), max_size=3),
    limit=st.integers(40, 200),
    thinking=st.sampled_from([True, False, None]),
    train_on_prompt=st.booleans(),
)
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_cutting_never_breaks_a_row(
    tokenizer: Tokenizer,
    conversation: Conversation,
    extra: list[tuple[int, int]],
    limit: int,
    thinking: bool | None,
    train_on_prompt: bool,
) -> None:
    """Turns stay, thoughts stay closed, answers stay whole, tokens are those of the text."""
    messages = list(conversation.messages)
    for at, length in extra:
        if at < len(messages) and messages[at].role != "system":
            message, text = messages[at], LONG[:length]
            if message.role == "assistant":
                messages[at] = replace(message, reasoning=(message.reasoning or "") + text)
            else:
                messages[at] = replace(message, content=message.content + text)
    conversation = replace(conversation, messages=tuple(messages))
    rendering = replace(RENDERING, enable_thinking=thinking, train_on_prompt=train_on_prompt)
    (examples,) = encode_conversations([conversation], tokenizer, rendering)
    for whole in examples:
        cut = shorten(whole, tokenizer, limit)
        if cut is None:
            hard = num_tokens(whole) - sum(
                len(tokenizer.encode_text(span.text[part.start : part.end]))
                for span, _ids in whole
                for part in span.soft
            )
            soft = sum(len(span.soft) for span, _ids in whole)
            assert hard + soft * (KEPT_TOKENS + 8) > limit
            continue
        assert num_tokens(cut) <= limit
        assume(num_tokens(whole) > limit)
        assert [(s.control, s.supervised, s.in_answer) for s, _ids in cut] == [
            (s.control, s.supervised, s.in_answer) for s, _ids in whole
        ]
        for (before, _old), (after, ids) in zip(whole, cut, strict=True):
            if not after.control:
                assert list(ids) == tokenizer.encode_text(after.text)
            assert kept_of(before, after)


def kept_of(before: Span, after: Span) -> bool:
    """Whether a span is what it was, apart from the ends of reasoning and middles of questions."""
    borders = [0, *(at for part in before.soft for at in (part.start, part.end)), len(before.text)]
    pieces = [before.text[a:b] for a, b in pairwise(borders)]
    pattern = "".join("(.*)" if n % 2 else re.escape(piece) for n, piece in enumerate(pieces))
    found = re.fullmatch(pattern, after.text, re.DOTALL)
    if found is None or len(before.soft) > 1:
        return found is not None
    news = zip(before.soft, found.groups(), strict=True)
    return all(shortened_of(pieces[1], new, part.is_reasoning) for part, new in news)


def shortened_of(old: str, new: str, is_reasoning: bool) -> bool:
    if new == old:
        return True
    if is_reasoning:
        return bool(new) and old.startswith(new) and not new.endswith("\n")
    return any(
        old.startswith(new[:at]) and old.endswith(new[at + len(MARK) :])
        for at in range(len(new))
        if new.startswith(MARK, at)
    )
