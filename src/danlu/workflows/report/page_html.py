"""A page as one HTML file: no network, no script, light and dark, on paper too.

Every text is escaped; a policy in the page forbids the browser to load or run anything, so that
even a mistake here could not let a model's answer act.
"""

from __future__ import annotations

from html import escape

from danlu.language import chosen_language
from danlu.runs.curve import GRID, HELD_OUT, SMOOTHED, TRAIN
from danlu.workflows.report.page import (
    Heading,
    Page,
    Paragraph,
    Part,
    Picture,
    Said,
    SideBySide,
    Table,
    shown,
)

# What every page of ours has: the colours, the body and the headings.
_COMMON_STYLE = """
:root { color-scheme: light dark; --page: #fbfaf8; --card: #fff; --ink: #22262b; --dim: #667079;
  --line: #dfdcd5; --accent: #b8430c; --train: #35566b; --faint: #9db4c0; --warn: #fff2dc; }
@media (prefers-color-scheme: dark) { :root { --page: #15181b; --card: #1d2125; --ink: #e4e2dd;
  --dim: #98a1a9; --line: #343a40; --accent: #f08a4b; --train: #8fb8d0; --faint: #45596a;
  --warn: #3a2d16; } }
@media print { :root { --page: #fff; --card: #fff; --ink: #000; --dim: #444; --line: #bbb;
  --train: #35566b; --faint: #9db4c0; --accent: #b8430c; --warn: #fff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, "Noto Sans", "Noto Sans CJK SC",
  "PingFang SC", "Microsoft YaHei", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); break-after: avoid; overflow-wrap: anywhere; }
"""
_STYLE = """
.subtitle { color: var(--dim); margin: .3rem 0 0; overflow-wrap: anywhere; }
.warning { background: var(--warn); border-left: 4px solid var(--accent); padding: .6rem .9rem;
  border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; background: var(--card);
  border: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .45rem .8rem;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; min-width: 5.5rem; }
thead th { color: var(--dim); font-weight: 600; font-size: .82rem; border-top: 0; }
tbody th { font-weight: 500; min-width: 9rem; }
tr, article, figure { break-inside: avoid; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); padding: .8rem; }
figcaption { display: flex; gap: 1.4rem; color: var(--dim); font-size: .8rem;
  margin-bottom: .3rem; }
figcaption span:first-child { flex: 1; }
figcaption i { display: inline-block; width: 1.4rem; height: 3px; margin-right: .5rem;
  vertical-align: middle; }
.below { justify-content: end; margin: 0; }
svg { display: block; width: 100%; height: auto; font-size: 13px; fill: var(--dim); }
article { background: var(--card); border: 1px solid var(--line); margin: 0 0 1rem; }
article header { padding: .7rem .9rem; border-bottom: 1px solid var(--line); }
.place { color: var(--dim); font-size: .8rem; overflow-wrap: anywhere; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); }
.answers section { padding: .7rem .9rem; border-left: 1px solid var(--line); margin-left: -1px; }
h3 { margin: 0 0 .35rem; font-size: .8rem; color: var(--dim); font-weight: 600; }
h3 em { color: var(--accent); font-style: normal; font-weight: 500; }
h3 em.praise { color: var(--train); }
.text, .thought { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 22rem;
  overflow-y: auto; }
.thought { color: var(--dim); font-size: .88rem; border-left: 2px solid var(--line);
  padding-left: .6rem; margin-bottom: .5rem; }
@media (max-width: 40rem) { th, td { padding: .45rem .5rem; } tbody th { min-width: 7rem; }
  figcaption { flex-wrap: wrap; gap: .2rem 1rem; } figcaption span:first-child { flex: 1 0 100%; }
  figure svg { font-size: 22px; overflow: visible; } }
@media print { body { padding: 0 2px; font-size: 11pt; }
  article { break-inside: auto; } article header { break-after: avoid; }
  .text, .thought { max-height: none; } }
"""
_COLOURS = {
    TRAIN: "var(--faint)",
    SMOOTHED: "var(--train)",
    HELD_OUT: "var(--accent)",
    GRID: "var(--line)",
}
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)
CLOSING = "</body></html>\n"


def to_html(page: Page) -> str:
    """Write a page as a complete HTML document."""
    subtitle = f'<p class="subtitle">{escaped(page.subtitle)}</p>'
    start = opening(page.title, style=_STYLE, head=_POLICY)
    return "\n".join((start, subtitle, *map(_part, page.parts), CLOSING))


def opening(title: str, *, style: str, head: str = "") -> str:
    """Return the beginning of a document, up to its title inside the body; CLOSING ends it.

    style: rules beside the common ones. head: markup for the document's head.
    """
    language = "zh-CN" if chosen_language() == "zh_CN" else "en"
    return "\n".join(
        (
            "<!doctype html>",
            f'<html lang="{language}">',
            f'<head><meta charset="utf-8">{head}',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title>",
            f"<style>{_COMMON_STYLE}{style}</style></head>",
            "<body>",
            f"<h1>{escaped(title)}</h1>",
        )
    )


def escaped(text: str) -> str:
    """Return untrusted text as HTML shows it: no markup, no control characters."""
    return escape(shown(text))


def _part(part: Part) -> str:
    if isinstance(part, Heading):
        return f"<h2>{escaped(part.text)}</h2>"
    if isinstance(part, Paragraph):
        kind = ' class="warning"' if part.is_warning else ""
        return f"<p{kind}>{escaped(part.text)}</p>"
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Picture):
        return _picture(part)
    return _side_by_side(part)


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{escaped(head)}</th>' for head in table.heads)
    rows = "".join(
        f'<tr><th scope="row">{escaped(cells[0])}</th>'
        + "".join(f"<td>{escaped(cell)}</td>" for cell in cells[1:])
        + "</tr>"
        for cells in table.rows
    )
    head = f"<thead><tr>{heads}</tr></thead>" if any(table.heads) else ""
    return f'<div class="wide"><table>{head}<tbody>{rows}</tbody></table></div>'


def _side_by_side(part: SideBySide) -> str:
    answers = "".join(f"<section>{_said(head, said)}</section>" for head, said in part.answers)
    return (
        f'<article><header><div class="place">{escaped(part.place)}</div>'
        f'<div class="text" dir="auto">{escaped(part.prompt)}</div></header>'
        f'<div class="answers">{answers}</div></article>'
    )


def _picture(picture: Picture) -> str:
    """Draw in the page's own colours, so that the picture follows light, dark and paper."""
    svg = picture.svg
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, variable)
    legend = "".join(
        f'<span><i style="background: {_COLOURS[colour]}"></i>{escaped(name)}</span>'
        for name, colour in picture.legend
    )
    label = f"{picture.y_label}: {', '.join(name for name, _colour in picture.legend)}"
    return (
        f"<figure><figcaption><span>{escaped(picture.y_label)}</span>{legend}</figcaption>"
        f'<div role="img" aria-label="{escaped(label)}">{svg}</div>'
        f'<figcaption class="below">{escaped(picture.x_label)}</figcaption></figure>'
    )


def _said(head: str, said: Said) -> str:
    kind = ' class="praise"' if said.is_praise else ""
    remark = f" <em{kind}>{escaped(said.remark)}</em>" if said.remark else ""
    thought = (
        f'<div class="thought" dir="auto">{escaped(said.thought)}</div>' if said.thought else ""
    )
    return (
        f"<h3>{escaped(head)}{remark}</h3>{thought}"
        f'<div class="text" dir="auto">{escaped(said.text)}</div>'
    )
