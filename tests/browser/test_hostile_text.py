"""What a model writes, what stands in an imported chat, and what an error quotes: all hostile."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from tests.helpers.browser import watched_page
from tests.helpers.studio_program import StudioProgram

if TYPE_CHECKING:
    from playwright.sync_api import Browser

RUN = "alert(1)"
# Sources of the kinds: OWASP's list of filter evasions, and the habits of Markdown renderers.
CORPUS = [
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={RUN}>",
    f"<math><maction actiontype=statusline xlink:href=javascript:{RUN}>x</maction></math>",
    f"<iframe src=javascript:{RUN}></iframe>",
    f"<iframe srcdoc='<script>{RUN}</script>'></iframe>",
    f"<body onload={RUN}>",
    f"<details open ontoggle={RUN}>x</details>",
    f"<video><source onerror={RUN}></video>",
    f"<input autofocus onfocus={RUN}>",
    f"<form action=javascript:{RUN}><button>x</button></form>",
    f"<a href=javascript:{RUN}>x</a>",
    f"[x](javascript:{RUN})",
    f"[x](JaVaScRiPt:{RUN})",
    f"[x](java\tscript:{RUN})",
    f"[x](&#106;avascript:{RUN})",
    f"[x](data:text/html,<script>{RUN}</script>)",
    f"[x](vbscript:{RUN})",
    f"![x](javascript:{RUN})",
    "![x](https://example.org/seen.png)",
    "<img src=https://example.org/seen.png>",
    "<link rel=stylesheet href=https://example.org/x.css>",
    "<style>@import '//example.org/x.css'; p { background: url(//example.org) }</style>",
    "<p style='background:url(https://example.org/x)'>x</p>",
    "<base href=https://example.org/>",
    "<meta http-equiv=refresh content='0;url=https://example.org/'>",
    f"<object data=javascript:{RUN}></object><embed src=javascript:{RUN}>",
    f"<template><img src=x onerror={RUN}></template>",
    f"<noscript><p title='</noscript><img src=x onerror={RUN}>'>",
    f"<!--<img src='--><img src=x onerror={RUN}>//'>",
    f"`<img src=x onerror={RUN}>`",
    f"```html\n<img src=x onerror={RUN}>\n```",
    f'```"><img src=x onerror={RUN}>\nx\n```',
    f"$\\href{{javascript:{RUN}}}{{x}}$",
    f"$\\unicode{{<img src=x onerror={RUN}>}}$",
    f"$$\\htmlClass{{x}}{{<img src=x onerror={RUN}>}}$$",
    "$\\def\\x{\\x\\x}\\x$",
    f"\\(\\url{{javascript:{RUN}}}\\)",
    f"[x]: javascript:{RUN}\n[x]",
    f"<x onclick={RUN} tabindex=1 autofocus onfocus={RUN}>x</x>",
    f"<div id=studio><img name=body src=x onerror={RUN}></div>",
    f"</div></div><img src=x onerror={RUN}>",
    f"\x1b]0;{RUN}\x07 \x9b31m",
    f"{{@html '<img src=x onerror={RUN}>'}} {{{{{RUN}}}}} ${{{RUN}}}",
    f"javascript://x/%0a{RUN}",
    f"https://example.org/{'a' * 50}?q=<img src=x onerror={RUN}>",
    "‮gnp.exe",
]


def test_nothing_that_is_written_does_anything(browser: Browser, studio: StudioProgram) -> None:
    messages = []
    for number, text in enumerate(CORPUS):
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": text, "reasoning": text})
        studio.post("chats/import", {"chat": {"title": text[:200], "messages": messages[-2:]}})
        messages[-1]["content"] = f"{number}\n\n{text}"
    chat = studio.post("chats/import", {"chat": {"title": "all", "messages": messages}})["id"]
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/chat/{chat}")
        page.wait_for_selector(f"article:nth-of-type({len(messages)})")
        page.wait_for_selector("math")
        for thought in page.locator("button.head").all():
            thought.click()
        page.keyboard.press("Control+k")
        page.keyboard.type("alert")
        page.wait_for_selector("[role=option]")
        page.keyboard.press("Escape")
        assert complaints == []
        # Nothing that loads, moves or asks; links leave by a click only, and to the web only.
        for selector in ("img:not([src='./icon.svg'])", "iframe", "object", "style", "form", "svg"):
            assert page.locator(f".markdown {selector}").count() == 0, selector
        addresses = page.locator(".markdown a").evaluate_all(
            "all => all.map(one => one.getAttribute('href')).filter(href => href !== null)"
        )
        assert addresses
        assert all(address.startswith(("http://", "https://")) for address in addresses), addresses
        assert page.locator(".markdown [style], .markdown [id], .markdown [onerror]").count() == 0


def test_an_error_that_quotes_is_text(browser: Browser, studio: StudioProgram) -> None:
    chat = studio.post("chats", {})["id"]
    voice = f"<img src=x onerror={RUN}>"
    body = {"content": "x", "settings": {"voice": voice}}
    studio.post(f"chats/{chat}/ask", body)
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/chat/{chat}")
        page.wait_for_selector("article .note.bad")
        assert "no voice" in page.inner_text("article .note.bad")
        assert complaints == []


def test_rows_and_names_are_text(browser: Browser, studio: StudioProgram) -> None:
    """What stands in an uploaded file, its name and its columns."""
    rows = [{"instruction": text, "output": text, text[:40]: text} for text in CORPUS]
    bad = [{"instruction": text} for text in CORPUS[:8]]
    content = "".join(json.dumps(row) + "\n" for row in rows + bad).encode()
    name = "<img src=x onerror=alert(1)>.jsonl"
    request = urllib.request.Request(
        f"{studio.address}studio/data/uploads?{urlencode({'name': name})}",
        data=content,
        headers={"content-type": "application/octet-stream"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        uploaded = json.load(answer)["id"]
    with watched_page(browser) as (page, complaints):
        for address in ("data", f"data/{uploaded}"):
            page.goto(f"{studio.address}#/{address}")
            page.get_by_text(name).first.wait_for()
        for tab in ("findings", "rows", "lengths", "columns"):
            page.goto(f"{studio.address}#/data/{uploaded}?tab={tab}")
            page.wait_for_load_state("networkidle")
        page.goto(f"{studio.address}#/data/{uploaded}?tab=rows")
        page.get_by_text("<script>alert(1)</script>").first.wait_for()
        assert complaints == []
