"""Every page, in both themes and languages and on a phone: nothing overflows, all can use it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.accessible import barriers
from tests.helpers.browser import chromium, watched_page
from tests.helpers.page_words import words
from tests.helpers.source import ROOT
from tests.helpers.studio_program import StudioProgram, environment_of
from tests.helpers.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGES = ("chat", "compare", "data", "train", "runs", "teach", "merge", "models")
EXAMPLE = ROOT / "examples" / "identity.jsonl"


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioProgram]:
    """A studio in which something was done: a run, a chat, a taught answer, a comparison."""
    chromium()
    home = tmp_path_factory.mktemp("used") / "home"
    home.mkdir()
    command = [sys.executable, "-m", "danlu.cli.main", "train", "--dataset", str(EXAMPLE)]
    command += ["--output_dir", str(home / "fox"), "--max_steps", "3", "--report", "false"]
    subprocess.run(command, env=environment_of(home), check=True, stdout=subprocess.DEVNULL)
    studio = StudioProgram(home)
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "# Hello\n\n`x`"},
    ]
    chat = studio.post("chats/import", {"chat": {"title": "A chat", "messages": messages}})["id"]
    studio.post("teach", {"chat": chat, "turn": 2, "content": "Good day", "reasoning": ""})
    choices = [{"voice": "base"}, {"voice": "base"}]
    studio.post("compare", {"prompt": "Who are you?", "choices": choices})
    yield studio
    studio.stop()


def addresses(studio: StudioProgram) -> list[str]:
    """The pages, and the views inside of them."""
    run = studio.get("runs?search=")[0]["id"]
    chat = studio.get("chats?search=")[0]["id"]
    inside = [f"chat/{chat}", "data/example", "data/example?tab=rows", "data/example?tab=lengths"]
    return [*PAGES, *inside, "data/example?tab=columns", f"runs/{run}", f"merge?run={run}"]


def opened(page: Page, studio: StudioProgram, address: str) -> None:
    page.goto(f"{studio.address}#/{address}")
    page.wait_for_selector("#main h1, #main article, #main textarea")
    page.wait_for_load_state("networkidle")


@pytest.mark.soak
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out(browser: Browser, used: StudioProgram, scheme: Any) -> None:
    with watched_page(browser, color_scheme=scheme) as (page, complaints):
        found = {}
        for address in addresses(used):
            opened(page, used, address)
            found[address] = barriers(page)
        assert not {address: list_ for address, list_ in found.items() if list_}
        assert complaints == []


@pytest.mark.parametrize("locale", ["en-US", pytest.param("zh-CN", marks=pytest.mark.soak)])
def test_a_phone_shows_all_of_every_page(
    browser: Browser, used: StudioProgram, locale: str
) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with watched_page(browser, locale=locale, **phone) as (page, complaints):
        wide = {}
        for address in addresses(used):
            opened(page, used, address)
            wide[address] = page.evaluate(
                "Math.max(document.documentElement.scrollWidth,"
                " document.getElementById('main').scrollWidth)"
            )
        assert not {address: width for address, width in wide.items() if width > 390}
        assert complaints == []


@pytest.mark.soak
def test_a_training_outlives_its_server(browser: Browser, tmp_path: Path) -> None:
    """The server is killed and comes back; the page that was open shows the whole curve."""
    t = words("en")
    studio = StudioProgram(tmp_path / "home")
    values = {"max_steps": 80, "report": False}
    training = {"name": "long", "dataset": "example", "preset": "starter", "values": values}
    run = studio.post("training/queue", training)["run"]
    with watched_page(browser) as (page, _complaints):
        page.goto(f"{studio.address}#/runs/{run}")
        page.locator("canvas").first.wait_for()
        studio.stop(signal.SIGKILL)
        studio.start()
        finished = page.get_by_text(t("runs.state_finished"), exact=True).first
        finished.wait_for(timeout=240_000)
        curve = studio.get(f"runs/{run}/curve")
        assert curve["series"]["loss"]["x"] == list(range(1, curve["step"] + 1))
        # The queue knows it, too, though another server had started it.
        wait_until(lambda: studio.get("training/queue")[0]["state"] == "finished")
    studio.stop()
