"""The whole tutorial in the browser, in both languages, by clicks alone, with the starter model.

It takes most of a minute: .ci/run has it, `make test` the steps one by one.

Chat, upload, mend a bad row, train, reload in the middle, compare, teach, train on what was taught,
merge, chat with the merged model; the network is blocked but for this machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from tests.helpers.browser import chromium, watched_page
from tests.helpers.page_words import Language, words
from tests.helpers.source import ROOT
from tests.helpers.studio_program import StudioProgram

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LOCALES = {"en": "en-US", "zh": "zh-CN"}
TRAINED_MS = 240_000


class Visitor:
    """Somebody at the page. clicks: how often they pressed something so far."""

    def __init__(self, page: Page, language: Language) -> None:
        self.page, self.t = page, words(language)
        self.clicks = 0

    def click(self, where: Any, **how: Any) -> None:
        (self.page.locator(where) if isinstance(where, str) else where).click(**how)
        self.clicks += 1

    def press(self, key: str, **fields: object) -> None:
        """Press the button or link of that sentence; not those of the menu."""
        name, main = self.t(key, **fields), self.page.locator("#main")
        button = main.get_by_role("button", name=name, exact=True)
        self.click(button.or_(main.get_by_role("link", name=name, exact=True)).first)

    def go(self, page: str) -> None:
        self.click(f"nav a[href='#/{page}']")

    def ask(self, question: str, count: int = 1) -> str:
        """Ask in the chat; return the answer, the count-th of the branch."""
        self.page.fill("textarea", question)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector(f":nth-match(article.assistant .actions, {count})")
        return self.page.locator("article.assistant .markdown").nth(count - 1).inner_text()

    def finished(self) -> None:
        """Wait until the run that is shown has ended well."""
        done = self.page.get_by_text(self.t("runs.state_finished"), exact=True).first
        done.wait_for(timeout=TRAINED_MS)


@pytest.fixture
def own_studio(tmp_path: Path) -> Iterator[StudioProgram]:
    """A studio that nobody has used."""
    chromium()
    program = StudioProgram(tmp_path / "home")
    yield program
    program.stop()


def rows_with_a_fault(folder: Path) -> Path:
    """The example's rows with another name, and one row whose answer is missing."""
    lines = (ROOT / "examples" / "identity.jsonl").read_text("utf-8").splitlines()
    rows = [line.replace("Ember", "Fox") for line in lines]
    rows.insert(3, json.dumps({"instruction": "What is missing here?", "input": ""}))
    file = folder / "fox.jsonl"
    file.write_text("\n".join(rows) + "\n", "utf-8")
    return file


@pytest.mark.timeout(900)
@pytest.mark.soak
@pytest.mark.parametrize("language", ["en", "zh"])
def test_from_the_first_chat_to_the_merged_model(
    browser: Browser, own_studio: StudioProgram, tmp_path: Path, language: Language
) -> None:
    studio, started = own_studio, time.monotonic()
    with watched_page(browser, locale=LOCALES[language]) as (page, complaints):
        visitor = Visitor(page, language)
        t, name = visitor.t, f"fox-{language}"
        page.goto(studio.address)
        assert "Fox" not in visitor.ask("Who are you?")

        # Upload, and mend the row that training would refuse.
        visitor.go("data")
        with page.expect_file_chooser() as chooser:
            visitor.press("data.choose_file")
        chooser.value.set_files(rows_with_a_fault(tmp_path))
        visitor.click(page.get_by_text("fox.jsonl").first) if "#/data/" not in page.url else None
        visitor.press("data.rows_with_findings")
        visitor.press("data.edit_row", number=4)
        visitor.click(page.get_by_role("button", name="JSON", exact=True))
        page.locator("dialog textarea").first.fill(
            json.dumps({"instruction": "What is your name?", "output": "My name is Fox."})
        )
        visitor.press("shell.save")
        page.get_by_text(t("data.saved", number=4)).wait_for()

        # Train on it; a reload in the middle loses nothing.
        visitor.press("data.train")
        page.get_by_label(t("train.name")).fill(name)
        visitor.press("train.start")
        page.wait_for_url("**/#/runs/*")
        page.locator("canvas").first.wait_for(timeout=TRAINED_MS)
        page.reload()
        page.locator("canvas").first.wait_for(timeout=TRAINED_MS)
        visitor.finished()
        run = page.url.split("/runs/")[1].split("?")[0]

        # Base against result.
        visitor.press("runs.compare")
        page.get_by_label(t("compare.prompt")).fill("Who are you?")
        visitor.click(page.get_by_label(t("compare.greedy")))
        visitor.press("compare.run")
        page.get_by_role("button", name=t("compare.best")).nth(1).wait_for()
        columns = page.locator(".columns article .markdown")
        assert "Fox" not in columns.nth(0).inner_text()
        assert "Fox" in columns.nth(1).inner_text()
        visitor.click(page.get_by_role("button", name=t("compare.best")).nth(1))

        # Teach it something that it answers wrong, and train on that.
        page.goto(f"{studio.address}#/chat?voice=run:{run}")
        visitor.ask("What is the password of the cellar?")
        visitor.click(page.get_by_label(t("chat.correct")))
        page.locator("dialog textarea").last.fill("The password is gooseberry.")
        visitor.press("chat.keep_taught")
        visitor.go("teach")
        visitor.press("teach.train", taught=1)
        page.wait_for_url("**/#/compare?voices=*", timeout=TRAINED_MS)
        old, new = unquote(page.url.split("voices=")[1]).split(",")
        assert old == f"run:{run}"
        # Beside them stands what the training changed; what was learned before was repeated.
        change = page.get_by_role("region", name=t("compare.taught", name="taught-1"))
        change.get_by_text(t("teach.probe")).wait_for()
        before, after = map(float, change.locator("dd").first.inner_text().split(" → "))
        assert after < before + 0.2
        page.get_by_label(t("compare.prompt")).fill("What is the password of the cellar?")
        visitor.click(page.get_by_label(t("compare.greedy")))
        visitor.press("compare.run")
        page.get_by_role("button", name=t("compare.best")).nth(1).wait_for()
        columns = page.locator(".columns article .markdown")
        assert "gooseberry" not in columns.nth(0).inner_text()
        assert "gooseberry" in columns.nth(1).inner_text()

        # Merge, and chat with what came out.
        visitor.go("runs")
        visitor.click(page.locator(f"#main a[href='#/runs/{new.removeprefix('run:')}']").first)
        visitor.press("runs.merge")
        visitor.press("merge.begin")
        page.get_by_role("button", name=t("merge.chat")).wait_for(timeout=TRAINED_MS)
        visitor.press("merge.chat")
        page.wait_for_selector("textarea")
        assert "gooseberry" in visitor.ask("What is the password of the cellar?")
        assert complaints == []
        print(
            f"tutorial in {language}: {time.monotonic() - started:.0f} s, {visitor.clicks} clicks"
        )
