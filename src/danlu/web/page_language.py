"""Answers in the language of the page that asks, whatever the language of the server's terminal."""

from __future__ import annotations

from fastapi import Request

from danlu.language import speak


async def in_page_language(request: Request) -> None:
    """Speak the language that a request names; a dependency of routes, in the task of their own."""
    wanted = request.headers.get("accept-language")
    if wanted:
        speak(wanted)
