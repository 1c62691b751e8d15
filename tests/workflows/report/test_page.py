"""A page in both forms: whole, and deaf to whatever its texts would like to be."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from danlu.runs.curve import HELD_OUT, LossCurves, loss_svg
from danlu.workflows.report.page import (
    Heading,
    Page,
    Paragraph,
    Picture,
    Said,
    SideBySide,
    Table,
)
from danlu.workflows.report.page_html import to_html
from danlu.workflows.report.page_markdown import to_markdown

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</div></article></body></html><iframe src=//evil>",
    "'-->]]>&lt;&#60;",
    "```\n# not a heading\n```\n````",
    "| cell | [link](javascript:alert(1)) ![](http://evil/x.png)",
    "\x1b]0;title\x07\x1b[31mred\x9b2J",
    "half \ud800 a character",
)
SVG = loss_svg(LossCurves(train=[(1, 2.0), (2, 1.0)], held_out=[(1, 2.0), (2, 1.0)]))
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "table"),
    *("thead", "tbody", "tr", "th", "td", "figure", "figcaption", "span", "i"),
    *("svg", "text", "path", "circle", "article", "header", "section", "em"),
}


def page(text: str) -> Page:
    """A page that shows one text in every place."""
    said = Said(thought=text, text=text, remark=text)
    picture = Picture(
        svg=SVG, file="loss.png", x_label=text, y_label=text, legend=[(text, HELD_OUT)]
    )
    return Page(
        title=text,
        subtitle=text,
        parts=[
            Heading(text=text),
            Paragraph(text=text, is_warning=True),
            Table(heads=("", text), rows=[(text, text)]),
            picture,
            SideBySide(place=text, prompt=text, answers=((text, said), (text, said))),
        ],
    )


class Reader(HTMLParser):
    """What a browser would find: tags, attributes, text; fails where tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _value in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_html_holds_no_tag_of_a_texts_own(text: str) -> None:
    html = to_html(page(text))
    found = Reader(html)
    assert found.tags <= TAGS
    assert not {name for name in found.attributes if name.startswith("on") or name == "href"}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", html)
    html.encode()


def test_html_shows_the_text_itself() -> None:
    text = "if a < b && c: print('<think>')"
    assert Reader(to_html(page(text))).text.count(text) >= 10


def test_html_needs_nothing_from_outside() -> None:
    html = to_html(page("x"))
    assert "default-src 'none'" in html
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?:", html)


@given(st.text())
def test_any_text_is_safe_in_html(text: str) -> None:
    assert Reader(to_html(page(text))).tags <= TAGS


@given(st.text())
@example("#")
def test_a_fence_always_holds_its_text(text: str) -> None:
    markdown = to_markdown(page(text))
    # Lines between a fence and the next line that is at least as long a fence are text.
    fence, headings = None, 0
    for line in markdown.split("\n"):
        ticks = re.fullmatch(r"(`{3,})(text)?", line)
        if fence is None:
            if ticks and ticks[2]:
                fence = ticks[1]
            headings += line.startswith("#")
        elif ticks and not ticks[2] and len(ticks[1]) >= len(fence):
            fence = None
    assert fence is None
    assert headings == 3


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_has_no_control_characters_and_no_markup_of_a_texts_own(text: str) -> None:
    markdown = to_markdown(page(text))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", markdown)
    markdown.encode()
    outside = re.sub(r"(?ms)^(`{3,})text\n.*?^\1$", "", markdown)
    assert not re.search(r"(?<!\\)<[a-z/]", outside)
    assert not re.search(r"(?<!\\)\]\((?!loss\.png)", outside)


def test_a_cell_stays_in_its_cell() -> None:
    rows = [("a|b", "c\nd")]
    part = Table(heads=("x", "y"), rows=rows)
    text = to_markdown(Page(title="t", subtitle="s", parts=[part]))
    assert text.splitlines()[-1] == "| a\\|b | c d |"
