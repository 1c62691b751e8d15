"""A real browser, headless, that may reach nothing but this machine; and what it complains of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from danlu.web.built_page import FOLDER

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


def chromium() -> str:
    """Return the path of Chromium; skip the test where it, its driver or the page is missing."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("Chromium is not installed")
    pytest.importorskip("playwright", reason="playwright is not installed")
    if not (FOLDER / "index.html").is_file():
        pytest.skip("the studio's page is not built: make studio")
    return found


@contextmanager
def launched() -> Iterator[Browser]:
    """Start the browser."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def watched_page(
    browser: Browser, *, locale: str = "en-US", **context: Any
) -> Iterator[tuple[Page, list[str]]]:
    """Open a page; return it with its complaints: errors, violated policies, foreign addresses."""
    complaints: list[str] = []
    opened = browser.new_context(locale=locale, **context)
    # A request that only wants to leave is a fault; it does not leave.
    opened.route(
        lambda address: urlsplit(address).hostname != "127.0.0.1",
        lambda route: (complaints.append(f"asked {route.request.url}"), route.abort()),
    )
    page = opened.new_page()
    page.set_default_timeout(90_000)  # machines have other work
    page.on(
        "console",
        lambda said: said.type == "error" and complaints.append(f"console: {said.text}"),
    )
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (complaints.append("a script ran"), dialog.dismiss()))
    page.add_init_script(
        "addEventListener('securitypolicyviolation', event =>"
        " console.error('policy', event.violatedDirective, event.blockedURI, event.sourceFile))"
    )
    yield page, complaints
    opened.close()
