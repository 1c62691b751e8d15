"""Rows as training sees them, for a terminal and as a page; the data is hostile text in both.

What is learned is coloured, or stands between ⟦ and ⟧ where there are no colours. Knows colours and
HTML. Must not know how rows become tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from danlu.data.doctor.preview import ShownRow, ShownToken
from danlu.language import _
from danlu.text.printable import printable
from danlu.workflows.report.page_html import CLOSING, escaped, opening

_GREEN, _DIM, _PLAIN = "\x1b[32m", "\x1b[2m", "\x1b[0m"

_STYLE = """
:root { --learned: #dafbe1; }
@media (prefers-color-scheme: dark) { :root { --learned: #12361f; } }
p, label { color: var(--dim); }
pre { font: 14px/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  background: var(--card); border: 1px solid var(--line); padding: .8rem; }
.l { background: var(--learned); } .c { color: var(--dim); }
#ids:checked ~ main .t { border-right: 1px solid var(--dim); }
#ids:checked ~ main .t::after { content: attr(data-id); font-size: .65em; color: var(--dim);
  padding: 0 .2em; user-select: none; }
"""


def terminal_lines(rows: Iterable[ShownRow], *, colours: bool, ids: bool) -> Iterator[str]:
    """Yield the rows as text; ids: with the id of each token behind it."""
    for row in rows:
        yield printable(f"── {row.place}")
        yield from (printable(str(finding)) for finding in row.findings)
        for number, example in enumerate(row.examples, start=1):
            yield _heading(example, number, len(row.examples))
            yield _text(example, colours=colours, ids=ids)


def _heading(example: Sequence[ShownToken], number: int, count: int) -> str:
    return _("example {number} of {count}: {tokens} tokens, {learned} of them learned").format(
        number=number,
        count=count,
        tokens=len(example),
        learned=sum(token.is_learned for token in example),
    )


def _text(example: Sequence[ShownToken], *, colours: bool, ids: bool) -> str:
    text = ""
    for is_learned, run in groupby(example, key=lambda token: token.is_learned):
        colour = _GREEN if is_learned else _PLAIN
        shown = ""
        for token in run:
            piece = printable(token.text) + (f"⟨{token.id}⟩" if ids else "")
            shown += f"{_DIM}{piece}{_PLAIN}{colour}" if token.is_control and colours else piece
        if colours:
            text += f"{colour}{shown}{_PLAIN}"
        else:
            text += f"⟦{shown}⟧" if is_learned else shown
    return text


def page(rows: Iterable[ShownRow], *, title: str) -> Iterator[str]:
    """Yield a page that needs nothing but itself, and no script."""
    yield (
        f"{opening(title, style=_STYLE)}\n"
        f'<p>{escaped(_("What is learned is marked:"))} <span class="l">{escaped(_("like this"))}'
        "</span></p>\n"
        '<input type="checkbox" id="ids"> <label for="ids">'
        f"{escaped(_('tokens and their ids'))}</label>\n<main>\n"
    )
    for row in rows:
        yield f"<h2>{escaped(row.place)}</h2>\n"
        yield from (f"<p>{escaped(str(finding))}</p>\n" for finding in row.findings)
        for number, example in enumerate(row.examples, start=1):
            yield f"<p>{escaped(_heading(example, number, len(row.examples)))}</p>\n<pre>"
            yield from map(_marked, example)
            yield "</pre>\n"
    yield f"</main>{CLOSING}"


def _marked(token: ShownToken) -> str:
    kinds = "t" + (" l" if token.is_learned else "") + (" c" if token.is_control else "")
    return f'<span class="{kinds}" data-id="{token.id}">{escaped(token.text)}</span>'
