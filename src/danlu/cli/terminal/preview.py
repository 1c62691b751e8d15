"""Rows as training sees them, for a terminal and as a page; the data is hostile text in both.

What is learned is coloured, or stands between ⟦ and ⟧ where there are no colours. Knows colours and
HTML. Must not know how rows become tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby

from danlu.cli.terminal.screen import printable
from danlu.data.doctor.preview import ShownRow, ShownToken
from danlu.language import _

_GREEN, _DIM, _PLAIN = "\x1b[32m", "\x1b[2m", "\x1b[0m"

_STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --back: #fff; --faint: #6a737d; --line: #d8dee4;
  --learned: #dafbe1; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --back: #0d1117; --faint: #8b949e;
  --line: #30363d; --learned: #12361f; } }
body { font: 16px/1.6 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
p, label { color: var(--faint); }
pre { font: 14px/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  border: 1px solid var(--line); border-radius: 6px; padding: .8rem; }
.l { background: var(--learned); } .c { color: var(--faint); }
#ids:checked ~ main .t { border-right: 1px solid var(--faint); }
#ids:checked ~ main .t::after { content: attr(data-id); font-size: .65em; color: var(--faint);
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
        '<!doctype html>\n<html><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_safe(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{_safe(title)}</h1>\n"
        f'<p>{_safe(_("What is learned is marked:"))} <span class="l">{_safe(_("like this"))}'
        "</span></p>\n"
        f'<input type="checkbox" id="ids"> <label for="ids">{_safe(_("tokens and their ids"))}'
        "</label>\n<main>\n"
    )
    for row in rows:
        yield f"<h2>{_safe(row.place)}</h2>\n"
        yield from (f"<p>{_safe(str(finding))}</p>\n" for finding in row.findings)
        for number, example in enumerate(row.examples, start=1):
            yield f"<p>{_safe(_heading(example, number, len(row.examples)))}</p>\n<pre>"
            yield from map(_marked, example)
            yield "</pre>\n"
    yield "</main></body></html>\n"


def _marked(token: ShownToken) -> str:
    kinds = "t" + (" l" if token.is_learned else "") + (" c" if token.is_control else "")
    return f'<span class="{kinds}" data-id="{token.id}">{_safe(token.text)}</span>'


def _safe(text: str) -> str:
    return escape(printable(text))
