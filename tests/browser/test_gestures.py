"""What is done by hand and no form shows: dropping a file, moving a slider, pages side by side."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from danlu.cli.main import main
from danlu.web.models.loading import LoadedState
from danlu.web.training import planned_training
from tests.helpers.browser import chromium, watched_page
from tests.helpers.models import tiny_engine
from tests.helpers.page_words import words
from tests.helpers.serving.served import ScriptedEngine, running, served
from tests.helpers.source import ROOT
from tests.helpers.studio import studio_over
from tests.helpers.studio_program import StudioProgram

if TYPE_CHECKING:
    from playwright.sync_api import Browser

t = words("en")
HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script>"


@pytest.fixture(scope="module")
def trained(studio: StudioProgram) -> tuple[StudioProgram, str]:
    """A studio with a run that has learned three steps, and the run's id."""
    words = ["train", "--dataset", str(ROOT / "examples" / "identity.jsonl"), "--max_steps", "3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANLU_HOME", str(studio.home))
        assert main([*words, "--output_dir", str(studio.home / "fox"), "--report", "false"]) == 0
    return studio, studio.get("runs?search=")[0]["id"]


def test_a_file_is_dropped_on_the_page(browser: Browser, studio: StudioProgram) -> None:
    rows = json.dumps({"instruction": "Who?", "output": "Me."}) + "\n"
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/data")
        zone = page.get_by_role("region", name=t("data.drop"))
        carried = page.evaluate_handle(
            "text => { const data = new DataTransfer();"
            " data.items.add(new File([text], 'dropped.jsonl')); return data }",
            rows * 12,
        )
        zone.dispatch_event("dragover", {"dataTransfer": carried})
        page.wait_for_selector(".zone.over")
        zone.dispatch_event("drop", {"dataTransfer": carried})
        page.wait_for_url("**/#/data/*")
        page.get_by_role("heading", name="dropped.jsonl").wait_for()
        page.get_by_text(t("data.num_rows", rows=12)).first.wait_for()
        assert complaints == []


def test_all_bad_rows_are_left_out_by_one_press(browser: Browser, studio: StudioProgram) -> None:
    rows = [{"instruction": "Who?", "output": "Me."}] * 12 + [{"instruction": "x"}] * 3
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/data")
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name=t("data.choose_file")).click()
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        chooser.value.set_files(
            [{"name": "some.jsonl", "mimeType": "text/plain", "buffer": content}]
        )
        page.get_by_text(t("data.refuses", bad=3, rows=15)).wait_for()
        page.get_by_role("button", name=t("data.exclude_bad")).click()
        page.get_by_text(t("data.num_excluded", rows=3)).wait_for()
        page.locator(".verdict .note:not(.bad)").wait_for()
        assert complaints == []


def test_the_adapters_strength_is_moved_and_kept(
    browser: Browser, trained: tuple[StudioProgram, str]
) -> None:
    studio, run = trained
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/chat?voice=run:{run}")
        page.get_by_label(t("chat.settings")).click()
        slider = page.get_by_role("slider", name=t("chat.strength"))
        slider.focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Escape")
        page.fill("textarea", "Who are you?")
        page.keyboard.press("Enter")
        page.wait_for_selector("article.assistant .actions")
        chat = studio.get(f"chats/{page.url.split('/chat/')[1]}")
        assert chat["settings"]["strength"] == 0.05
        assert chat["turns"][1]["facts"]["strength"] == 0.05
        page.reload()
        page.get_by_label(t("chat.settings")).click()
        assert page.get_by_role("slider", name=t("chat.strength")).input_value() == "0.05"
        assert complaints == []


def test_answers_keep_the_names_of_those_who_gave_them(
    browser: Browser, trained: tuple[StudioProgram, str]
) -> None:
    studio, run = trained
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/compare?voices=base,run:{run}")
        page.get_by_label(t("compare.prompt")).fill("Who are you?")
        # Pressed twice, it is asked once.
        for _press in range(2):
            page.get_by_label(t("compare.prompt")).press("Enter")
        page.get_by_text(t("compare.vote")).wait_for()
        names = page.locator(".columns h3, .columns h2, .columns strong").all_inner_texts()
        assert names == ["starter", "fox"]
        page.get_by_label(t("compare.column", number=1)).select_option(f"run:{run}")
        assert page.locator(".columns h3, .columns h2, .columns strong").all_inner_texts() == names
        assert len(studio.get("compare")) == 1
        assert complaints == []


def test_names_and_notes_of_runs_are_text_and_seen_in_other_tabs(
    browser: Browser, trained: tuple[StudioProgram, str]
) -> None:
    studio, run = trained
    with watched_page(browser) as (page, complaints):
        page.clock.install()
        page.goto(f"{studio.address}#/runs")
        other = page.context.new_page()
        other.goto(f"{studio.address}#/runs/{run}")
        other.get_by_role("button", name=t("runs.edit")).click()
        for field in other.locator("dialog .input").all():
            field.fill(HOSTILE)
        other.get_by_role("button", name=t("shell.save")).click()
        other.get_by_role("heading", name=HOSTILE).wait_for()
        assert other.locator("#main img, #main script").count() == 0
        page.clock.fast_forward("00:30")  # where nothing goes on, the list looks now and then
        page.get_by_text(HOSTILE).first.wait_for()  # nobody has reloaded it
        assert page.locator("#main img, #main script").count() == 0
        assert complaints == []


def test_an_adapter_is_taken_home(
    browser: Browser, trained: tuple[StudioProgram, str], tmp_path: Path
) -> None:
    studio, run = trained
    with watched_page(browser) as (page, complaints):
        page.goto(f"{studio.address}#/runs/{run}")
        for name in (t("runs.download"), t("runs.download_step", step=3)):
            with page.expect_download() as download:
                # By key: while curves are still drawn above it, a link moves away below the mouse.
                page.get_by_role("link", name=name, exact=True).press("Enter")
            file = tmp_path / download.value.suggested_filename
            download.value.save_as(file)
            with zipfile.ZipFile(file) as archive:
                assert archive.testzip() is None
                names = {Path(inside).name for inside in archive.namelist()}
            assert names == {"adapter_config.json", "adapter_model.safetensors"}
        assert complaints == []


def test_a_loaded_model_makes_room_for_a_training(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chromium()
    monkeypatch.setenv("DANLU_HOME", str(tmp_path))
    # A tiny model takes nothing that counts.
    monkeypatch.setattr(planned_training, "kept_bytes", lambda _device: 3 << 30)
    engine = ScriptedEngine(tiny_engine.tokenizer(), lambda _request: "x")
    with served(engine) as serving:
        app, studio = studio_over(serving, tmp_path / "studio.db")
        studio.loading.state = LoadedState(state="ready", model="tiny", context=4096)
        with running(app) as address, watched_page(browser) as (page, complaints):
            page.goto(f"{address}/#/train")
            page.get_by_label(t("train.model")).select_option("starter")
            name = t("train.eject", model=serving.name, size="3.0 GiB")
            page.get_by_role("button", name=name).click()
            page.get_by_text(t("train.ejected")).wait_for()
            page.get_by_role("button", name=name).wait_for(state="detached")
            assert studio.server.serving is None
            assert studio.loading.state.state == "none"
            assert complaints == []
        studio.database.close()


def test_while_a_training_is_planned_nobody_is_told_to_choose_data(
    browser: Browser, studio: StudioProgram
) -> None:
    with watched_page(browser) as (page, complaints):
        page.route("**/training/plan", lambda _route: None)  # the planner takes its time
        page.goto(f"{studio.address}#/train")
        page.get_by_text(t("train.plan_working"), exact=True).wait_for()
        # Which data are chosen depends on what others have brought here before.
        assert page.locator("#main select").first.input_value()
        assert page.get_by_text(t("train.plan_wait")).count() == 0
        assert complaints == []
