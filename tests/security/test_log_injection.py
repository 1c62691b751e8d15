"""S14: no user writes lines or escape sequences into the log."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.server.edge.logs import SafeFormatter, escaped
from tests.helpers.serving.server import ask, post, server_app

ATTACK = "x\r\n2026-01-01 INFO forged\x1b[2J\x9b31m\u2028\u202e"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The log as it is written to standard error."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(SafeFormatter())
    logger = logging.getLogger("danlu")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def is_clean(text: str) -> bool:
    return not any(c in text for c in "\r\x1b\x9b\u2028\u202e") and "\n2026-01-01" not in text


def test_a_request_is_one_line(log: io.StringIO) -> None:
    app = server_app(log_prompts=True)
    ask(app, "GET", "/" + ATTACK)
    ask(app, "GET\r\nforged", "/health")
    post(app, "/test/echo", {"text": ATTACK})
    post(app, "/test/echo", ('{"text": "' + ATTACK + '"}').encode())
    lines = log.getvalue().splitlines()
    assert is_clean(log.getvalue())
    assert len(lines) == 6  # four requests, two bodies
    assert all(" INFO " in line[:30] for line in lines)


def test_a_traceback_keeps_its_lines_and_nothing_else(log: io.StringIO) -> None:
    try:
        raise RuntimeError(ATTACK)
    except RuntimeError:
        logging.getLogger("danlu.test").exception("failed: %s", ATTACK)
    text = log.getvalue()
    assert "Traceback" in text
    assert not any(c in text for c in "\r\x1b\x9b\u2028\u202e")


def test_error_messages_carry_no_control_characters() -> None:
    answer = ask(server_app(), "GET", "/" + ATTACK)
    assert answer.status == 404
    assert is_clean(answer.error["message"])


@given(text=st.text())
def test_escaping_keeps_one_line_and_all_other_characters(text: str) -> None:
    shown = escaped(text)
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")
    if text.isprintable() and text.isascii():
        assert shown == text
