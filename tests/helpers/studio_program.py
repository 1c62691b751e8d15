"""`danlu web` as a program of its own, with a home of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.helpers.waiting import wait_until


def environment_of(home: Path) -> dict[str, str]:
    """What a program of a home finds around it."""
    return {**os.environ, "DANLU_HOME": str(home), "DANLU_LANG": "en"}


class StudioProgram:
    """The studio with the starter model, on a free port. Killed and started again it keeps both."""

    def __init__(self, home: Path, *words: str) -> None:
        self.home, self._words = home, words
        self._log = home.parent / "studio.log"
        self.port = 0
        self.start()

    @property
    def address(self) -> str:
        """The page's address."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start, and wait until the model is loaded."""
        self.home.mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "danlu.cli.main", "web", "starter", "--port",
                    str(self.port), "--open_browser", "false", *self._words,
                ],
                env=environment_of(self.home),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )  # fmt: skip
        if self.port == 0:
            wait_until(lambda: "http://127.0.0.1:" in self.log())
            self.port = int(self.log().split("http://127.0.0.1:")[1].split("/")[0])
        wait_until(self._is_ready)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server, by SIGKILL without a word."""
        self.process.send_signal(number)
        self.process.wait(60)

    def get(self, path: str) -> Any:
        """Ask a route of the studio."""
        with urllib.request.urlopen(f"{self.address}studio/{path}", timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: object) -> Any:
        """Send JSON to a route of the studio."""
        request = urllib.request.Request(
            f"{self.address}studio/{path}",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def log(self) -> str:
        """What the server has printed."""
        return self._log.read_text("utf-8") if self._log.exists() else ""

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return bool(self.get("models/loaded")["state"] == "ready")
        except OSError:
            return False
