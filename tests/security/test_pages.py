"""S9: pages load nothing from elsewhere, run no inline script, and stand in no frame."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from danlu.server.lifecycle.docs import _FOLDER
from tests.helpers.serving.server import KEY, ask, server_app


class Page(HTMLParser):
    """Collects what a page loads, and whatever would run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []
        self._in_code = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loads += [value for name, value in attrs if name in ("src", "href") and value]
        self.inline += [name for name, _value in attrs if name.startswith("on") or name == "style"]
        self._in_code = tag == "style" or (tag == "script" and "src" not in given)

    def handle_data(self, data: str) -> None:
        if self._in_code and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_code = False


def test_the_page_needs_no_key_and_loads_only_its_own_files() -> None:
    app = server_app(keys=[KEY])
    answer = ask(app, "GET", "/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page()
    page.feed(answer.body.decode())
    assert not page.inline
    # Relative, so that a path prefix in front of it changes nothing.
    assert set(page.loads) == {"docs/page.css", "docs/page.js", "openapi.json"}
    for path, kind in (("/docs/page.js", "text/javascript"), ("/docs/page.css", "text/css")):
        answer = ask(app, "GET", path)
        assert answer.headers["content-type"].startswith(kind)
        assert answer.body == (_FOLDER / f"docs.{path.rpartition('.')[2]}").read_bytes()


def test_no_file_names_another_server_or_makes_html_of_text() -> None:
    for path in _FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"https?://|//\w+\.\w|innerHTML|outerHTML|document\.write|eval\(", text
        )


def test_headers_of_every_answer() -> None:
    app = server_app(keys=[KEY])
    for path, status in (("/docs", 200), ("/health", 200), ("/v1/models", 401)):
        answer = ask(app, "GET", path)
        assert answer.status == status
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy


def test_no_other_path_reads_a_file() -> None:
    app = server_app()
    for path in ("/docs/", "/docs/docs.html", "/docs/../keys.py", "/docs/page.js/x", "/static/x"):
        assert ask(app, "GET", path).status == 404
