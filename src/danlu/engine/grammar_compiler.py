"""Structured answers: which tokens keep to a JSON schema, an expression, choices or a Lark grammar.

llguidance compiles a grammar and computes, step by step, the tokens that may come next. It gets
the vocabulary of our tokenizer, with an end token of its own behind it: which of a request's ids
end an answer is the sampler's affair. Control tokens are never part of a text; `<think>` and its
like are text.

A grammar is untrusted input, and a bad one may fail only its own request: its length is bounded, it
is tried out in a process of its own before it is compiled here, and llguidance bounds the work of
every step but the first, which the trial bounds. Nothing is ever fetched: references to other
documents are refused. Must not know sampling.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from torch import Tensor

from danlu.engine.grammar import Grammar, GrammarKind
from danlu.engine.grammar_trial import FORCED_BYTES, LEXER_STATES
from danlu.errors import CapacityError, UsageError
from danlu.language import _
from danlu.reasons import library_reason, reason_of
from danlu.text.tokenizer import Tokenizer
from danlu.units import readable_bytes

MAX_SOURCE_CHARACTERS = 128 * 1024
# What may stand between the parts of JSON: nothing, a space, or a new line and its indentation.
# Models get lost where more blanks may follow each other.
JSON_WHITE_SPACE = r"\x20|\x0A\x20{0,24}|\x0A\x09{0,8}"
# What the grammars that are kept compiled may take together, and one of them.
CACHE_KILOBYTES = 256 * 1024
MOST_KILOBYTES = 64 * 1024
# What is not tried out counts as this: choices, which are short, and any JSON object.
_USUAL_KILOBYTES = 1024
_TRIAL = Path(__file__).with_name("grammar_trial.py")
_TRIAL_SECONDS = 20.0  # of waiting; the trial itself ends after half a second of work
# Its other bounds, of the work of a step, suit us: some 50 ms.
_LIMITS = LLParserLimits(max_lexer_states=LEXER_STATES, verbose_errors=False)


class Guide:
    """Follows one answer through a grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_complete(self) -> bool:
        """Whether the text is whole and nothing may follow it."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed(self) -> tuple[Tensor, bool]:
        """Return which ids may come next, and whether the text may end instead.

        The ids are [V] bool on the CPU, V the tokenizer's vocab_size. Raises UsageError where
        nothing may come, or finding out takes too much work.
        """
        marks = bytearray(self._matcher.compute_logit_bias())  # a byte for each id and for the end
        if self._matcher.is_error():
            raise _stuck()
        allowed = torch.frombuffer(marks, dtype=torch.uint8).bool()
        return allowed[:-1], bool(allowed[-1])

    def accept(self, token: int) -> None:
        """Advance by a token that was allowed. Raises UsageError where the grammar refuses it."""
        if not self._matcher.consume_token(token):
            raise _stuck()


class CompiledGrammar:
    """A grammar that guides can be made of, at once and on any thread. kilobytes: what it takes."""

    def __init__(self, matcher: LLMatcher, kilobytes: int) -> None:
        self._matcher = matcher
        self.kilobytes = kilobytes

    def guide(self) -> Guide:
        """Return a guide for one more answer."""
        return Guide(self._matcher.deep_copy())


class GrammarCompiler:
    """Compiles grammars. Any thread may ask; the latest are kept.

    Those that requests hold and those that are kept take CACHE_KILOBYTES together at most.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._kept: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()  # the latest used is last
        self._alive: WeakValueDictionary[Grammar, CompiledGrammar] = WeakValueDictionary()

    @property
    def kilobytes(self) -> int:
        """How much the grammars take that are kept, or that somebody holds."""
        return sum(compiled.kilobytes for compiled in self._alive.values())

    def compiled(self, grammar: Grammar) -> CompiledGrammar:
        """Return a grammar compiled.

        The first time this starts a process, which takes about a tenth of a second, and the very
        first time it prepares the vocabulary, which takes about one. Raises UsageError for a
        grammar that is wrong, too long or too complex, and CapacityError where there is no room
        for it beside those of the requests under way.
        """
        with self._lock:
            if found := self._alive.get(grammar):
                return self._keep(grammar, found)
        found = self._compile(grammar)
        with self._lock:
            if other := self._alive.get(grammar):  # another thread was quicker
                return self._keep(grammar, other)
            while self._kept and self.kilobytes + found.kilobytes > CACHE_KILOBYTES:
                self._kept.popitem(last=False)
            if self.kilobytes + found.kilobytes > CACHE_KILOBYTES:
                raise CapacityError(
                    _("There is no memory for one more grammar."),
                    why=_("Those of the answers under way take {size} of it.").format(
                        size=readable_bytes(1024 * self.kilobytes)
                    ),
                    fix=_("Ask again when an answer has ended."),
                )
            self._alive[grammar] = found
            return self._keep(grammar, found)

    def _keep(self, grammar: Grammar, found: CompiledGrammar) -> CompiledGrammar:
        self._kept[grammar] = found
        self._kept.move_to_end(grammar)
        return found

    def _compile(self, grammar: Grammar) -> CompiledGrammar:
        if len(grammar.source) > MAX_SOURCE_CHARACTERS:
            raise _refused(
                _("It has {length} characters, {most} at most are read.").format(
                    length=len(grammar.source), most=MAX_SOURCE_CHARACTERS
                )
            )
        try:
            source = _READERS[grammar.kind](grammar.source)
        except (ValueError, RecursionError) as problem:
            raise _refused(reason_of(problem)) from problem
        size = _USUAL_KILOBYTES
        if grammar.kind not in ("choice", "json_object"):
            size = _try_out(source)
        matcher = LLMatcher(self._library, source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise _refused(library_reason(matcher.get_error()))
        return CompiledGrammar(matcher, size)

    @cached_property
    def _library(self) -> LLTokenizer:
        return LLTokenizer(TokenizerWrapper(_Vocabulary(self._tokenizer)))


class _Vocabulary:
    """Our tokenizer, as llguidance asks for one."""

    eos_token_id = None  # it adds an id for the end
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.token_bytes(id_) for id_ in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.control_ids)
        self._single = {token: id_ for id_, token in enumerate(self.tokens) if len(token) == 1}

    def __call__(self, text: str | bytes) -> list[int]:
        """Return ids that spell the text; byte by byte where the tokenizer would change it.

        A tokenizer that normalises (Qwen's, to NFC) writes other bytes than a grammar asks for,
        and none of its ids would be allowed.
        """
        spelt = text.encode() if isinstance(text, str) else text
        ids = self._tokenizer.encode_text(spelt.decode("utf-8", "replace"))
        if b"".join(self.tokens[id_] for id_ in ids) == spelt:
            return ids
        return [self._single[spelt[at : at + 1]] for at in range(len(spelt))]


def _json_schema(source: str) -> str:
    if not isinstance(json.loads(source), dict):
        raise ValueError(_("a JSON schema is an object"))
    return LLMatcher.grammar_from_json_schema(
        source,
        overrides={
            "whitespace_pattern": JSON_WHITE_SPACE,
            "item_separator": ",",
            "key_separator": ":",
        },
    )


def _choice(source: str) -> str:
    choices = json.loads(source)
    if not isinstance(choices, list) or not choices:
        raise ValueError(_("choices are a list that is not empty"))
    if not all(isinstance(choice, str) for choice in choices):
        raise ValueError(_("every choice is a text"))
    if any(len(choice.encode()) > FORCED_BYTES for choice in choices):
        raise ValueError(_("a choice has at most {most} bytes").format(most=FORCED_BYTES))
    # In capitals: one expression, where a rule would cost an item for each choice and step.
    return _lark("start: CHOICE\nCHOICE: " + " | ".join(map(json.dumps, choices)))


def _lark(source: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": source}]})


_READERS: dict[GrammarKind, Callable[[str], str]] = {
    "json_schema": _json_schema,
    "json_object": lambda _source: _json_schema('{"type": "object"}'),
    "regex": LLMatcher.grammar_from_regex,
    "choice": _choice,
    "lark": _lark,
}


def _try_out(source: str) -> int:
    """Compile a grammar where it can do no harm; return the kilobytes that it takes.

    Raises UsageError where it is wrong, or would do harm.
    """
    command = [sys.executable, "-I", str(_TRIAL)]
    try:
        done = subprocess.run(
            command, input=source.encode(), capture_output=True, check=True, timeout=_TRIAL_SECONDS
        )
    except subprocess.SubprocessError as problem:
        raise _refused(_("It is too complex.")) from problem
    size, _space, error = done.stdout.decode().partition(" ")
    if error:
        raise _refused(error)
    if int(size) > MOST_KILOBYTES:
        raise _refused(_("It is too complex."))
    return max(int(size), _USUAL_KILOBYTES)


def _refused(reason: str) -> UsageError:
    one_line = " ".join(reason.split())
    return UsageError(
        _("The grammar for the answer cannot be used."),
        why=one_line if len(one_line) <= 300 else f"{one_line[:300]} ...",
        fix=_("Correct or simplify the schema, the expression or the grammar."),
    )


def _stuck() -> UsageError:
    return UsageError(
        _("The grammar for the answer leads nowhere from here."),
        why=_("No token of the model continues the text, or finding one takes too much work."),
        fix=_("Correct or simplify the schema, the expression or the grammar."),
    )
