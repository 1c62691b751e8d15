"""What names mean: pulled models, folders, runs, adapters; two meanings are told, not guessed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from danlu.errors import UsageError
from danlu.hub.names import (
    STARTER,
    default_model,
    default_name,
    find_model_folder,
    model_folder,
    set_default_model,
)
from danlu.hub.store import complete_folder
from tests.helpers.models.model_folder import write_model_folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.fixture
def stored() -> Path:
    return write_model_folder(complete_folder("Qwen3-0.6B"))


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "qwen3-0.6b", "Qwen/Qwen3-0.6B"])
def test_a_pulled_model_is_found_from_everywhere(name: str, stored: Path) -> None:
    assert model_folder(name) == stored


def test_a_published_model_that_is_not_here_says_how_to_get_it() -> None:
    assert find_model_folder("Qwen/Qwen3-8B") is None
    with pytest.raises(UsageError) as fault:
        model_folder("Qwen/Qwen3-8B")
    assert fault.value.fix == "danlu pull Qwen3-8B"


def test_a_folder_here_of_that_name_is_taken_while_nothing_was_pulled(place: Path) -> None:
    (place / "here" / "Qwen3-8B").mkdir()
    assert model_folder("Qwen3-8B") == place / "here" / "Qwen3-8B"


def test_two_meanings_are_told_with_both_and_how_to_say_which(stored: Path, place: Path) -> None:
    here = place / "here" / "Qwen3-0.6B"
    here.mkdir()
    with pytest.raises(UsageError) as fault:
        model_folder("Qwen3-0.6B")
    assert str(here) in fault.value.why
    assert str(stored) in fault.value.why
    assert model_folder("./Qwen3-0.6B") == here
    assert model_folder(str(stored)) == stored
    here.rmdir()
    here.symlink_to(stored)  # both are one
    assert model_folder("Qwen3-0.6B") == stored


def test_the_default_is_the_starter_until_another_is_chosen(stored: Path, place: Path) -> None:
    assert default_model() == STARTER
    assert set_default_model("qwen/qwen3-0.6b") == "Qwen3-0.6B" == default_model()
    folder = write_model_folder(place / "here" / "mine")
    # A folder is kept whole, so that it is the same from any other one.
    assert set_default_model("mine") == str(folder) == default_model()
    assert set_default_model(STARTER) == STARTER == default_model()


def test_a_default_that_is_gone_is_said(stored: Path) -> None:
    set_default_model("Qwen3-0.6B")
    shutil.rmtree(stored)
    assert default_name() == "Qwen3-0.6B"
    with pytest.raises(UsageError) as fault:
        default_model()
    assert fault.value.fix == "danlu use starter"


def test_a_default_is_kept_as_text(stored: Path, place: Path) -> None:
    set_default_model("Qwen3-0.6B")
    (file,) = (place / "home").glob("*.json")
    assert json.loads(file.read_text("utf-8")) == {"model": "Qwen3-0.6B"}
