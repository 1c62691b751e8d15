"""S10: a key is in no settings listing, no error and no log."""

from __future__ import annotations

import logging
import socket

import pytest

from danlu.cli.main import main
from danlu.server.settings import ServeSettings
from danlu.settings.resolve import resolve
from tests.helpers.serving.server import KEY, ask, bearer, post, server_app


@pytest.mark.parametrize("way", ["command line", "environment"])
def test_print_settings_shows_stars(
    way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--api_key", KEY] if way == "command line" else []
    if not words:
        monkeypatch.setenv("DANLU_API_KEY", KEY)
    assert main(["serve", *words, "--print_settings"]) == 0
    printed = capsys.readouterr().out
    assert "api_key: '**********'" in printed
    assert KEY not in printed


def test_settings_do_not_show_it() -> None:
    settings = resolve(ServeSettings, ["--api_key", KEY], {}).values
    assert KEY not in repr(settings) + str(settings) + settings.model_dump_json()


def test_an_error_of_another_setting_does_not_show_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--api_key", KEY, "--port", "x"]) == 2
    assert KEY not in capsys.readouterr().err


def test_a_key_on_the_command_line_is_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--api_key", KEY, "--port", port]) == 3
    error = capsys.readouterr().err
    assert "--api_key_file" in error
    assert KEY not in error


def test_no_request_brings_a_key_into_log_or_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = server_app(keys=[KEY], log_prompts=True)
    wrong = "a-key-of-somebody-else"
    answers = [
        ask(app, "GET", "/v1/models", headers=[bearer()]),
        ask(app, "GET", f"/v1/models?key={KEY}", headers=[bearer(wrong)]),
        post(app, "/test/fail/bug", {}, headers=[bearer()]),
        post(app, "/test/echo", {"count": "x"}, headers=[bearer()]),
        ask(app, "GET", "/metrics", headers=[bearer()]),
    ]
    assert [answer.status for answer in answers] == [200, 401, 500, 400, 200]
    shown = caplog.text + "".join(f"{a.headers} {a.body.decode()}" for a in answers)
    assert KEY not in shown
    assert wrong not in shown
