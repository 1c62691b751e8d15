"""The demo's table, from a whole demo's training: every line of it can be shown with pride."""

from __future__ import annotations

import pytest

from danlu.dialog.assistant import Assistant
from danlu.workflows.demo import Demo, held_out_scores


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    demo = Demo(tmp_path_factory.mktemp("home"))
    with demo.started_over():
        list(demo.finetune().run())
    return demo.open_tuned()


def test_what_is_new_is_learned_and_what_was_right_stays(tuned: Assistant) -> None:
    for score in held_out_scores(tuned):
        assert score.after >= 0.95 * score.count, score
        assert score.after >= score.before - 1, score
        if score.kind.startswith("new"):
            assert score.before == 0, score
        else:
            assert score.before >= 0.95 * score.count, score
