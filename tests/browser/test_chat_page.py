"""The chat as its user sees it: in a real browser, over an engine that answers as told."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from danlu.web.built_page import FOLDER
from danlu.web.models.loading import LoadedState
from danlu.web.studio import Studio
from tests.helpers.accessible import barriers
from tests.helpers.browser import chromium, watched_page
from tests.helpers.models import tiny_engine
from tests.helpers.serving.served import ScriptedEngine, running, served
from tests.helpers.studio import studio_over

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ANSWER = "<think>\nlet me see\n</think>\n\n" + "one word after the other " * 12


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """A studio whose engine writes `answers` in turn, then ANSWER, a token a step."""

    address: str
    engine: ScriptedEngine
    studio: Studio
    answers: list[str]


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    chromium()
    answers: list[str] = []
    engine = ScriptedEngine(
        tiny_engine.tokenizer(), lambda _request: answers.pop(0) if answers else ANSWER
    )
    with served(engine) as serving:
        app, studio = studio_over(serving, tmp_path / "studio.db")
        studio.loading.state = LoadedState(state="ready", model="tiny", context=4096)
        with running(app) as address:
            yield Scripted(address=f"{address}/", engine=engine, studio=studio, answers=answers)
        studio.database.close()


def ask(page: Page, text: str) -> None:
    page.fill("textarea", text)
    page.keyboard.press("Enter")


def finished(page: Page, count: int = 1) -> None:
    """Wait until so many answers are complete."""
    page.wait_for_selector(f":nth-match(article.assistant .actions, {count})")


@pytest.mark.parametrize(
    ("locale", "words"),
    [
        ("en-US", ("Thought", "Answer again", "New chat")),
        ("zh-CN", ("思考", "重新回答", "新对话")),
    ],
)
def test_an_answer_arrives_and_stays(
    browser: Browser, scripted: Scripted, locale: str, words: tuple[str, str, str]
) -> None:
    thought, again, new = words
    with watched_page(browser, locale=locale) as (page, complaints):
        page.goto(scripted.address)
        ask(page, "tell me")
        finished(page)
        assert "one word after the other" in page.inner_text("article.assistant .markdown")
        assert thought in page.inner_text("article.assistant .thought")
        assert "let me see" not in page.inner_text("article.assistant")  # folded
        page.click(".thought button")
        assert "let me see" in page.inner_text("article.assistant")
        page.click(f"[aria-label='{again}']")
        page.wait_for_selector(".versions")
        finished(page)
        assert page.inner_text(".versions").split() == ["2/2"]
        page.reload()
        finished(page)
        assert page.inner_text(".versions").split() == ["2/2"]
        page.click(f"nav [aria-label='{new}']")
        page.wait_for_selector(".welcome")
        assert complaints == []


def test_a_reload_in_the_middle_loses_nothing(browser: Browser, scripted: Scripted) -> None:
    scripted.engine.step_seconds = 0.03
    with watched_page(browser) as (page, complaints):
        page.goto(scripted.address)
        ask(page, "tell me")
        page.wait_for_selector("article.assistant .markdown")
        page.reload()
        page.wait_for_selector("article.assistant .markdown")
        assert page.locator("[aria-label=Stop]").count() == 1  # it is still going on
        scripted.engine.step_seconds = 0.0
        finished(page)
        said = page.inner_text("article.assistant .markdown")
        assert said.split() == ANSWER.split("</think>")[1].split()
        assert complaints == []


def test_two_tabs_of_one_chat(browser: Browser, scripted: Scripted) -> None:
    scripted.engine.step_seconds = 0.01
    with watched_page(browser) as (page, complaints):
        page.goto(scripted.address)
        ask(page, "tell me")
        page.wait_for_url("**/#/chat/*")
        other = page.context.new_page()
        other.goto(page.url)
        for tab in (page, other):
            finished(tab)
            said = tab.inner_text("article.assistant .markdown")
            assert said.split() == ANSWER.split("</think>")[1].split()
        assert complaints == []


def test_stop_and_draft(browser: Browser, scripted: Scripted) -> None:
    scripted.engine.step_seconds = 0.03
    with watched_page(browser) as (page, complaints):
        page.goto(scripted.address)
        ask(page, "tell me")
        page.wait_for_selector("article.assistant .markdown")
        page.keyboard.press("Escape")
        finished(page)
        assert "Stopped." in page.inner_text("article.assistant")
        with page.expect_response(lambda answer: answer.request.method == "PATCH"):
            page.fill("textarea", "half a sen")
        page.reload()
        finished(page)
        assert page.input_value("textarea") == "half a sen"
        assert complaints == []


def test_an_edited_question_is_a_branch(browser: Browser, scripted: Scripted) -> None:
    with watched_page(browser) as (page, complaints):
        page.goto(scripted.address)
        ask(page, "first")
        finished(page)
        page.click("[aria-label='Edit and ask again']")
        page.fill(".edit textarea", "second")
        page.click(".edit .primary")
        page.wait_for_selector("article.user >> text=second")
        finished(page)
        page.click("article.user [aria-label='Previous version']")
        page.wait_for_selector("article.user >> text=first")
        assert complaints == []


def test_a_long_prompt_shows_how_it_is_read(browser: Browser, scripted: Scripted) -> None:
    scripted.engine.tokens_per_step, scripted.engine.step_seconds = 50, 0.1
    with watched_page(browser) as (page, complaints):
        page.goto(scripted.address)
        ask(page, "word " * 400)
        said = page.get_by_text(re.compile(r"[\d,]+ of [\d,]+ tokens read, [\d,]+ tokens/s"))
        said.wait_for()
        page.get_by_role("progressbar", name="How much of the prompt is read").wait_for()
        scripted.engine.tokens_per_step, scripted.engine.step_seconds = 100_000, 0.0
        finished(page)
        assert re.search(
            r"prompt [\d,]+ tokens at [\d,]+ tokens/s", page.inner_text("article.assistant")
        )
        assert complaints == []


TOOLS = [{"type": "function", "function": {"name": "weather", "description": "of a city"}}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def test_a_called_tool_is_shown_and_answered(browser: Browser, scripted: Scripted) -> None:
    scripted.answers.extend([CALL, "It rains."])
    with watched_page(browser) as (page, complaints):
        page.goto(scripted.address)
        page.click("[aria-label='Settings of this chat']")
        page.click("summary >> text=Tools")
        tools = page.locator("dialog details textarea")
        tools.fill("[{")
        tools.blur()
        page.locator("dialog .note.bad").wait_for()
        tools.fill(json.dumps(TOOLS))
        tools.blur()
        page.locator("dialog .note.bad").wait_for(state="detached")
        page.keyboard.press("Escape")
        ask(page, "and in Rome?")
        page.get_by_text("weather").first.wait_for()
        assert '"city": "Rome"' in page.inner_text("article.assistant .call")
        page.get_by_label("What weather returned").fill("<b>rain</b>")
        page.get_by_role("button", name="Send the results").click()
        page.locator("article.assistant .markdown >> text=It rains.").wait_for()
        assert "<b>rain</b>" in page.inner_text("article.tool")
        assert page.get_by_label("What weather returned").count() == 0
        page.reload()
        page.locator("article.assistant .markdown >> text=It rains.").wait_for()
        assert complaints == []


def test_the_gauge_warns_before_anything_is_sent(browser: Browser, scripted: Scripted) -> None:
    with watched_page(browser) as (page, _complaints):
        page.goto(scripted.address)
        page.fill("textarea", "word " * 6000)
        page.wait_for_selector(".gauge.full")
        assert scripted.engine.requests == []


def test_the_palette_goes_everywhere_by_keyboard(browser: Browser, scripted: Scripted) -> None:
    with watched_page(browser) as (page, complaints):
        page.goto(scripted.address)
        ask(page, "about furnaces")
        finished(page)
        page.keyboard.press("Control+Shift+o")
        page.wait_for_selector(".welcome")
        page.keyboard.press("Control+k")
        page.keyboard.type("furnace")
        page.wait_for_selector("[role=option] >> text=furnaces")
        page.keyboard.press("Enter")
        finished(page)
        assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(browser: Browser, scripted: Scripted, scheme: Any) -> None:
    with watched_page(browser, color_scheme=scheme) as (page, _complaints):
        page.goto(scripted.address)
        page.wait_for_selector(".welcome")
        assert barriers(page) == []
        ask(page, "tell me")
        finished(page)
        page.wait_for_timeout(200)  # colours change in steps
        assert barriers(page) == []
        page.click("[aria-label='Settings of this chat']")
        page.wait_for_selector("dialog")
        assert barriers(page) == []


def test_a_phone_shows_all_of_it(browser: Browser, scripted: Scripted) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with watched_page(browser, **phone) as (page, complaints):
        page.goto(scripted.address)
        ask(page, "tell me")
        finished(page)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390
        page.click("header [aria-label=Menu]")
        page.wait_for_selector("nav.shown")
        page.click("nav >> text=Compare")
        page.wait_for_selector("h1 >> text=Compare")
        assert complaints == []


def test_the_first_load_is_small_and_soon(browser: Browser, scripted: Scripted) -> None:
    with watched_page(browser) as (page, _complaints):
        loaded: list[str] = []
        page.on("response", lambda answer: loaded.append(answer.url))
        page.goto(scripted.address)
        page.wait_for_selector("textarea")
        ready_ms = page.evaluate("performance.now()")
        entry = "performance.getEntriesByName('first-contentful-paint')[0]"
        page.wait_for_function(entry)
        paint_ms = page.evaluate(f"{entry}.startTime")
        files = [FOLDER / url.removeprefix(scripted.address) for url in loaded if "/assets/" in url]
        size = sum(len(gzip.compress(file.read_bytes())) for file in files)
        print(
            f"first load {size} bytes compressed, paint {paint_ms:.0f} ms, ready {ready_ms:.0f} ms"
        )
        assert size < 400_000
        # The limits are 1 and 2 seconds on an idle machine; tests run beside others.
        assert paint_ms < 5_000
        assert ready_ms < 10_000


def test_behind_a_proxy_with_a_path_prefix_and_a_key(browser: Browser, tmp_path: Path) -> None:
    """As rented machines are reached: another address, a folder in front, a one-time link."""
    engine = ScriptedEngine(tiny_engine.tokenizer(), lambda _request: ANSWER)
    with served(engine) as serving:
        app, studio = studio_over(
            serving, tmp_path / "studio.db", keys=["a-key"], host="0.0.0.0", api_key="a-key"
        )
        studio.loading.state = LoadedState(state="ready", model="tiny", context=4096)

        async def proxy(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                assert scope["path"].startswith("/box/6006/"), scope["path"]
                path = scope["path"].removeprefix("/box/6006")
                headers = [(k, v) for k, v in scope["headers"] if k != b"host"]
                headers.append((b"host", b"box.example.org"))
                scope = {**scope, "path": path, "raw_path": path.encode(), "headers": headers}
            await app(scope, receive, send)

        with running(proxy) as address, watched_page(browser) as (page, complaints):  # type: ignore[arg-type]
            page.goto(f"{address}/box/6006/")
            page.wait_for_selector("input[type=password]")
            page.fill("input[type=password]", "wrong")
            page.keyboard.press("Enter")
            page.wait_for_selector(".note.bad")
            complaints.clear()  # the browser tells of the 401
            page.goto(f"{address}/box/6006/?link={studio.sessions.link}")
            ask(page, "tell me")
            finished(page)
            assert "link=" not in page.url
            page.reload()
            finished(page)
            assert complaints == []
        studio.database.close()


def test_the_enter_of_an_input_method_does_not_send(browser: Browser, scripted: Scripted) -> None:
    with watched_page(browser) as (page, complaints):
        page.goto(scripted.address)
        page.fill("textarea", "ni hao")
        # Safari ends the composition before the key arrives: only the key's old code tells.
        page.locator("textarea").evaluate(
            "field => field.dispatchEvent(new KeyboardEvent('keydown',"
            " { key: 'Enter', keyCode: 229, bubbles: true, cancelable: true }))"
        )
        assert page.locator("textarea").input_value() == "ni hao"
        page.keyboard.press("Enter")
        finished(page)
        assert page.locator("article.user").count() == 1
        assert complaints == []


def test_escape_closes_what_is_above_before_it_stops(browser: Browser, scripted: Scripted) -> None:
    scripted.engine.step_seconds = 0.03
    with watched_page(browser) as (page, complaints):
        page.goto(scripted.address)
        ask(page, "tell me")
        page.wait_for_selector("article.assistant .markdown")
        page.keyboard.press("Control+k")
        page.get_by_role("combobox", name="Search everything").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("combobox", name="Search everything").wait_for(state="detached")
        finished(page)
        assert "Stopped." not in page.inner_text("article.assistant")
        assert complaints == []


def test_the_chosen_hit_is_in_view(browser: Browser, scripted: Scripted) -> None:
    with watched_page(browser) as (page, complaints):
        page.goto(scripted.address)
        for number in range(12):
            body = {
                "chat": {"title": f"chat {number}", "messages": [{"role": "user", "content": "x"}]}
            }
            page.request.post(f"{scripted.address}studio/chats/import", data=body)
        page.keyboard.press("Control+k")
        page.get_by_role("option", name="chat 11").wait_for()
        page.keyboard.press("ArrowUp")  # from the first to the last
        hit = page.locator("[role=option][aria-selected=true]")
        assert hit.inner_text() == "chat 0"
        assert hit.evaluate(
            "hit => hit.getBoundingClientRect().bottom"
            " <= document.getElementById('hits').getBoundingClientRect().bottom + 1"
        )
        assert complaints == []


def test_a_wide_table_tears_no_word_apart(browser: Browser, scripted: Scripted) -> None:
    line = " | ".join(f"column{number}" for number in range(20))
    scripted.answers.append(f"| {line} |\n|{'---|' * 20}\n| {line} |\n")
    with watched_page(browser) as (page, complaints):
        page.goto(scripted.address)
        ask(page, "a table")
        finished(page)
        heights = page.locator(".markdown td").evaluate_all(
            "all => all.map(one => one.offsetHeight)"
        )
        assert len(heights) == 20
        assert max(heights) < 50  # one line
        assert complaints == []


def test_the_last_menu_opens_above_the_field(browser: Browser, scripted: Scripted) -> None:
    with watched_page(browser) as (page, complaints):
        page.route(
            "**/studio/voices",
            lambda route: route.fulfill(
                json=[
                    {
                        "id": f"voice{n}",
                        "name": f"voice {n}",
                        "base": "",
                        "fits": True,
                    }
                    for n in range(5)
                ]
            ),
        )
        page.goto(scripted.address)
        for count in (1, 2, 3, 4):
            ask(page, "tell me")
            finished(page, count)
        page.locator("article.assistant [aria-haspopup=menu]").last.click()
        page.wait_for_function(  # it is scrolled to, which takes a moment
            "() => [...document.querySelectorAll('[role=menuitem]')].at(-1)"
            ".getBoundingClientRect().bottom"
            " <= document.querySelector('.turns').getBoundingClientRect().bottom + 1"
        )
        assert complaints == []


def test_what_is_complete_stays_while_an_answer_goes_on(
    browser: Browser, scripted: Scripted
) -> None:
    """A long answer is not made anew at each word: that took the page's whole time."""
    scripted.engine.step_seconds = 0.03
    scripted.answers.append("```python\nx = 1\n```\n\n" + "one word after the other " * 6)
    with watched_page(browser) as (page, complaints):
        page.goto(scripted.address)
        ask(page, "tell me")
        page.get_by_text("one word").wait_for()
        page.locator(".markdown .code").evaluate("block => block.dataset.seen = 'yes'")
        finished(page)
        assert page.locator(".markdown .code").get_attribute("data-seen") == "yes"
        assert page.locator(".markdown .code-head button").count() == 1
        assert complaints == []


def test_what_is_pressed_twice_is_asked_once(browser: Browser, scripted: Scripted) -> None:
    with watched_page(browser) as (page, complaints):
        page.goto(scripted.address)
        press_twice = "button => { button.click(); button.click() }"
        page.locator(".tries button").first.evaluate(press_twice)
        finished(page)
        page.locator("[aria-label='Answer again']").evaluate(press_twice)
        page.wait_for_selector(".versions")
        finished(page)
        assert page.inner_text(".versions").split() == ["2/2"]
        assert len(page.request.get(f"{scripted.address}studio/chats").json()) == 1
        assert len(scripted.engine.requests) == 2
        assert complaints == []
