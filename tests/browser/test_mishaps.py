"""What goes wrong at a user's: broken links, files dropped beside, runs that are gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.browser import watched_page
from tests.helpers.page_words import words
from tests.helpers.run_folders import step_record, write_run
from tests.helpers.studio_program import StudioProgram

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

t = words("en")
ROWS = "".join(json.dumps({"instruction": f"Who {n}?", "output": "Me."}) + "\n" for n in range(12))


def choose(page: Page, *names: str) -> None:
    """Choose files of rows on the page of data."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=t("data.choose_file")).click()
    buffer = ROWS.encode()
    chooser.value.set_files(
        [{"name": name, "mimeType": "text/plain", "buffer": buffer} for name in names]
    )


@pytest.mark.parametrize("id_of_run", ["gone", "100%"])
def test_a_link_to_nothing_leads_to_a_page_that_says_so(
    browser: Browser, studio: StudioProgram, id_of_run: str
) -> None:
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/runs/{id_of_run}")
        page.get_by_role("heading", name=t("runs.gone")).wait_for()
        page.get_by_role("link", name=t("runs.all")).click()
        page.get_by_role("heading", name=t("shell.runs"), exact=True).wait_for()
        assert all("400" in said or "404" in said for said in complaints), complaints


def test_what_a_press_could_not_do_is_said(browser: Browser, studio: StudioProgram) -> None:
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/compare/gone")
        page.locator(".toast.bad").wait_for()
        page.goto(f"{studio.address}#/compare/gone-as-well")
        page.get_by_role("alert").wait_for()
        assert page.locator(".toast").count() == 1  # the same sentence, once
        assert not [said for said in complaints if said.startswith("error:")]


def test_a_voice_that_is_gone_is_named_and_replaced(
    browser: Browser, studio: StudioProgram
) -> None:
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/chat?voice=run:gone")
        page.get_by_text("There is no such run.").wait_for()
        assert page.get_by_text("Shorten it", exact=False).count() == 0
        page.get_by_role("button", name=t("chat.go_on", model="starter")).click()
        page.get_by_role("alert").wait_for(state="detached")
        page.fill("textarea", "Who are you?")
        page.keyboard.press("Enter")
        page.wait_for_selector("article.assistant .actions")
        assert complaints == []


def test_an_upload_goes_on_while_another_page_is_shown(
    browser: Browser, studio: StudioProgram
) -> None:
    held: list[Route] = []
    with watched_page(browser) as (page, complaints):
        page.route("**/data/uploads?*", lambda route: held.append(route))
        page.goto(f"{studio.address}#/data")
        choose(page, "slow.jsonl")
        page.get_by_text(t("data.sending", name="slow.jsonl")).first.wait_for()
        page.goto(f"{studio.address}#/train")
        page.get_by_role("heading", name=t("shell.train"), exact=True).wait_for()
        page.goto(f"{studio.address}#/data")
        page.get_by_text(t("data.sending", name="slow.jsonl")).first.wait_for()
        page.goto(f"{studio.address}#/chat")
        held[0].continue_()
        page.get_by_text(t("data.uploaded", name="slow.jsonl")).wait_for()
        assert page.url.endswith("#/chat")
        assert complaints == []


def test_several_files_are_taken_at_once(browser: Browser, studio: StudioProgram) -> None:
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/data")
        choose(page, "first.jsonl", "second.jsonl")
        for name in ("first.jsonl", "second.jsonl"):
            page.get_by_role("link", name=name).first.wait_for()
        assert complaints == []


@pytest.mark.parametrize("name", ["data", "chat"])
def test_a_file_beside_its_zone_does_not_take_the_page_away(
    browser: Browser, studio: StudioProgram, name: str
) -> None:
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/{name}")
        page.wait_for_selector("#main h1")
        is_refused = page.evaluate(
            """() => {
                const dataTransfer = new DataTransfer()
                dataTransfer.items.add(new File(['x'], 'x.jsonl'))
                const how = { dataTransfer, bubbles: true, cancelable: true }
                const heading = document.querySelector('#main h1')
                const takes = (kind) => heading.dispatchEvent(new DragEvent(kind, how))
                return ['dragover', 'drop'].map((kind) => !takes(kind))
            }"""
        )
        assert is_refused == [True, True]
        assert complaints == []


def test_rows_that_are_refused_stay_in_their_field(browser: Browser, studio: StudioProgram) -> None:
    with watched_page(browser) as (page, complaints):
        page.route(
            "**/data/uploads?*",
            lambda route: route.fulfill(status=507, json={"error": {"message": "It is full."}}),
        )
        page.goto(f"{studio.address}#/data")
        page.get_by_role("button", name=t("data.paste")).click()
        page.locator("#pasted").fill(ROWS)
        page.get_by_role("button", name=t("data.paste_use")).click()
        page.get_by_text("pasted.jsonl: It is full.").wait_for()
        assert page.locator("#pasted").input_value() == ROWS
        assert all("507" in said for said in complaints), complaints


def test_findings_are_said_in_the_language_that_is_chosen_meanwhile(
    browser: Browser, studio: StudioProgram
) -> None:
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/data")
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name=t("data.choose_file")).click()
        buffer = (ROWS + '{"instruction": "cut\n').encode()
        chooser.value.set_files({"name": "cut.jsonl", "mimeType": "text/plain", "buffer": buffer})
        page.get_by_text("The line is not JSON").wait_for()
        page.get_by_role("button", name=t("shell.language")).click()
        page.get_by_text("The line is not JSON").wait_for(state="detached")
        page.get_by_role("button", name=words("zh")("data.row", number=13)).wait_for()
        assert complaints == []


def test_runs_that_are_too_many_to_lay_over_each_other_are_counted(
    browser: Browser, studio: StudioProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANLU_HOME", str(studio.home))
    runs = [write_run(studio.home / f"run{n}", [step_record(1, 2.0)]) for n in range(7)]
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/runs?with={','.join(runs)}")
        page.get_by_text(t("runs.overlay_most", shown=6, count=7)).wait_for()
        assert complaints == []


def test_pages_come_back_together_with_their_server(browser: Browser, tmp_path: Path) -> None:
    studio = StudioProgram(tmp_path / "home")
    with watched_page(browser) as (page, _complaints):
        page.goto(f"{studio.address}#/data")
        page.get_by_role("link", name="identity.jsonl").first.wait_for()
        other = page.context.new_page()
        other.goto(f"{studio.address}#/chat")
        other.wait_for_selector(".welcome")
        studio.stop()
        page.locator(".away").wait_for()
        page.goto(f"{studio.address}#/data/example")  # its files are here, its rows are not
        other.goto(f"{studio.address}#/runs")  # not even its files
        other.get_by_text(t("shell.broken_page")).wait_for()
        studio.start()
        page.get_by_role("heading", name="identity.jsonl").wait_for()
        other.get_by_text(t("runs.none")).wait_for()
        assert page.locator(".away").count() == 0
    studio.stop()
