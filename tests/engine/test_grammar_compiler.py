"""Structured answers: what a random model writes is valid; what is hostile costs little."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.engine import grammar_compiler as grammars
from danlu.engine.grammar import Grammar
from danlu.engine.grammar_compiler import MAX_SOURCE_CHARACTERS, GrammarCompiler, Guide
from danlu.engine.request import Request, SamplingSettings, Thinking
from danlu.engine.sampling.sampler import ChosenToken, Sampler, sample
from danlu.errors import CapacityError, UsageError
from danlu.text.parse import Parser, Text
from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.timing import processor_time

SIZE = tokenizer().vocab_size + 6
COMPILER = GrammarCompiler(tokenizer())
END = tokenizer().control_id("<|im_end|>")
TAGS = {tag: tokenizer().encode_text(tag)[0] for tag in ("<think>", "</think>")}


def write(
    grammar: Grammar,
    *,
    seed: int,
    max_tokens: int = 600,
    thinking: Thinking | None = None,
    ends: frozenset[int] = frozenset({END}),
    **asked: Any,
) -> tuple[list[int], bool]:
    """What a random model writes under a grammar, and whether it came to its end."""
    sampling = SamplingSettings(grammar=grammar, seed=seed, **asked)
    request = Request(prompt=(0,), sampling=sampling, thinking=thinking, end_token_ids=ends)
    subject = Sampler(
        request, tokenizer(), vocab_size=SIZE, guide=COMPILER.compiled(grammar).guide()
    )
    generator = torch.Generator().manual_seed(seed)
    tokens: list[int] = []
    while len(tokens) < max_tokens:
        (choice,) = sample(torch.randn(1, SIZE, generator=generator) * 3, [subject])
        assert isinstance(choice, ChosenToken), choice
        if choice.token in ends:
            return tokens, True
        tokens.append(choice.token)
        if subject.is_done:
            return tokens, True
    return tokens, False


def text_of(tokens: Sequence[int]) -> str:
    return b"".join(map(tokenizer().token_bytes, tokens)).decode()


def follow(guide: Guide, tokens: Sequence[int]) -> None:
    """Go on by tokens, each of which must be allowed."""
    for token in tokens:
        allowed, _may_end = guide.allowed()
        assert allowed[token]
        guide.accept(token)


# Schemas whose values stay short, and a checker that knows just these words.
LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 4)),
    st.builds(lambda n: {"type": "integer", "minimum": 0, "maximum": n}, st.integers(0, 999)),
    st.builds(
        lambda values: {"enum": values},
        st.lists(st.text(max_size=4) | st.integers(-9, 9), min_size=1, max_size=4),
    ),
)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(
            lambda items, n: {"type": "array", "items": items, "maxItems": n},
            inner,
            st.integers(0, 3),
        ),
        st.dictionaries(st.text(min_size=1, max_size=4), inner, max_size=3).map(_object),
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("text", ["\uf900", "e\u0301", "\u212b", "\u1100\u1161"])
def test_text_that_the_tokenizer_would_normalise_is_written_as_asked(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode_text(text)) != text
    schema = _object({text: {"enum": [text]}})
    tokens, ended = write(Grammar(kind="json_schema", source=json.dumps(schema)), seed=0)
    assert ended
    assert json.loads(text_of(tokens)) == {text: text}
    tokens, ended = write(Grammar(kind="choice", source=json.dumps([text])), seed=0)
    assert (text_of(tokens), ended) == (text, True)


def conforms(value: Any, schema: dict[str, Any]) -> bool:
    if "enum" in schema:
        return any(value == one and type(value) is type(one) for one in schema["enum"])
    kind = schema["type"]
    if kind == "object":
        inner = schema["properties"]
        return value.keys() == inner.keys() and all(conforms(value[k], inner[k]) for k in inner)
    if kind == "array":
        return len(value) <= schema["maxItems"] and all(conforms(v, schema["items"]) for v in value)
    if kind == "string":
        return isinstance(value, str) and len(value) <= schema["maxLength"]
    if kind == "integer":
        return type(value) is int and 0 <= value <= schema["maximum"]
    return value is None if kind == "null" else isinstance(value, bool)


@settings(max_examples=40)
@given(schema=SCHEMAS, seed=st.integers(0, 99), cut=st.integers(0, 30))
def test_json_by_a_schema_is_valid_and_a_cut_one_can_be_completed(
    schema: dict[str, Any], seed: int, cut: int
) -> None:
    grammar = Grammar(kind="json_schema", source=json.dumps(schema))
    tokens, ended = write(grammar, seed=seed, max_tokens=5000)
    assert ended
    assert conforms(json.loads(text_of(tokens)), schema)
    begun, _ended = write(grammar, seed=seed, max_tokens=cut + 1)
    assert begun == tokens[: cut + 1]
    follow(COMPILER.compiled(grammar).guide(), begun)


@settings(max_examples=30)
@given(
    source=st.sampled_from(
        ["[a-z]{3}", r"[0-9]+(\.[0-9]{1,2})?", "(ja|nein)!?", "你好[吗？]{0,3}", "a?"]
    ),
    seed=st.integers(0, 99),
)
def test_a_regex_matches_the_whole_answer(source: str, seed: int) -> None:
    tokens, ended = write(Grammar(kind="regex", source=source), seed=seed)
    assert ended
    assert re.fullmatch(source, text_of(tokens))


@settings(max_examples=40)
@given(choices=st.lists(st.text(max_size=6), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_the_answer_is_one_of_the_choices(choices: list[str], seed: int) -> None:
    tokens, ended = write(Grammar(kind="choice", source=json.dumps(choices)), seed=seed)
    assert ended
    assert text_of(tokens) in choices


def test_a_json_object_and_a_lark_grammar() -> None:
    for seed in range(5):
        tokens, ended = write(
            Grammar(kind="json_object", source=""), seed=seed, max_tokens=2000, logit_bias=_BRIEF
        )
        assert ended
        assert isinstance(json.loads(text_of(tokens)), dict)
    call = 'start: "<tool_call>\\n" body "\\n</tool_call>"\nbody: %json {"const": {"name": "f"}}'
    tokens, ended = write(Grammar(kind="lark", source=call), seed=0)
    assert ended
    assert re.fullmatch(r'<tool_call>\n\{\s*"name"\s*:\s*"f"\s*\}\n</tool_call>', text_of(tokens))


# A random model finds no end by itself: it is drawn to what closes strings, lists and objects.
_BRIEF = tuple((tokenizer().encode_text(mark)[0], 8.0) for mark in ('"', "}", "]"))


def test_ids_without_text_and_control_tokens_are_impossible() -> None:
    allowed, may_end = COMPILER.compiled(Grammar(kind="regex", source="(?s:.)*")).guide().allowed()
    assert may_end
    barred = {id_ for id_ in range(tokenizer().vocab_size) if not allowed[id_]}
    assert tokenizer().control_ids <= barred
    assert TAGS["<think>"] not in barred
    for seed in range(10):
        tokens, _ended = write(Grammar(kind="regex", source="(?s:.){40}"), seed=seed)
        assert not tokenizer().control_ids & set(tokens)
        assert max(tokens) < tokenizer().vocab_size
        assert len(text_of(tokens)) == 40


def test_without_end_tokens_a_complete_grammar_ends_the_answer() -> None:
    tokens, ended = write(Grammar(kind="choice", source='["yes"]'), seed=0, ends=frozenset())
    assert ended
    assert text_of(tokens) == "yes"


def test_min_tokens_holds_where_the_grammar_lets_the_text_grow() -> None:
    for seed in range(5):
        tokens, _ended = write(
            Grammar(kind="regex", source="[a-z]*"),
            seed=seed,
            min_tokens=7,
            logit_bias=((END, 50.0),),
        )
        assert len(tokens) == 7
    tokens, ended = write(Grammar(kind="choice", source='["a"]'), seed=0, min_tokens=7)
    assert (text_of(tokens), ended) == ("a", True)
    assert write(Grammar(kind="choice", source='[""]'), seed=0, min_tokens=7) == ([], True)


@settings(max_examples=30)
@given(
    is_open=st.booleans(),
    budget=st.sampled_from([None, 0, 3]),
    seed=st.integers(0, 99),
    ends_itself=st.booleans(),
)
def test_what_is_seen_behind_a_thought_keeps_to_the_grammar(
    is_open: bool, budget: int | None, seed: int, ends_itself: bool
) -> None:
    closing = tuple(tokenizer().encode_text("\n</think>\n\n"))
    thinking = Thinking(
        start_id=TAGS["<think>"],
        end_id=TAGS["</think>"],
        closing=closing,
        is_open=is_open,
        budget=budget,
    )
    schema = {"type": "object", "properties": {"a": {"enum": [1, "x"]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    wishes = [(END, 12.0)]  # to end at once, even inside the thought
    if ends_itself or budget is None:
        wishes.append((TAGS["</think>"], 12.0))
    tokens, ended = write(
        Grammar(kind="json_schema", source=json.dumps(schema)),
        seed=seed,
        thinking=thinking,
        logit_bias=tuple(wishes),
    )
    assert ended
    parser = Parser(starts_in_thought=is_open)
    pieces = parser.feed(text_of_answer(tokens)) + parser.finish()
    seen = "".join(piece.text for piece in pieces if isinstance(piece, Text))
    assert json.loads(seen)["a"] in (1, "x")
    assert seen == seen.strip()


def text_of_answer(tokens: Sequence[int]) -> str:
    return tokenizer().decode(tokens)


BROKEN = [
    Grammar(kind="json_schema", source="{"),
    Grammar(kind="json_schema", source="[]"),
    Grammar(kind="json_schema", source='{"type": "something"}'),
    Grammar(kind="json_schema", source='{"type": "string", "pattern": "("}'),
    Grammar(kind="json_schema", source='{"type": "string", "pattern": "(?=a)b"}'),
    Grammar(kind="json_schema", source='{"$ref": "http://127.0.0.1:9/schema.json"}'),
    Grammar(kind="json_schema", source='{"$ref": "file:///etc/passwd"}'),
    Grammar(kind="json_schema", source='{"$ref": "#/$defs/missing"}'),
    Grammar(kind="json_schema", source='{"enum": ["\\ud800"]}'),
    Grammar(kind="json_schema", source='{"enum": []}'),
    Grammar(kind="json_schema", source='{"type": "string", "minLength": 5, "maxLength": 2}'),
    Grammar(kind="json_schema", source='{"a":' * 3000 + "1" + "}" * 3000),
    Grammar(kind="regex", source="(a"),
    Grammar(kind="regex", source=r"(a)\1"),
    Grammar(kind="regex", source="[z-a]"),
    Grammar(kind="regex", source="(" * 3000 + "a" + ")" * 3000),
    Grammar(kind="regex", source="a" * (MAX_SOURCE_CHARACTERS + 1)),
    Grammar(kind="choice", source="[]"),
    Grammar(kind="choice", source="[1]"),
    Grammar(kind="choice", source='"a"'),
    Grammar(kind="lark", source="begin: X"),
    Grammar(kind="lark", source="start: missing"),
    Grammar(kind="lark", source="start: " + "(" * 3000 + '"a"' + ")" * 3000),
]


@pytest.mark.parametrize("grammar", BROKEN, ids=lambda grammar: grammar.source[:40])
def test_a_broken_grammar_is_refused_with_the_reason(grammar: Grammar) -> None:
    with pytest.raises(UsageError) as problem:
        COMPILER.compiled(grammar)
    assert problem.value.why
    assert len(str(problem.value)) < 1000


_RECURSIVE = {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [{"$ref": "#/$defs/n"}] * 3}}}
_TREE = {
    "$ref": "#/$defs/node",
    "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
}
HOSTILE = {
    "nested quantifiers": Grammar(kind="regex", source="((((a+)+)+)+)+$"),
    "nested counts": Grammar(kind="regex", source="((((a{1,99}){1,99}){1,99}){1,99}){1,99}"),
    "wide alternatives": Grammar(kind="regex", source="(a|b|ab)*c" * 50),
    "long memory": Grammar(kind="regex", source="(a|b)*a(a|b){60}"),
    "long memory of any text": Grammar(kind="regex", source=".*x.{300}"),
    "large counts": Grammar(kind="regex", source="(.{0,5000}x){0,5000}"),
    "unicode classes": Grammar(kind="regex", source=r"(\p{L}\p{N}?\w){200}"),
    "deep": Grammar(kind="regex", source="(" * 100 + "a" + ")*" * 100),
    "huge enum": Grammar(
        kind="json_schema", source=json.dumps({"enum": [f"value {n}" for n in range(8000)]})
    ),
    "many choices": Grammar(kind="choice", source=json.dumps([f"c{n}" for n in range(10000)])),
    "many properties": Grammar(
        kind="json_schema",
        source=json.dumps({"properties": {f"p{n}": {"type": "string"} for n in range(3000)}}),
    ),
    "no way out": Grammar(kind="json_schema", source=json.dumps(_RECURSIVE)),
    "tree": Grammar(kind="json_schema", source=json.dumps(_TREE)),
    "bounds": Grammar(
        kind="json_schema",
        source='{"type":"array","minItems":100000,"maxItems":10000000,"items":{"type":"string"}}',
    ),
    "multiples": Grammar(
        kind="json_schema", source='{"type":"integer","multipleOf":99991,"minimum":-99999999999}'
    ),
    "all of": Grammar(
        kind="json_schema",
        source=json.dumps({"allOf": [{"type": "string", "pattern": f"x{n}"} for n in range(40)]}),
    ),
    "ambiguous": Grammar(kind="lark", source='start: s\ns: s s s | s s | "a" | '),
    "left recursion": Grammar(kind="lark", source='start: a\na: b "x" | \nb: a | b a'),
    "a repeated literal behind a choice": Grammar(kind="regex", source="[ab](ab){1000000}"),
    "a repeated literal in a schema": Grammar(
        kind="json_schema",
        source='{"properties": {"x": {"pattern": "^(ab){1000000}$"}}, "required": ["x"]}',
    ),
    "not": Grammar(kind="lark", source="start: T\nT: ~/(.*a.*){30}/ & /(.|\\n)*b{50}/"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_grammar_is_refused_or_cheap(name: str) -> None:
    """The bounds are several times what a slow machine needs; a hang is what they find."""
    with processor_time() as spent:
        try:
            guide = COMPILER.compiled(HOSTILE[name]).guide()
        except UsageError:
            guide = None
    assert spent.seconds < 5.0
    generator = torch.Generator().manual_seed(0)
    for _step in range(30 if guide else 0):
        with processor_time() as spent:
            went_on = one_random_token(guide, generator)
        assert spent.seconds < 1.0
        if not went_on:
            break


def one_random_token(guide: Any, generator: torch.Generator) -> bool:
    try:
        allowed, _may_end = guide.allowed()
        ways = torch.nonzero(allowed).squeeze(1)
        if not len(ways):
            return False
        guide.accept(int(ways[int(torch.randint(len(ways), (), generator=generator))]))
    except UsageError:
        return False
    return True


def test_a_grammar_without_a_way_on_fails_its_own_row_only() -> None:
    lost = Grammar(kind="lark", source='start: "a" T\nT: /b/ & /c/')
    try:
        guide = COMPILER.compiled(lost).guide()
    except UsageError:
        return
    requests = [
        Request(prompt=(0,), sampling=SamplingSettings(grammar=lost, seed=0)),
        Request(prompt=(0,), sampling=SamplingSettings(seed=0)),
    ]
    samplers = [
        Sampler(
            request, tokenizer(), vocab_size=SIZE, guide=guide if request is requests[0] else None
        )
        for request in requests
    ]
    outcomes: list[ChosenToken | Exception] = []
    for _step in range(3):
        outcomes = sample(torch.zeros(2, SIZE), samplers)
    assert isinstance(outcomes[0], Exception)
    assert isinstance(outcomes[1], ChosenToken)


def test_any_thread_may_compile_and_guides_are_independent() -> None:
    compiler = GrammarCompiler(tokenizer())
    grammars = [Grammar(kind="regex", source=f"[a-z]{{{n}}}") for n in range(1, 5)] * 4
    with ThreadPoolExecutor(8) as pool:
        guides = list(pool.map(lambda grammar: compiler.compiled(grammar).guide(), grammars))
    letter = tokenizer().encode_text("a")[0]
    for place, guide in enumerate(guides):
        follow(guide, [letter] * (place % 4 + 1))
        assert guide.is_complete
    assert not compiler.compiled(grammars[0]).guide().is_complete


FORCED = [
    Grammar(kind="regex", source="(ab){1000000}"),
    Grammar(kind="regex", source="(ab){5000}"),
    Grammar(kind="regex", source="(a{1000}){1000000}"),
    Grammar(kind="lark", source="start: A\nA: /(ab){1000000}/"),
    Grammar(kind="json_schema", source='{"type": "string", "pattern": "^x(ab){1000000}$"}'),
    Grammar(kind="json_schema", source=json.dumps({"const": "ab" * 30_000})),
    Grammar(kind="choice", source=json.dumps(["ab" * 30_000, "c"])),
]


@pytest.mark.parametrize("grammar", FORCED)
def test_a_text_without_choices_is_bounded(grammar: Grammar) -> None:
    """The engine would follow it in one step to its end, while all other answers wait."""
    compiler = GrammarCompiler(tokenizer())
    with pytest.raises(UsageError):
        compiler.compiled(grammar)
    assert compiler.kilobytes == 0


def test_a_short_text_without_choices_is_followed() -> None:
    guide = COMPILER.compiled(Grammar(kind="regex", source="(ab){1000}")).guide()
    follow(guide, tokenizer().encode_text("ab" * 1000))
    assert guide.is_complete


def test_what_is_kept_compiled_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(tokenizer())
    monkeypatch.setattr(grammars, "CACHE_KILOBYTES", 4096)
    tried: list[str] = []
    real = grammars._try_out

    def noted(source: str) -> int:
        tried.append(source)
        return max(real(source), 1500)

    monkeypatch.setattr(grammars, "_try_out", noted)
    sources = ["[a-z]{1}", "[a-z]{2}", "[a-z]{1}", "[a-z]{3}", "[a-z]{1}", "[a-z]{2}"]
    for source in sources:
        compiler.compiled(Grammar(kind="regex", source=source))
        assert 1500 <= compiler.kilobytes <= 4096
    assert len(tried) == 4  # the second was used least recently when the third came


def test_what_requests_hold_stays_compiled_and_leaves_less_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = GrammarCompiler(tokenizer())
    monkeypatch.setattr(grammars, "CACHE_KILOBYTES", 3 * grammars._USUAL_KILOBYTES)
    held = [
        compiler.compiled(Grammar(kind="choice", source=json.dumps([f"a{n}"]))) for n in range(3)
    ]
    another = Grammar(kind="choice", source='["b"]')
    with pytest.raises(CapacityError):
        compiler.compiled(another)
    # Nothing is kept any more, and what is held is not compiled twice.
    assert compiler.compiled(Grammar(kind="choice", source='["a1"]')) is held[1]
    follow(held[0].guide(), tokenizer().encode_text("a0"))
    held.pop()
    compiler.compiled(another)
