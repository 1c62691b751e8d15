"""What happens to a row with an example of more than `cutoff_len` tokens.

`cut` shortens what may be shortened: the end of the reasoning (its block stays closed) and the
middle of what the user or a tool said. Answers, system message and tools stay whole, and so does
the end of every turn; a row in which these do not fit is left out. `llamafactory` cuts as
LLaMA-Factory does, which may take away the end of an answer. Whatever happens is a finding.

Knows examples. Must not know where rows come from.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from danlu.data.findings import Finding
from danlu.data.tokens.examples import Pieces, Rendering, num_supervised, num_tokens
from danlu.language import _
from danlu.text.render import SoftPart, Span
from danlu.text.tokenizer import Tokenizer

MARK = "\n...\n"
# A text is never shortened below this: less would say nothing.
KEPT_TOKENS = 16
# No token of a text is longer on average, so a text's ends of this many characters a token are
# all that can remain of it.
_MOST_CHARACTERS_A_TOKEN = 16


def fit_row(
    examples: list[Pieces], place: str, tokenizer: Tokenizer, rendering: Rendering
) -> tuple[list[Pieces], Finding | None]:
    """Make a row's examples fit as `rendering` says, and say what was done to them.

    Returns no examples for a row that is left out.
    """
    limit, policy = rendering.cutoff_len, rendering.overlong
    longest = max(map(num_tokens, examples), default=0)
    if longest <= limit:
        return examples, None
    if policy in ("drop", "error"):
        return [], Finding(
            place=place,
            kind="overlong" if policy == "error" else "overlong_left_out",
            what=_("The row has {tokens} tokens, {limit} are allowed.").format(
                tokens=longest, limit=limit
            ),
            fix=_("Raise --cutoff_len, shorten it, or use --overlong cut."),
            severity="error" if policy == "error" else "warning",
        )
    cut = [
        shorten(example, tokenizer, limit)
        if policy == "cut"
        else truncate_like_llamafactory(example, limit, last_first=rendering.mask_history)
        for example in examples
    ]
    fitted = [example for example in cut if example is not None and num_supervised(example)]
    if len(fitted) < len(examples):
        return [], Finding(
            place=place,
            kind="overlong_left_out",
            what=_(
                "The row has {tokens} tokens, and what must stay whole is over {limit}: it is left "
                "out."
            ).format(tokens=longest, limit=limit),
            fix=_("Raise --cutoff_len, or shorten the answers."),
            severity="warning",
        )
    return fitted, Finding(
        place=place,
        kind="shortened",
        what=_("The row has {tokens} tokens, {limit} are allowed; cut out: {cut}.").format(
            tokens=longest,
            limit=limit,
            cut=sum(map(num_tokens, examples)) - sum(map(num_tokens, fitted)),
        ),
        fix=_("Raise --cutoff_len to keep it whole."),
        severity="warning",
    )


def shorten(pieces: Pieces, tokenizer: Tokenizer, limit: int) -> Pieces | None:
    """Shorten the longest soft parts, all to one length, until `limit` tokens suffice.

    None where that is impossible. Texts are cut between characters, at borders of tokens.
    """
    if _unshortened_tokens(pieces) > limit:
        return None  # before every text is looked at: a row of many turns has many examples
    parts = [
        [_SoftText.of(span, part, tokenizer, limit) for part in span.soft] for span, _ids in pieces
    ]
    counts = [len(part.starts) for soft in parts for part in soft]
    level: int | None = max(counts, default=0)
    while level is not None:
        shorter = [
            _with_texts(piece, [part.shortened(level) for part in soft], tokenizer)
            for piece, soft in zip(pieces, parts, strict=True)
        ]
        excess = num_tokens(shorter) - limit
        if excess <= 0:
            return shorter
        counts = [min(count, level) for count in counts]
        level = _level(counts, excess)
    return None


def _unshortened_tokens(pieces: Pieces) -> int:
    """Count the tokens of the spans that hold nothing that may be shortened."""
    return sum(len(ids) for span, ids in pieces if not span.soft)


@dataclass(frozen=True, kw_only=True)
class _SoftText:
    """A text that may be shortened. starts: the character at which each of its tokens begins."""

    text: str
    starts: Sequence[int]
    is_reasoning: bool
    mark_tokens: int

    @classmethod
    def of(cls, span: Span, part: SoftPart, tokenizer: Tokenizer, limit: int) -> _SoftText:
        text = span.text[part.start : part.end]
        # The middle of a very long text is lost anyway: it need not be looked at.
        window = limit * _MOST_CHARACTERS_A_TOKEN
        if len(text) > 2 * window:
            text = text[:window] + ("" if part.is_reasoning else MARK + text[-window:])
        return cls(
            text=text,
            starts=tokenizer.token_starts(text),
            is_reasoning=part.is_reasoning,
            mark_tokens=len(tokenizer.encode_text(MARK)),
        )

    def shortened(self, count: int) -> str:
        """Return the text in about `count` tokens: its beginning, or both ends of a question."""
        if count >= len(self.starts):
            return self.text
        if self.is_reasoning:
            return self.text[: self.starts[count]].rstrip("\n")
        count = max(count - self.mark_tokens, 2)
        head, tail = count - count // 2, count // 2
        return self.text[: self.starts[head]] + MARK + self.text[self.starts[-tail] :]


def _level(counts: Sequence[int], excess: int) -> int | None:
    """Find the highest number of tokens that, as the most any text keeps, saves `excess` tokens.

    None where KEPT_TOKENS a text would still be too many.
    """
    levels = range(KEPT_TOKENS, max(counts, default=0) + 1)
    # The higher the level, the less it saves.
    enough = bisect_right(
        levels, -excess, key=lambda level: -sum(max(0, count - level) for count in counts)
    )
    return levels[enough - 1] if enough else None


def _with_texts(
    piece: tuple[Span, Sequence[int]], texts: Sequence[str], tokenizer: Tokenizer
) -> tuple[Span, Sequence[int]]:
    """Put other texts in the place of a span's soft parts."""
    span = piece[0]
    text, end = "", 0
    for part, new in zip(span.soft, texts, strict=True):
        text += span.text[end : part.start] + new
        end = part.end
    text += span.text[end:]
    if text == span.text:
        return piece
    return replace(span, text=text, soft=()), tokenizer.encode_text(text)


def truncate_like_llamafactory(pieces: Pieces, limit: int, *, last_first: bool) -> Pieces:
    """Give each turn its share of the tokens that the turns before it left, cutting at the end.

    last_first: the last turn is served first, as LLaMA-Factory does with mask_history. Source of
    the rule: its data/processor/supervised.py.
    """
    runs = [list(run) for _key, run in groupby(pieces, key=lambda piece: piece[0].in_answer)]
    turns = [(runs[i], runs[i + 1]) for i in range(0, len(runs) - 1, 2)]
    room = limit
    kept: list[Pieces] = []
    for source, target in reversed(turns) if last_first else turns:
        if room <= 0:
            break
        source_tokens, target_tokens = shares(num_tokens(source), num_tokens(target), room)
        kept.append([*_first(source, source_tokens), *_first(target, target_tokens)])
        room -= source_tokens + target_tokens
    return [piece for turn in (reversed(kept) if last_first else kept) for piece in turn]


def shares(source: int, target: int, room: int) -> tuple[int, int]:
    """Return the tokens that question and answer keep of `room` (LLaMA-Factory's infer_seqlen)."""
    if 2 * target < room:
        most = room
    elif 2 * source < room:
        most = room - source
    else:
        most = int(room * (target / (source + target)))  # in floating point, as there
    kept = min(most, target)
    return min(max(room - kept, 0), source), kept


def _first(pieces: Pieces, count: int) -> Pieces:
    """Keep the first `count` tokens."""
    kept: Pieces = []
    for span, ids in pieces:
        if count > 0:
            kept.append((span, ids[:count]))
        count -= len(ids)
    return kept
