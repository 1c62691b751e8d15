"""The list of runs: only what has changed is read again, and the index may be lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.files.committed import discard
from danlu.runs.manifest import RUN_FILE
from danlu.runs.metrics import METRICS_FILE, Metrics
from danlu.web.database import Database
from danlu.web.runs import run_index
from danlu.web.runs.run_card import read_card
from danlu.web.runs.run_index import RunIndex
from tests.helpers.run_folders import step_record, write_run


class Reads(list[str]):
    """The runs whose folders were read."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path))
    for number in range(3):
        started = f"2026-11-0{number + 1}T10:00:00+00:00"
        records = [step_record(step, 3.0 - step / 10) for step in range(1, 6)]
        write_run(tmp_path / "runs-here" / f"run-{number}", records, started=started)
    return tmp_path


@pytest.fixture
def index(home: Path) -> Iterator[RunIndex]:
    database = Database(home / "studio.db")
    yield RunIndex(database)
    database.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    found = Reads()

    def counted(folder: Path, *rest: object) -> object:
        found.append(folder.name)
        return read_card(folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(run_index, "read_card", counted)
    return found


def test_the_newest_comes_first_with_its_losses(index: RunIndex) -> None:
    cards = index.cards()
    assert [card["name"] for card in cards] == ["run-2", "run-1", "run-0"]
    assert cards[0]["loss"] == 2.5
    assert cards[0]["step"] == 5
    assert cards[0]["spark"] == [2.9, 2.8, 2.7, 2.6, 2.5]


def test_only_what_has_changed_is_read_again(index: RunIndex, home: Path, reads: Reads) -> None:
    index.cards()
    assert sorted(reads) == ["run-0", "run-1", "run-2"]
    reads.clear()
    index.cards()
    assert reads == []
    Metrics(home / "runs-here" / "run-1").append(step_record(6, 1.0))
    cards = {card["name"]: card for card in index.cards()}
    assert reads == ["run-1"]
    assert cards["run-1"]["loss"] == 1.0


def test_a_lost_index_is_made_anew(index: RunIndex, home: Path, reads: Reads) -> None:
    cards = index.cards()
    index.note(cards[0]["id"], title="the best", note="")
    before = index.cards()
    reads.clear()
    assert index.rebuild() == 3
    assert len(reads) == 3
    assert index.cards() == before  # with the user's own words
    other = Database(home / "another.db")
    assert RunIndex(other).cards() == cards
    other.close()


def test_what_is_gone_leaves_the_list_and_the_index(index: RunIndex, home: Path) -> None:
    index.cards()
    discard(home / "runs-here" / "run-1")
    assert [card["name"] for card in index.cards()] == ["run-2", "run-0"]
    assert len(index._database.all("SELECT * FROM runs")) == 2


def test_a_damaged_run_hides_no_other(index: RunIndex, home: Path) -> None:
    (home / "runs-here" / "run-1" / RUN_FILE).write_text("{", encoding="utf-8")
    metrics = home / "runs-here" / "run-2" / METRICS_FILE
    metrics.write_text('{"step": 1, "loss": 9.0}\nno record\n{"step": 2, "loss"', encoding="utf-8")
    cards = {card["name"]: card for card in index.cards()}
    assert sorted(cards) == ["run-0", "run-2"]
    assert cards["run-2"]["loss"] == 9.0


def test_titles_and_notes_are_searched(index: RunIndex) -> None:
    cards = index.cards()
    index.note(cards[1]["id"], title="甲", note="with more rows")
    assert [card["name"] for card in index.cards("MORE rows")] == ["run-1"]
    assert [card["title"] for card in index.cards("甲")] == ["甲"]
    index.note(cards[1]["id"], title="", note=None)
    assert [card["title"] for card in index.cards("more rows")] == ["run-1"]


def test_a_run_whose_process_is_gone_has_died(index: RunIndex, home: Path) -> None:
    write_run(home / "runs-here" / "dead", state="running", ended="")
    assert index.cards("dead")[0]["state"] == "died"
