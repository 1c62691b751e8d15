"""S3: a Host is compared with a list, an Origin with the Host or a list; nothing is reflected."""

from __future__ import annotations

import pytest

from danlu.errors import UsageError
from danlu.server.host_names import host_name
from danlu.server.settings import ServeSettings
from danlu.settings.resolve import resolve
from tests.helpers.serving.server import JSON, KEY, ask, bearer, post, server_app

PAGE = "https://chat.example.org"


NO_HOSTS = [
    "localhost@evil.example", "localhost:80@evil.com", "[::1].evil.com", "[::1]evil.com",
    "localhost:evil.com", "localhost..", ".localhost", "[::1", "::1", "[1.2.3.4]", "[::1%eth0]",
    "localhost:80:80", "localhost, evil.com", "http://localhost", "local host", "*", "*.local",
    "localhos\u212a", "%6cocalhost", "",
]  # fmt: skip


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"), ("LocalHost:8000", "localhost"), ("localhost.:1", "localhost"),
        ("[::1]:8000", "[::1]"), ("[::1]", "[::1]"), ("[0:0::1]", "[::1]"),
        ("127.0.0.1:", "127.0.0.1"), ("a_b-c.local", "a_b-c.local"),
        ("localhost.evil.example:80", "localhost.evil.example"),
        *((host, None) for host in NO_HOSTS),
    ],
)  # fmt: skip
def test_the_name_in_a_host(host: str, name: str | None) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:9", 200), ("MY-box.local:8000", 200),
        ("evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1.evil.example", 403),
        ("192.168.1.7:8000", 403),
        *((host, 400) for host in NO_HOSTS if host.isascii()),
    ],
)  # fmt: skip
def test_on_loopback_only_listed_names_are_answered(host: str, status: int) -> None:
    app = server_app(allowed_host=("my-box.local",))
    for path in ("/health", "/docs", "/v1/models"):
        assert ask(app, "GET", path, host=host).status == status


# A setting is a list with commas, and an address in it needs no brackets.
@pytest.mark.parametrize("host", sorted({*NO_HOSTS} - {"", "::1", "localhost, evil.com"}))
def test_what_is_no_name_is_refused_at_the_start(host: str) -> None:
    with pytest.raises(UsageError):
        resolve(ServeSettings, ["--allowed_host", host], {})


def test_an_address_may_be_listed_in_any_form() -> None:
    app = server_app(allowed_host=("fe80:0::1", "[::2]:80"))
    for host in ("[fe80::1]:8000", "[0::2]"):
        assert ask(app, "GET", "/health", host=host).status == 200


def test_a_key_does_not_open_loopback_to_other_names() -> None:
    answer = ask(
        server_app(keys=[KEY]), "GET", "/v1/models", host="evil.example", headers=[bearer()]
    )
    assert (answer.status, answer.error["code"]) == (403, "host_not_allowed")
    assert "evil" not in answer.body.decode()


def test_elsewhere_the_key_decides() -> None:
    app = server_app(keys=[KEY], host="0.0.0.0")
    name = "u1234-abcd.box.example:8443"
    assert ask(app, "GET", "/v1/models", host=name, headers=[bearer()]).status == 200
    assert ask(app, "GET", "/v1/models", host=name).status == 401
    assert ask(app, "GET", "/docs", host=name).status == 200


def test_one_host_and_one_key() -> None:
    app = server_app(keys=[KEY])
    assert ask(app, "GET", "/health", host=None).status == 400
    assert ask(app, "GET", "/health", headers=[("host", "localhost")]).status == 400
    twice = [bearer(), bearer("another")]
    assert ask(app, "GET", "/v1/models", headers=twice).status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 200),
        ([("origin", "http://localhost:8000")], 200),
        ([("origin", "http://localhost:8001")], 403),
        ([("origin", "http://localhost")], 403),
        ([("origin", "null")], 403),
        ([("origin", "")], 403),
        ([("origin", "http://localhost:8000.evil.example")], 403),
        ([("origin", "http://localhost:port")], 403),
        ([("origin", "file://localhost:8000")], 403),
        ([("sec-fetch-site", "same-origin"), ("origin", "http://localhost:8000")], 200),
        ([("sec-fetch-site", "none")], 200),
        ([("sec-fetch-site", "same-site"), ("origin", "http://localhost:3000")], 403),
        ([("sec-fetch-site", "cross-site"), ("origin", "http://localhost:8000")], 403),
        ([("sec-fetch-site", "whatever")], 403),
    ],
)
def test_pages_of_other_origins_change_nothing(headers: list[tuple[str, str]], status: int) -> None:
    answer = post(server_app(), "/test/echo", {}, headers=headers)
    assert answer.status == status
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://box.example", "box.example"),
        ("https://box.example", "box.example:443"),
        ("https://box.example:443", "box.example"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("https://BOX.example:8443", "box.example:8443"),
    ],
)
def test_a_proxy_may_take_the_https_away(origin: str, host: str) -> None:
    app = server_app(keys=[KEY], host="0.0.0.0")
    headers = [bearer(), ("origin", origin)]
    assert post(app, "/test/echo", {}, host=host, headers=headers).status == 200


def test_a_listed_page_may_ask_and_is_named_exactly() -> None:
    app = server_app(keys=[KEY], allowed_origin=(PAGE,))
    headers = [bearer(), ("origin", PAGE), ("sec-fetch-site", "cross-site")]
    answer = post(app, "/test/echo", {}, headers=headers)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "origin" in answer.headers["vary"].lower()
    assert "access-control-allow-credentials" not in answer.headers
    # It needs the key all the same, and can read that it does.
    answer = post(app, "/test/echo", {}, headers=[("origin", PAGE)])
    assert answer.status == 401
    assert answer.headers["access-control-allow-origin"] == PAGE
    for other in ("https://evil.example", PAGE + ".evil.example", PAGE + ":444", "null"):
        answer = post(app, "/test/echo", {}, headers=[bearer(), ("origin", other)])
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers


def test_preflights() -> None:
    app = server_app(keys=[KEY], allowed_origin=(PAGE,))
    asks = ("access-control-request-method", "POST")
    answer = ask(app, "OPTIONS", "/test/echo", headers=[("origin", PAGE), asks])
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in answer.headers["access-control-allow-headers"]
    # A page can read which fields of its request were not honoured.
    assert "x-danlu-ignored" in answer.headers["access-control-expose-headers"]
    # What OpenAI's client for JavaScript sends from a browser, and what nobody needs.
    sent = (
        "authorization, Content-Type, x-stainless-arch, x-stainless-lang, x-stainless-os, "
        "x-stainless-package-version, x-stainless-retry-count, x-stainless-runtime, "
        "x-stainless-runtime-version, x-stainless-timeout, openai-organization"
    )
    others = "cookie, x-api-key, host, x-stainless, x-stainless-\u00e9, *"
    headers = [("origin", PAGE), asks, ("access-control-request-headers", f"{sent},{others}")]
    answer = ask(app, "OPTIONS", "/test/echo", headers=headers)
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert set(allowed) == set(sent.lower().split(", "))
    for origin in ("https://evil.example", "null"):
        answer = ask(app, "OPTIONS", "/test/echo", headers=[("origin", origin), asks])
        assert answer.status == 401
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["*", "null", "chat.example.org", "https://*", "https://a/b"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(UsageError):
        resolve(ServeSettings, ["--allowed_origin", origin], {})


def test_state_is_changed_by_json_only() -> None:
    """S4: what a form of a web page can send is refused, with and without an Origin."""
    app = server_app()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        headers = [("content-type", kind)]
        path = "/v1/unload_lora_adapter"
        assert ask(app, "POST", path, headers=headers, body=b"{}").status == 415
    assert ask(app, "GET", "/v1/unload_lora_adapter", headers=[JSON]).status == 405
