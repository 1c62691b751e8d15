"""Arrays and lines of JSON, cut into pieces anywhere: what json.loads reads, row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.findings import BadRow
from danlu.data.reading.encoding import BrokenFile
from danlu.data.reading.json_rows import array_rows, json_rows

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(alphabet=st.characters() | st.sampled_from('\\"[]{}\u2028\n你🤖'), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
layouts = st.fixed_dictionaries(
    {
        "ensure_ascii": st.booleans(),
        "indent": st.none() | st.integers(0, 2),
        "separators": st.sampled_from([None, (",", ":"), (" ,\r\n ", " : ")]),
    }
)


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [piece for piece in [*pieces, text] if piece]


@given(rows=st.lists(values, max_size=5), layout=layouts, sizes=st.lists(st.integers(1, 9)))
def test_an_array_in_pieces_is_what_json_loads_reads(
    rows: list[Any], layout: dict[str, Any], sizes: list[int]
) -> None:
    text = f"\n {json.dumps(rows, **layout)} \r\n"
    contents = [content for _line, content in array_rows(iter(cut(text, sizes)))]
    assert contents == json.loads(text)


@given(
    rows=st.lists(st.tuples(values, st.text(alphabet=" \n\r\t", max_size=5)), max_size=5),
    sizes=st.lists(st.integers(1, 9)),
)
def test_each_row_knows_its_line_or_where_on_it(
    rows: list[tuple[Any, str]], sizes: list[int]
) -> None:
    text, lines, places = "[", [0], []
    for value, space in rows:
        text += "," * bool(places) + space
        line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
        places.append(f"{line}:{column}" if line == lines[-1] else line)
        lines.append(line)
        text += json.dumps(value, indent=1)
    assert [place for place, _content in array_rows(iter(cut(text + "]", sizes)))] == places
    assert len(set(places)) == len(places)


@given(
    text=st.text(alphabet='[]{}",:ab\\ntrue1.e-\n ', max_size=30),
    sizes=st.lists(st.integers(1, 5)),
)
def test_any_text_is_read_as_json_loads_reads_it_or_is_broken(text: str, sizes: list[int]) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    try:
        contents = [content for _line, content in array_rows(iter(cut(text, sizes)))]
    except BrokenFile:
        assert not isinstance(expected, list)
    else:
        assert isinstance(expected, list)
        for content, right in zip(contents, expected, strict=True):
            assert content == right or isinstance(content, BadRow)  # a key that stands twice


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"instruction":"c",\u00a0"output":"d"}', "U+00A0, no-break space, which cannot be seen"),
        ('{"instruction":"c","output":"d"}\u200b', "U+200B, zero width space"),
        ('\ufeff{"instruction":"c","output":"d"}', "U+FEFF, byte order mark"),
        ("{\u201cinstruction\u201d:1}", "\u201c (U+201C, left double quotation mark) is none"),
        ('{"instruction":"c"\uff0c"output":"d"}', "\uff0c (U+FF0C, fullwidth comma) is none"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_what_only_looks_like_json_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"instruction":"a","output":"b"}}\n{text}\n', encoding="utf-8")
    (_first, second) = json_rows(file)
    assert isinstance(second[1], BadRow)
    assert told in second[1].what


def test_a_mark_between_joined_arrays_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('[{"a":1},\ufeff{"a":2}]', encoding="utf-8")
    with pytest.raises(BrokenFile) as caught:
        list(json_rows(file))
    assert "U+FEFF, byte order mark" in caught.value.what
