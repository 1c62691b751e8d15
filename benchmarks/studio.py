"""The studio's limits: how soon it is there, and how it does with thousands of chats and long runs.

    python -m benchmarks.studio      needs Chromium, playwright and the built page

A home with 10,000 chats of four turns, 500 runs, and one run of 100,000 steps; then the page in
headless Chromium. Prints a table; nothing of the user's is touched.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHATS, TURNS, RUNS, STEPS = 10_000, 4, 500, 100_000
PORT = 6099
ADDRESS = f"http://127.0.0.1:{PORT}/"
TIMES = 5
# Two frames after a click: what it changes has been drawn by then.
DRAWN = """name => new Promise(done => {
  const started = performance.now()
  document.querySelector(name).click()
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - started)))
})"""


def fill(home: Path) -> None:
    """Write chats and runs as if somebody had used the studio for years."""
    from danlu.runs.manifest import BaseRecord, DataRecord, RunManifest, write_manifest
    from danlu.runs.registry import register
    from danlu.web.database import Database

    database = Database(home / "studio.db")
    with database.transaction() as connection:
        connection.executemany(
            "INSERT INTO chats (id, title, created, changed, settings) VALUES (?, ?, 0, ?, '{}')",
            ((f"c{n}", f"chat number {n}", n) for n in range(CHATS)),
        )
        connection.executemany(
            "INSERT INTO turns (chat, role, content, state, created) "
            "VALUES (?, 'user', ?, 'done', 0)",
            ((f"c{n % CHATS}", f"what was said {n} 说了什么 " * 10) for n in range(TURNS * CHATS)),
        )
    database.close()
    base = BaseRecord(name="starter", path="/models/starter", fingerprint="f")
    for number in range(RUNS):
        folder = home / "runs-of-years" / f"run-{number}"
        folder.mkdir(parents=True)
        run = RunManifest(
            state="finished", base=base, template="qwen3", enable_thinking=True,
            data=DataRecord(num_train_rows=20), started=f"2026-11-01T10:{number % 60:02}:00+00:00",
            ended="2026-11-02T10:00:00+00:00",
        )  # fmt: skip
        write_manifest(folder, run)
        steps = STEPS if number == 0 else 200
        lines = (
            json.dumps({"step": n, "loss": 5 / n**0.3 + (n * 7919 % 100) / 500, "grad_norm": 1.0,
                        "learning_rate": 1e-4, "num_tokens": 4096, "seconds": 0.5})
            for n in range(1, steps + 1)
        )  # fmt: skip
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        register(folder)


def asked_ms(path: str) -> float:
    """Ask a route of the studio some times; the median in milliseconds."""

    def once() -> float:
        started = time.perf_counter()
        with urllib.request.urlopen(f"{ADDRESS}studio/{path}", timeout=120) as answer:
            answer.read()
        return 1000 * (time.perf_counter() - started)

    once()
    return statistics.median(once() for _ in range(TIMES))


def page_figures(run: str) -> dict[str, float]:
    """Open the page and use it."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or sys.exit("Chromium is not installed")
    figures: dict[str, float] = {}
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        page = browser.new_page()
        loaded: list[str] = []
        page.on("response", lambda answer: loaded.append(answer.url))
        page.goto(ADDRESS)
        page.wait_for_selector("textarea")
        figures["chat ready, ms"] = page.evaluate("performance.now()")
        paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        figures["first paint, ms"] = page.evaluate(paint)
        assets = [url for url in loaded if "/assets/" in url]
        sizes = [len(gzip.compress(urllib.request.urlopen(url).read())) for url in assets]
        figures["first load compressed, KB"] = sum(sizes) / 1000
        page.goto(f"{ADDRESS}#/runs/{run}")
        page.wait_for_selector("canvas")
        page.wait_for_load_state("networkidle")
        box = "#main input[type=checkbox]"
        drawn = [page.evaluate(DRAWN, box) for _ in range(TIMES)]
        figures["curve of 100,000 steps drawn anew, ms"] = statistics.median(drawn)
        browser.close()
    return figures


def served(home: Path, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Start the studio over a home, measure, and end it."""
    command = [sys.executable, "-m", "danlu.cli.main", "web", "starter", "--port", str(PORT)]
    environment = {**os.environ, "DANLU_HOME": str(home), "DANLU_LANG": "en"}
    with subprocess.Popen(
        [*command, "--open_browser", "false"], env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            while True:
                try:
                    with urllib.request.urlopen(f"{ADDRESS}ready", timeout=5):
                        break
                except OSError:
                    time.sleep(0.1)
            return measure()
        finally:
            process.terminate()


def main() -> int:
    """Measure, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["DANLU_HOME"] = folder
        fill(home)

        def measured() -> dict[str, float]:
            found: list[dict[str, Any]] = json.load(
                urllib.request.urlopen(f"{ADDRESS}studio/runs?search=run-0", timeout=300)
            )
            run = next(card["id"] for card in found if card["name"] == "run-0")
            return {
                f"list of {CHATS:,} chats, ms": asked_ms("chats"),
                "search in what was said, ms": asked_ms("chats?search=said%2039999"),
                f"list of {RUNS} runs, ms": asked_ms("runs"),
                "curve of 100,000 steps from the server, ms": asked_ms(f"runs/{run}/curve"),
                **page_figures(run),
            }

        for name, value in served(home, measured).items():
            print(f"{name:<45}{value:>9.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
