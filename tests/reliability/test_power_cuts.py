"""A power cut at any moment: what was promised is there, whatever unsynced bytes and names did."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.errors import DataError
from danlu.files.committed import committed_folder, verify
from tests.helpers.faulty_disk import installed
from tests.helpers.figures import figure
from tests.helpers.training.crash_states import (
    RecordingDisk,
    Tree,
    crash_states,
    read_tree,
    write_tree,
)
from tests.helpers.training.run_scenarios import SCENARIOS, prepare, restart


def after_power_cuts(recording: RecordingDisk, place: Path, before: Tree) -> Iterator[object]:
    """Put each state that a power cut may leave in the place of `place`; yield what was promised.

    The states are counted once all have been looked at.
    """
    count = 0
    for tree, promised in crash_states(recording.log, place, before):
        shutil.rmtree(place)
        write_tree(place, tree)
        yield promised
        count += 1
    figure("states after a power cut", count)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_power_cut_leaves_the_old_or_the_new_and_what_was_promised(
    tmp_path: Path, name: str
) -> None:
    scenario = SCENARIOS[name]
    place, run = tmp_path / "disk", tmp_path / "disk" / "run"
    prepare(run)
    before, old = read_tree(place), scenario.state(run)
    recording = RecordingDisk()
    with installed(recording):
        scenario.act(run)
    new = scenario.state(run)
    recording.promise("new")
    for promised in after_power_cuts(recording, place, before):
        restart(run)
        state = scenario.state(run)
        assert state == new if promised else state in (old, new)


def test_folders_made_on_the_way_to_a_result_stay(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    recording = RecordingDisk()
    with installed(recording), committed_folder(place / "new" / "deep" / "result") as draft:
        draft.write("a", b"content")
    recording.promise("there")
    for promised in after_power_cuts(recording, place, {}):
        if promised:
            verify(place / "new" / "deep" / "result")


@pytest.mark.parametrize("forgotten", ["sync", "sync_folder"])
def test_a_forgotten_sync_would_be_found(tmp_path: Path, forgotten: str) -> None:
    """The states are hard enough to tell code that syncs from code that does not."""
    place = tmp_path / "disk"
    place.mkdir()
    recording = RecordingDisk()
    with installed(recording), committed_folder(place / "result") as draft:
        draft.write("a", b"content")
    recording.promise("there")
    log = [entry for entry in recording.log if entry[0] != forgotten]
    damage = []
    for number, (tree, promised) in enumerate(crash_states(log, place, {})):
        try:
            if promised:
                verify(write_tree(tmp_path / f"{number}", tree) / "result")
        except DataError as problem:
            damage.append(problem)
    assert damage
